"""Watching and status from both sides: what runs, what has ended, and what was given away."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import IO

import pytest

from tests.integration.shared_pair import held, running_pair, sessions, terminal, wait_until
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes
from tests.plugins.waiting import LIMIT_S

ROWS = "SELECT i, md5(i::text) FROM generate_series(1, 200000) i"
TABLE = "DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, v text);"


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("watching"), suffix="watching") as both:
        both.source.database.psql(f"{TABLE} INSERT INTO items {ROWS}; ANALYZE")
        yield both


@pytest.fixture
def target(pair: TwoNodes) -> Iterator[Node]:
    pair.target.database.psql(f"{TABLE} ANALYZE items")
    pair.target.env["PEERSYNC_PROGRESS_INTERVAL"] = "0.3"
    yield pair.target
    pair.target.env.clear()


def popen(node: Node, *arguments: str) -> subprocess.Popen[bytes]:
    return node.popen(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )


def first_line(stream: IO[bytes] | None) -> bytes:
    """It watches from here on."""
    assert stream is not None
    return stream.readline()


def rest(process: subprocess.Popen[bytes], *, first: bytes = b"") -> tuple[bytes, bytes]:
    """stdout and stderr to the end; `first` was read of stderr before."""
    assert process.stdout is not None and process.stderr is not None
    with process:
        err = first + process.stderr.read()
        return process.stdout.read(), err


def waits_at_its_end(node: Node) -> bool:
    """Whether a sync has done all that it can do while the rows are held."""
    return (
        node.database.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() AND application_name LIKE 'peersync/restore/%'"
        )
        != "0"
    )


def progress_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("shop ")]


# --- status, on the node that gives -----------------------------------------------------------
def test_a_node_that_gives_is_fine_and_says_what_it_gave(pair: TwoNodes, target: Node) -> None:
    source = pair.source
    with held(target) as release:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        wait_until(lambda: bool(sessions(source)))
        status = source.run("status")
        assert "server-b is taking shop from here." in status.out
        history = next(line for line in source.run("history").out.splitlines() if job[:8] in line)
        assert not re.search(r"(?<![0-9.])0 s", history), history
        release()
        target.run("jobs", "watch", job)
    wait_until(lambda: sessions(source)[0]["state"] == "done")
    status = source.run("status")
    assert re.match(r"shop was given to server-b (\d+ s ago|just now)\.", status.out), status.out
    assert "never" not in status.out
    assert "peersync pull" not in status.out
    told = source.run("status", "--json").json
    assert (told["fine"], told["links"][0]["state"]) == (True, "given")
    assert told["links"][0]["last_given"] is not None


def test_two_nodes_that_never_synced_offer_both_directions(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    first, second = make_node("first", make_database()), make_node("second", make_database())
    second.pair_with(first)
    status = second.run("status", check=False)
    assert status.code == 1
    assert "shop was never synced with first." in status.out
    assert "to take it once: peersync pull first --database shop" in status.out
    assert "on first: peersync pull second --database shop" in status.out


# --- time --------------------------------------------------------------------------------------
def test_time_counts_from_the_beginning_through_a_restart(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    source, target = make_node("server-a", make_database()), make_node("server-b", make_database())
    target.pair_with(source)
    source.database.psql(f"{TABLE} INSERT INTO items {ROWS}; ANALYZE")
    target.database.psql(TABLE)
    with held(target) as release:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        time.sleep(2.5)
        watching = popen(target, "jobs", "watch", job, "--progress", "plain")
        first = first_line(watching.stderr)
        target.kill()
        target.start()
        release()
        out, err = rest(watching, first=first)
    assert watching.returncode == 0, err
    assert progress_lines(err.decode())[-1] == "shop from server-a: done, 100 %, resumed 1×"
    assert re.search(r" in (\d+|[2-9]\.\d) s, resumed 1× \(since then: ", out.decode()), out
    view = target.run("jobs", "show", job, "--json").json
    assert view["progress"]["elapsed_s"] >= 2.5
    assert max(view["seconds"].values()) < view["progress"]["elapsed_s"]
    watched = target.run("jobs", "watch", job, "--json").json
    assert watched["elapsed_s"] == view["progress"]["elapsed_s"]


def test_the_end_of_a_job_stays_where_it_was(target: Node) -> None:
    job = target.pull("server-a").json["session"]
    first = target.run("jobs", "show", job, "--json").json
    time.sleep(1.1)
    again = target.run("jobs", "show", job, "--json").json
    assert first["completed_at"] == again["completed_at"]
    assert first["progress"]["updated_at"] == again["progress"]["updated_at"]


# --- watching ----------------------------------------------------------------------------------
def test_two_watchers_see_the_same_end_and_the_later_one_not_the_past(target: Node) -> None:
    with held(target) as release:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        wait_until(lambda: waits_at_its_end(target))
        time.sleep(2.5)  # nothing moves any more: no time left can be told from it
        plain = popen(target, "jobs", "watch", job, "--progress", "plain")
        lines = popen(target, "jobs", "watch", job, "--progress", "json")
        first = b"".join(first_line(plain.stderr) for _ in range(4))
        first_told = first_line(lines.stdout)
        release()
        _, err = rest(plain, first=first)
        told, _ = rest(lines)
        told = first_told + told
    assert (plain.returncode, lines.returncode) == (0, 0)
    shown = progress_lines(err.decode())
    assert not any("backup" in line for line in shown), shown
    assert not any("left" in line for line in shown[:-3]), "it stood still, waiting for a lock"
    assert shown[-1] == "shop from server-a: done, 100 %"
    records = [json.loads(line) for line in told.splitlines()]
    assert [r["progress"]["state"] for r in records[:-1]][-1] == "done"
    for record in records[:-1]:
        percent = record["progress"]["percent"]
        assert (percent == 100) is (record["progress"]["state"] == "done")
        assert percent is None or percent <= 99 or record["progress"]["state"] == "done"
    assert records[-1]["result"] == "done"


def test_an_ended_job_is_told_in_one_line(target: Node) -> None:
    job = target.pull("server-a").json["session"]
    watched = target.run("jobs", "watch", job, "--progress", "plain")
    assert progress_lines(watched.err) == ["shop from server-a: done, 100 %"]


def test_a_job_that_ends_as_partly_says_so_last_and_indents_its_error(
    pair: TwoNodes, target: Node
) -> None:
    target.database.psql(
        "ALTER TABLE items ADD CONSTRAINT odd CHECK (id <> 7);"
        "DROP TABLE IF EXISTS other; CREATE TABLE other (id int PRIMARY KEY)"
    )
    source = pair.source.database
    source.psql("CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")
    try:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        watched = target.run("jobs", "watch", job, "--progress", "plain", check=False)
    finally:
        source.psql("DROP TABLE other")
    assert watched.code == 3
    assert progress_lines(watched.err)[-1] == "shop from server-a: partly, 100 %"
    assert r"\x0a" not in watched.err
    assert re.search(r'public\.items: .*"odd"\n    Failing row contains', watched.err), watched.err
    again = target.run("jobs", "watch", job, "--progress", "plain", check=False)
    assert (again.code, progress_lines(again.err)) == (3, ["shop from server-a: partly, 100 %"])


# --- terminals ---------------------------------------------------------------------------------
def test_a_narrow_terminal_shows_all_five_lines_whole(target: Node) -> None:
    target.env["COLUMNS"] = "40"
    with held(target) as release, terminal(target, "pull", "server-a", "--yes") as tty:
        tty.wait_for("▏", LIMIT_S)  # what is under way has a bar, and stays under way until then
        release()
        assert tty.end() == 0
    picture = [line for line in tty.screen if re.match(r" (\d [a-z]|overall)", line)]
    assert len(picture) == 6, tty.screen
    assert all(len(line) <= 40 for line in picture)
    assert re.search(r"▏ +\d+ % ", tty.raw)
    assert "…" not in "".join(picture)


@pytest.mark.parametrize("environ", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}])
def test_a_terminal_without_utf8_is_drawn_in_ascii(target: Node, environ: dict[str, str]) -> None:
    target.env.update(environ)
    with terminal(target, "pull", "server-a", "--yes") as tty:
        assert tty.end() == 0
    assert tty.raw.isascii(), tty.raw
    assert r"\u" not in tty.raw
    assert any(line.startswith(" 1 backup    ok") for line in tty.screen), tty.screen
    for command in (("history",), ("status",), ("history", "--json"), ("jobs", "list")):
        assert target.run(*command).out.isascii()
