"""The curl lines of docs/api.md do what they show, against two real nodes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.people_rig import make_token
from tests.integration.shared_pair import running_pair, sessions, wait_until
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node, TwoNodes

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
JOB = "147d5f05079fdd340615ddc27cc44d40"
SHOWN = (
    ("POST", "/api/admin/sync/full-sync"),
    ("GET", "/api/sync/backup-progress"),
    ("POST", "/api/sync/safe"),
    ("GET", "/api/sync/history"),
    ("DELETE", "/api/sync/history"),
    ("GET", "/api/sync/statistics"),
    ("POST", "/api/sync/initiate-backup"),
    ("POST", "/api/sync/receive-backup"),
    ("POST", "/api/sync/restore-backup"),
)


def examples() -> list[str]:
    """Each command that begins with curl, its continued lines joined."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", PAGE.read_text(), re.M | re.S):
        text = block.replace("\\\n", " ").replace("\n    ", " ")
        found += [line for line in text.splitlines() if line.startswith("curl ")]
    return found


def method(example: str) -> str:
    given = re.search(r"-X (\w+)", example)
    return given[1] if given else "POST" if " -d " in example else "GET"


@pytest.fixture
def pair(clusters: GetCluster, tmp_path: Path) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path, suffix="examples") as both:
        both.source.database.psql("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items "
                                  "SELECT generate_series(1, 50)")  # fmt: skip
        yield both


def typed(example: str, node: Node, peer: Node, token: str) -> str:
    """As a reader types it: with own sockets, ports, certificates, jobs and a token."""
    jobs = [view["id"] for view in sessions(node)]
    job = jobs[0] if jobs else JOB
    line = example.replace("/run/peersync/peersync.sock", str(node.home / "s"))
    line = line.replace("/var/lib/peersync", str(node.home / "state"))
    line = line.replace("server-a:8791", peer.listen).replace("psy_…", token)
    return line.replace("127.0.0.1:8790", node.admin).replace(JOB, job).replace(JOB[:8], job[:8])


def test_every_curl_line_of_the_page_works(pair: TwoNodes) -> None:
    node, token = pair.target, make_token(pair.target)
    ran = []
    for example in examples():
        line = typed(example, node, pair.source, token)
        command = f"{line} -sS -w '\\n%{{http_code}}'"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        body, _, status = done.stdout.rpartition("\n")
        assert status in ("200", "202"), f"{line}\n{done.stdout}"
        if "/events" in example:
            assert "event: progress" in body
        else:
            json.loads(body.rpartition("\n\n")[2])
        ran.append((method(example), re.sub(r"^.*https?://[^/]+(/[^?' ]*).*$", r"\1", example)))
        wait_until(lambda: all(view["completed_at"] for view in sessions(node)))
    assert set(SHOWN) <= set(ran)
    assert len(ran) >= 9
    assert node.database.psql("SELECT count(*) FROM items") == "50"
