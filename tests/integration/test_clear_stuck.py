"""scripts/clear-stuck-sync: closes what nobody runs, and leaves alone what lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.shared_pair import held, running_pair, sessions, wait_until
from tests.plugins.clusters import GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, Result, TwoNodes

SCRIPT = Path(__file__).parents[2] / "scripts" / "clear-stuck-sync"
STAGES = (
    "SELECT count(*) FROM pg_class WHERE relkind = 'r' "
    "AND relnamespace = 'peersync'::regnamespace AND relname LIKE 'stage\\_%'"
)
# A record that was written just now is watched for seconds, whether somebody still writes it.
LONG_AGO = "UPDATE peersync.full_sync_sessions SET updated_at = updated_at - interval '1 hour'"
FOUND = "nobody runs it"


def clear(node: Node, *arguments: str) -> Result:
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--config", node.config, *arguments],
        capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name != "PEERSYNC_CONFIG"},
    )  # fmt: skip
    assert "Traceback" not in ran.stderr
    return Result(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def pair(clusters: GetCluster, tmp_path: Path) -> Iterator[TwoNodes]:
    """server-b has `items`; `fresh` is only on server-a, so a pull creates it."""
    with running_pair(clusters, tmp_path, suffix="stuck") as both:
        for node in both:
            node.database.psql("CREATE TABLE items (id int PRIMARY KEY, v text)")
        both.source.database.psql(
            "INSERT INTO items VALUES (1, 'theirs'); CREATE TABLE fresh (id int PRIMARY KEY);"
            "INSERT INTO fresh SELECT generate_series(1, 100)"
        )
        yield both


def begun(target: Node) -> str:
    """A pull that waits at its end, with all that it leaves behind if it dies there."""
    job = target.run("pull", "server-a", "--yes", "--no-wait", "-q").out.strip()
    database = target.database
    wait_until(lambda: database.psql(STAGES) != "0")
    wait_until(lambda: database.psql("SELECT to_regclass('public.fresh') IS NOT NULL") == "t")
    wait_until(lambda: database.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0")
    return job


def open_record(node: Node, session: str, target: str) -> None:
    """As an agent on `target` leaves it, when it dies before it has created anything."""
    node.database.psql(
        "INSERT INTO peersync.full_sync_sessions (session_id, role, action, database_name, "
        "peer_id, peer_name, requested_by, state, phase, plan, started_at, updated_at) VALUES "
        f"('{session}', 'target', 'pull', 'shop', 'x', 'server-a', 'me', 'running', 'restore', "
        f"""'{{"target": "{target}"}}', now() - interval '2 days', now() - interval '1 day')"""
    )


def state(node: Node, session: str) -> str:
    return node.database.psql(
        f"SELECT state FROM peersync.full_sync_sessions WHERE session_id = '{session}'"
    )


def test_what_a_lost_agent_left_is_closed_and_dropped(pair: TwoNodes) -> None:
    target = pair.target
    with held(target):
        job = begun(target)
        target.kill()
        spool = target.spool / "taken" / job
        assert spool.is_dir()
        stages = target.database.psql(STAGES)
        target.database.psql(LONG_AGO)

        looked = clear(target, "--dry-run")
        assert looked.code == 0
        for word in (job, FOUND, "staging table peersync.stage_", "public.fresh", str(spool)):
            assert word in looked.out
        assert (target.database.psql(STAGES), state(target, job)) == (stages, "running")
        assert spool.is_dir()

        unasked = clear(target)
        assert (unasked.code, "--yes" in unasked.err) == (2, True)
        assert state(target, job) == "running"

        done = clear(target, "--yes", "--session", job[:8])
        assert done.code == 0, done.err
        assert f"job {job[:8]} is closed as failed" in done.err
        assert f"{stages} staging tables" in done.err
    assert (target.database.psql(STAGES), state(target, job)) == ("0", "failed")
    assert target.database.psql("SELECT to_regclass('public.fresh') IS NULL") == "t"
    assert not spool.exists()
    assert "no sync is stuck" in clear(target, "--yes").err

    target.start()
    told = sessions(target)
    assert [(view["id"], view["state"], view["resumable"]) for view in told] == [
        (job, "failed", False)
    ]
    assert "cleared by hand" in told[0]["error"]["message"]
    assert target.pull("server-a").json["result"] == "done"
    assert target.database.psql("SELECT count(*) FROM fresh") == "100"


def test_a_sync_that_runs_is_named_and_left_alone(pair: TwoNodes, make_node: MakeNode) -> None:
    target = pair.target
    elsewhere = make_node("server-c", target.database, start=False)
    with held(target) as release:
        job = begun(target)
        for node in (target, elsewhere):
            refused = clear(node, "--yes")
            assert refused.code == 6
            assert "left alone" in refused.err
            for word in (job, "node server-b", f"pid {target.process.pid}"):  # type: ignore[union-attr]
                assert word in refused.err
        told = clear(target, "--dry-run", "--json").json["syncs"]
        assert [(sync["session"], sync["result"]) for sync in told] == [(job, "alive")]
        release()
    assert target.run("jobs", "watch", job, "--json").json["result"] == "done"


def test_a_sync_whose_record_is_still_written_is_left_alone(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database(), start=False)
    session = "ab" * 16
    open_record(node, session, "alone")
    with writing(node, session):
        refused = clear(node, "--yes")
        assert (refused.code, "still writing its progress" in refused.err) == (6, True)
        assert state(node, session) == "running"
    time.sleep(0.5)
    assert clear(node, "--yes").code == 0
    assert state(node, session) == "failed"


@contextmanager
def writing(node: Node, session: str) -> Iterator[None]:
    """An agent far away that is between two attempts: without the lease, and alive."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(node.database.conninfo(), autocommit=True) as connection:
            while not stop.wait(1.0):
                connection.execute(
                    "UPDATE peersync.full_sync_sessions SET updated_at = clock_timestamp() "
                    "WHERE session_id = %s AND completed_at IS NULL",
                    (session,),
                )

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(1.5)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_running_agent_is_not_disturbed_and_another_nodes_sync_is_closed(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    node = make_node("alone", make_database())
    dead, other = "cd" * 16, "ce" * 16
    for session in (dead, other):
        open_record(node, session, "a-machine-that-is-gone")
    unclear = clear(node, "--yes", "--session", "c")
    assert (unclear.code, "could be 2 syncs" in unclear.err) == (2, True)
    assert clear(node, "--yes", "--session", "ffff").code == 2
    told: list[dict[str, Any]] = json.loads(
        clear(node, "--yes", "--session", dead[:4], "--json").out
    )["syncs"]
    assert [(sync["session"], sync["result"], sync["ended_as"]) for sync in told] == [
        (dead, "cleared", "failed")
    ]
    assert (state(node, dead), state(node, other)) == ("failed", "running")
    assert {view["id"]: view["state"] for view in sessions(node)}[dead] == "failed"


def test_without_a_configuration_it_says_what_is_missing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--config", tmp_path / "none.toml", "--dry-run"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 7
    assert "none.toml" in ran.stderr
