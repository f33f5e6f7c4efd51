"""Complete syncs that copy: where there is no baseline, or because it is set so; what they cost."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import pytest

from tests.integration.periodic_rig import TABLE, make_group, node_id
from tests.integration.shared_pair import held, wait_until
from tests.plugins import least
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes, introduce

PRICED = '[peer.server-a]\nprice_per_gb = 999999.9\n[peer.server-b]\nsync = "full-push"\n'
EURO = {"PEERSYNC_STATISTICS_CURRENCY": "EUR", "PEERSYNC_COMPLETE_RETRIES": "0"}


def pair(make_database: MakeDatabase, make_node: MakeNode, *, start: bool = True) -> TwoNodes:
    """Two that are members of no group, with different rows."""
    nodes = [
        make_node(name, make_database(), settings=PRICED, env=EURO, start=False)
        for name in ("server-a", "server-b")
    ]
    source, target = nodes
    introduce(target, source)
    for node in nodes:
        node.database.psql(TABLE)
        if start:
            node.start()
        least.grant(node, "pull")
        least.grant(node, "push")
    source.database.psql("INSERT INTO t SELECT n, repeat('x', n) FROM generate_series(1, 300) n")
    target.database.psql("INSERT INTO t VALUES (1, 'older')")
    return TwoNodes(source, target)


def sync(node: Node, *arguments: str) -> Any:
    return node.run("complete-sync", "--json", *arguments, check=False)


def test_without_a_baseline_the_rows_are_copied_and_each_run_says_what_it_cost(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    a, b = pair(make_database, make_node)
    b.database.psql("INSERT INTO t VALUES (301, 'only here')")
    done = sync(b)
    assert done.code == 0, done.err
    (peer,) = done.json["peers"]
    assert (peer["way"], peer["status"]) == ("full-pull", "success")
    assert b.database.psql("SELECT count(*), min(v) FROM t WHERE id <= 300") == "300|x"
    assert b.database.psql("SELECT v FROM t WHERE id = 301") == "only here"
    job = b.run("jobs", "show", peer["session"], "--json").json
    assert peer["wire_bytes"] == job["progress"]["wire_bytes"] > 0
    exact = Decimal(peer["wire_bytes"]) * Decimal("999999.9") / 10**9
    kept = b.database.psql("SELECT cost, cost_by_peer ->> 'server-a' FROM peersync.complete_syncs")
    assert kept.split("|") == [f"{exact:.6f}"] * 2
    shown = b.run("complete-sync", "show", done.json["id"][:8]).out
    assert f"{exact:.6f}".rstrip("0") + " EUR" in shown

    b.database.psql("UPDATE t SET v = 'older' WHERE id = 1")
    pushed = sync(a)
    assert pushed.code == 0, pushed.err
    (peer,) = pushed.json["peers"]
    assert (peer["way"], peer["status"], peer["rows"]) == ("full-push", "success", 300)
    assert b.database.psql("SELECT v FROM t WHERE id = 1") == "x"


def test_a_peer_outside_the_group_is_not_copied_over_it(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    b, other = (make_node(f"server-{x}", make_database(), start=False) for x in "bx")
    introduce(b, other)
    b.start()
    other.start()
    make_group(b)
    other.database.psql(f"{TABLE}; INSERT INTO t VALUES (1, 'not asked for')")
    done = sync(b)
    assert done.code == 1
    assert "no member of the group" in done.json["peers"][0]["error"]["message"]
    b.database.psql(
        "INSERT INTO peersync.member (origin, node_id, node_name, state)"
        f" VALUES (2000, '{node_id(other)}', 'server-x', 'expired')"
    )
    error = sync(b, "--peers", "server-x").json["peers"][0]["error"]
    assert "server-x was expired" in error["message"]
    assert error["hint"] == "on server-x: peersync rebaseline server-b --database shop"
    assert b.database.psql("SELECT count(*) FROM t") == "0"


def test_two_agents_of_one_database_do_not_run_it_twice(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    a, b = pair(make_database, make_node, start=False)
    twin = make_node("server-b2", b.database, env=EURO, start=False)
    introduce(twin, a)
    for node in (a, b, twin):
        node.start()
    with held(b, "t"):
        first = sync(b, "--no-wait").json["id"]
        refused = sync(twin)
        assert refused.code == 6
        assert "node server-b," in refused.err
        assert refused.json["error"]["data"]["holder"]["job"] == first
        foreign = twin.run("complete-sync", "cancel", first, check=False)
        assert (foreign.code, "on server-b" in foreign.err) == (6, True)
        b.run("complete-sync", "cancel", first)
    ended = "SELECT status FROM peersync.complete_syncs"
    wait_until(lambda: b.database.psql(ended) == "interrupted")
    wait_until(lambda: sync(twin).code == 0)


def test_what_was_not_done_in_time_is_counted_and_paid_for(
    make_database: MakeDatabase, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERSYNC_COMPLETE_TIMEOUT_S", "4")
    _, b = pair(make_database, make_node)
    with held(b, "t"):
        done = sync(b)
    (peer,) = done.json["peers"]
    assert (done.code, peer["status"]) == (1, "error")
    assert peer["error"]["message"] == "server-a was not done within 4 s"
    assert f"peersync jobs show {peer['session'][:8]}" in peer["error"]["hint"]
    assert peer["wire_bytes"] > 0
    assert done.json["cost"] > 0


def test_the_time_of_a_pull_begins_when_the_one_before_has_ended(
    make_database: MakeDatabase, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERSYNC_COMPLETE_TIMEOUT_S", "6")
    a, b = pair(make_database, make_node, start=False)
    c = make_node("server-c", a.database, env=EURO, start=False)
    introduce(b, c)
    for node in (a, b, c):
        node.start()
    b.database.psql("INSERT INTO t SELECT n, 'older' FROM generate_series(2, 300) n")
    done = "SELECT count(*) FROM peersync.peer_sync_references WHERE status = 'success'"
    with held(b, "t"):
        started = sync(b, "--parallel", "2", "--no-wait").json["id"]
        time.sleep(4)
    wait_until(lambda: b.database.psql(done) == "1")
    a.database.psql("UPDATE t SET v = 'new'")
    with held(b, "t"):
        time.sleep(4)
    wait_until(lambda: sync_status(b, started) != "running")
    assert sync_status(b, started) == "success"


def sync_status(node: Node, run: str) -> str:
    return str(sync(node, "show", run).json["status"])
