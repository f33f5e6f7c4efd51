"""A link that can't go on says why, with what helps, and nothing else stops with it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.integration.periodic_rig import QUICK, make_group, wait_equal, wait_until
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes


def link_of(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.run("lag", "--json", check=False).json["links"][0]
    return found


def pair(make_database: MakeDatabase, make_node: MakeNode, env: dict[str, str]) -> list[Node]:
    """Two nodes; `env` is that of server-a."""
    a = make_node("server-a", make_database(18), env=env)
    b = make_node("server-b", make_database(18, nth=1), env=QUICK)
    b.pair_with(a)
    return [a, b]


def test_the_loop_can_be_a_process_of_its_own_but_only_one(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    a, b = pair(make_database, make_node, {**QUICK, "PEERSYNC_PERIODIC_ENABLED": "false"})
    make_log = (tmp_path / "periodic.log").open("wb")
    with make_log, a.popen("periodic", stdout=make_log, stderr=make_log) as process:
        try:
            make_group(a, b)
            b.database.psql("INSERT INTO t VALUES (1, 'from b')")
            wait_equal(a, b)
            a.database.psql("INSERT INTO t VALUES (2, 'from a')")
            wait_equal(a, b)
            a.run("sync", "now", "--wait")
            assert link_of(a)["state"] == "in sync"
            second = a.run("periodic", check=False)
            assert second.code == 6
            assert f"node server-a, pid {process.pid}" in second.err
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        except BaseException:
            process.kill()
            print((tmp_path / "periodic.log").read_text())
            raise
    deadline = time.monotonic() + 20
    while (link := link_of(a))["state"] != "failed":  # for a moment it could be about to begin
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "no process runs" in link["problem"]


def test_a_loop_in_the_agent_refuses_a_second_one(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_group(a, b)
    assert a.process is not None
    wait_until("it runs", lambda: "periodic sync runs" in a.log)
    second = a.run("periodic", check=False)
    assert second.code == 6
    assert f"node server-a, pid {a.process.pid}" in second.err


def test_a_database_behind_what_it_has_sent_is_held_at_the_start(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_group(a, b)
    a.database.psql("INSERT INTO t VALUES (1, 'one')")
    wait_equal(a, b)
    a.run("sync", "now", "--wait")
    a.stop()
    a.database.psql(  # what a restore of an older backup leaves
        "UPDATE peersync.member SET applied = 0 WHERE origin = 1000;"
        "UPDATE peersync.replica SET position = 0; DELETE FROM peersync.transaction;"
        "DELETE FROM t"
    )
    a.start()
    assert_held(a, b)
    assert b.database.psql("SELECT v FROM t") == "one"


def test_a_database_of_which_a_peer_knows_more_than_it_does_is_held(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_group(a, b)
    b.database.psql("UPDATE peersync.member SET applied = 50 WHERE origin = 1000")
    a.database.psql("INSERT INTO t VALUES (1, 'one')")
    assert_held(a, b)


def assert_held(held: Node, other: Node) -> None:
    state = "SELECT state FROM peersync.replica"
    wait_until("it is held", lambda: held.database.psql(state) == "held")
    link = link_of(held)
    assert link["state"] == "failed"
    assert "older than" in link["problem"]
    assert "peersync rebaseline" in link["hint"]
    there = link_of(other)
    assert (there["state"], "held" in there["problem"]) == ("failed", True)


def test_a_row_that_an_application_holds_is_waited_for_and_its_holder_named(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    a, b = pair(make_database, make_node, {**QUICK, "PEERSYNC_PERIODIC_LOCK_TIMEOUT_S": "0.3"})
    make_group(a, b)
    b.database.psql("INSERT INTO t VALUES (1, 'one')")
    wait_equal(a, b)
    conninfo = a.database.conninfo() + " application_name=till"
    with psycopg.connect(conninfo) as application:
        application.execute("UPDATE t SET v = 'mine' WHERE id = 1")
        b.database.psql("UPDATE t SET v = 'theirs' WHERE id = 1")
        wait_until("the link says so", lambda: "till" in (link_of(a)["problem"] or ""))
        a.database.psql("INSERT INTO t VALUES (2, 'not held up')")
        wait_until("the other way goes on", lambda: b.database.psql("SELECT 1 FROM t WHERE id = 2"))
    wait_equal(a, b)
    assert a.database.psql("SELECT v FROM t WHERE id = 1") == "mine"
    wait_until("it is well again", lambda: link_of(a)["state"] == "in sync")
    assert "works again after" in a.log


def test_clocks_too_far_apart_hold_the_link(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    strict = {**QUICK, "PEERSYNC_PERIODIC_MAX_CLOCK_OFFSET_S": "0.0000001"}
    a, b = pair(make_database, make_node, strict)
    make_group(a, b)
    b.database.psql("INSERT INTO t VALUES (1, 'one')")
    wait_until("it is held", lambda: "the clock of server-b" in (link_of(a)["problem"] or ""))
    assert link_of(a)["state"] == "failed"
    assert a.database.psql("SELECT count(*) FROM t") == "0"


def test_a_new_table_is_synced_and_a_stop_takes_moments(pair_18: TwoNodes) -> None:
    a, b = pair_18
    make_group(a, b)
    for node in (a, b):
        node.database.psql("CREATE TABLE later (id int PRIMARY KEY)")
    wait_until("it is captured", lambda: a.database.psql(
        "SELECT 1 FROM pg_trigger WHERE tgrelid = 'later'::regclass LIMIT 1"))  # fmt: skip
    a.database.psql("INSERT INTO later VALUES (1)")
    wait_equal(a, b, table="later")
    began = time.monotonic()
    assert a.stop() == 0
    assert time.monotonic() - began < 10
    wait_until("the other notices", lambda: link_of(b)["state"] == "unreachable")
