"""Progress as it is seen: lines, JSON, a bar on a terminal, events, and both agents alike."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from peersync.core.errors import NotFound
from peersync.core.progress import Progress
from peersync.transport.local import AgentClient
from peersync.transport.sse import Event
from tests.integration.shared_pair import held, running_pair, terminal, wait_until
from tests.plugins.clusters import GetCluster
from tests.plugins.nodes import Node, TwoNodes
from tests.plugins.waiting import LIMIT_S

BIG = "SELECT i, md5(i::text) || md5((i + 1)::text) FROM generate_series(1, 400000) i"  # 30 MB
STEPS = ["backup", "transfer", "convert", "restore", "verify"]


@pytest.fixture(scope="module")
def pair(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with running_pair(clusters, tmp_path_factory.mktemp("progress"), suffix="progress") as both:
        both.source.database.psql(
            f"CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items {BIG}; ANALYZE"
        )
        yield both


@pytest.fixture
def target(pair: TwoNodes) -> Node:
    """The table is there and empty, so that it can be held; nothing would be overwritten."""
    pair.target.database.psql(
        "DROP TABLE IF EXISTS items; CREATE TABLE items (id int PRIMARY KEY, v text); ANALYZE items"
    )
    return pair.target


def json_lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def percents(lines: list[dict[str, Any]]) -> list[float | None]:
    return [line["progress"]["percent"] for line in lines if line.get("type") == "progress"]


def test_json_lines_never_run_backwards_begin_unknown_and_end_with_the_result(
    target: Node,
) -> None:
    target.env["PEERSYNC_PROGRESS_INTERVAL"] = "0"
    shown = target.run("pull", "server-a", "--progress", "json")
    *lines, last = json_lines(shown.out)
    assert all(line["schema_version"] == 1 for line in [*lines, last])
    assert (last["result"], last["rows"]["inserted"]) == ("done", 400_000)
    seen = percents(lines)
    # not known at first, where anybody looks so early
    assert seen == sorted(seen, key=lambda percent: -1.0 if percent is None else percent)
    assert seen[-1] == 100.0
    for line in lines:
        progress = line["progress"]
        done = all(s["state"] in ("done", "skipped") for s in progress["steps"])
        assert progress["percent"] != 100.0 or done
        assert [s["name"] for s in progress["steps"]] == STEPS
    final = lines[-1]["progress"]
    assert final["state"] == "done"
    assert final["rows"] == 400_000
    assert final["raw_bytes"] > 25_000_000
    assert 0 < final["wire_bytes"] < final["raw_bytes"]


def test_plain_says_a_line_for_each_step_and_each_interval(target: Node) -> None:
    target.env["PEERSYNC_PROGRESS_INTERVAL"] = "3600"
    rare = target.run("pull", "server-a", "--progress", "plain")
    lines = [line for line in rare.err.splitlines() if line.startswith("shop from server-a: ")]
    steps = [m[1] for line in lines if (m := re.search(r"\d/5 (\w+)", line))]
    assert len(steps) == len(set(steps))
    assert lines[-1] == "shop from server-a: done, 100 %"
    assert "\x1b" not in rare.out + rare.err

    target.env["PEERSYNC_PROGRESS_INTERVAL"] = "0.5"
    with held(target) as release:
        process = target.run("pull", "server-a", "--yes", "--no-wait", "-q")
        job = process.out.strip()
        begun = time.monotonic()

        watching = target.popen(
            "jobs", "watch", job, "--progress", "plain",
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert watching.stderr is not None
        err = b"".join(watching.stderr.readline() for _ in range(6))
        release()
        with watching:
            err += watching.stderr.read()
        took = time.monotonic() - begun
    frequent = [line for line in err.decode().splitlines() if line.startswith("shop from")]
    assert 4 <= len(frequent) <= took / 0.5 + len(STEPS) + 3


def test_a_terminal_has_five_lines_that_are_drawn_in_place(target: Node) -> None:
    target.env.pop("PEERSYNC_PROGRESS_INTERVAL", None)
    with terminal(target, "pull", "server-a", "--yes") as tty:
        assert tty.end() == 0
    assert "\x1b[" in tty.raw
    screen = tty.screen
    first = next(n for n, line in enumerate(screen) if line.startswith(" 1 backup"))
    for number, (name, line) in enumerate(zip(STEPS, screen[first:], strict=False), start=1):
        assert re.match(rf" {number} {name} +✔ +[0-9.]+ ", line), "\n".join(screen)
    assert screen[first + 5].startswith(" overall 100 %")
    assert sum(line.startswith(" 1 backup") for line in screen) == 1
    shown = [int(found) for found in re.findall(r"overall (\d+) %", tty.raw)]
    assert shown == sorted(shown)


async def _progress(node: Node, session: str) -> Progress:
    async with AgentClient(node.home / "s") as agent:
        return await agent.get("/api/sync/backup-progress", Progress, params={"session": session})


async def _events(node: Node, job: str, after: str | None = None) -> list[Event]:
    async with AgentClient(node.home / "s") as agent:
        return [e async for e in agent.events(f"/api/admin/jobs/{job}/events", after=after)]


def _figures(progress: Progress) -> tuple[object, ...]:
    return (
        progress.session, progress.raw_bytes, progress.wire_bytes, progress.rows,
        [(s.name, s.state, s.done, s.total) for s in progress.steps],
    )  # fmt: skip


@pytest.mark.may_block("the test's own commands")
async def test_both_agents_tell_the_same_numbers_and_events_are_replayed(
    pair: TwoNodes, target: Node
) -> None:
    with held(target) as release:
        job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
        deadline = time.monotonic() + LIMIT_S
        while True:  # it waits at its end: the numbers stand still, and the report follows
            here, there = await _progress(target, job), None
            with contextlib.suppress(NotFound):  # the source has heard nothing yet
                there = await _progress(pair.source, job)
            if there and here.rows == 400_000 and _figures(here) == _figures(there):
                break
            assert time.monotonic() < deadline, (here, there)
            time.sleep(0.2)
        assert here.percent == there.percent
        release()
        events = await _events(target, job)
    decoded = [msgspec.json.decode(e.data, type=Progress) for e in events]
    assert decoded[-1].state == "done"
    known = [p.percent for p in decoded if p.percent is not None]
    assert known == sorted(known)
    half = len(events) // 2
    assert await _events(target, job, after=events[half].id) == events[half + 1 :]
    wait_until(lambda: target.run("jobs", "show", job, "--json").json["state"] == "done")
    ended = await _progress(pair.source, job)
    assert (ended.state, ended.percent) == ("done", 100.0)
    assert _figures(ended) == _figures(await _progress(target, job))
