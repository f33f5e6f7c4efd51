"""A database is brought up to date with all its peers, and what came of each is on record."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.integration.periodic_rig import QUICK, make_group, rows
from tests.integration.shared_pair import held, wait_until
from tests.integration.test_script_api import call
from tests.plugins.clusters import Database, GetCluster, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, introduce

SETTINGS = {
    **QUICK,
    "PEERSYNC_COMPLETE_RETRIES": "1",
    "PEERSYNC_COMPLETE_SKIP_AFTER_ERRORS": "2",
    "PEERSYNC_COMPLETE_SKIP_FOR_S": "600",
}


class Three(NamedTuple):
    a: Node
    b: Node
    c: Node


def begin(nodes: list[Node]) -> Three:
    """Pairs each with each, starts them, and makes them members of one group."""
    three = Three(*nodes)
    for one, other in ((three.a, three.b), (three.a, three.c), (three.b, three.c)):
        introduce(one, other)
    for node in three:
        node.launch()
    for node in three:
        node.wait_until_ready()
    make_group(*three)
    return three


@pytest.fixture(scope="module")
def running(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    cluster, home = clusters(18), tmp_path_factory.mktemp("complete")
    nodes = []
    try:
        for letter in "abc":
            cluster.createdb(f"complete_{letter}")
            (home / letter).mkdir()
            database = Database(cluster, f"complete_{letter}")
            nodes.append(Node(f"server-{letter}", database, home / letter, env=SETTINGS))
            nodes[-1].init()
        yield begin(nodes)
    finally:
        for node in nodes:
            node.close()
            cluster.dropdb(node.database.name)


@pytest.fixture
def fresh(make_database: MakeDatabase, make_node: MakeNode) -> Three:
    """Three whose agents may be stopped."""
    return begin(
        [make_node(f"server-{x}", make_database(), start=False, env=SETTINGS) for x in "abc"]
    )


@pytest.fixture
def three(running: Three) -> Three:
    """With no record of earlier runs."""
    running.a.database.psql("DELETE FROM peersync.complete_syncs")
    return running


def records(node: Node) -> str:
    return node.database.psql("SELECT count(*) FROM peersync.complete_syncs")


def status_of(node: Node) -> str:
    newest = "SELECT status FROM peersync.complete_syncs ORDER BY started_at DESC LIMIT 1"
    return node.database.psql(newest)


def sync(node: Node, *arguments: str, check: bool = False) -> Any:
    return node.run("complete-sync", *arguments, check=check)


def by_peer(told: dict[str, Any]) -> dict[str, str]:
    return {peer["peer"]: peer["status"] for peer in told["peers"]}


def test_every_peer_has_everything_when_it_ends_in_the_order_of_adding(three: Three) -> None:
    a, b, c = three
    a.database.psql("INSERT INTO t SELECT n, 'a' FROM generate_series(1, 200) AS n")
    c.database.psql("INSERT INTO t VALUES (1000, 'from c')")
    done = sync(a)
    assert done.code == 0, done.err
    assert rows(a) == rows(b) == rows(c)
    first, second, last = done.out.splitlines()
    assert first.startswith("[1/2] ✓ server-b – periodic, ")
    assert second.startswith("[2/2] ✓ server-c – periodic, ")
    assert last.startswith("shop: success after ")
    shown = sync(a, "history", "--json", check=True).json["complete_syncs"]
    assert [view["status"] for view in shown] == ["success"]
    assert (shown[0]["sync_type"], shown[0]["peers_successful"]) == ("manual", 2)
    proved = a.database.psql(
        "SELECT bool_and(positions -> 'ours' <> '{}' AND positions -> 'theirs' <> '{}')"
        " FROM peersync.peer_sync_references"
    )
    assert proved == "t"
    table = sync(a, "show", shown[0]["id"][:8], check=True).out
    assert "server-b" in table
    assert "success" in table


def test_a_dry_run_says_what_would_be_done_and_does_nothing(three: Three) -> None:
    done = sync(three.a, "--dry-run")
    assert done.out.splitlines() == [
        "✓ server-b – periodic",
        "✓ server-c – periodic",
        "shop would be synced with 2 peers",
    ]
    assert records(three.a) == "0"
    plan = sync(three.a, "--dry-run", "--peers", "server-c", "--json").json
    assert [peer["peer"] for peer in plan["peers"]] == ["server-c"]
    assert sync(three.a, "--dry-run", "--peers", "nobody").code == 2
    for nobody in ("", ",,", "server-b,"):
        assert sync(three.a, "--dry-run", "--peers", nobody).code == 2


def test_a_peer_that_is_down_fails_alone_is_passed_over_later_and_tried_again_by_name(
    fresh: Three,
) -> None:
    a, b, c = fresh
    b.stop()
    a.database.psql("INSERT INTO t VALUES (2000, 'while b is away')")
    done = sync(a, "--json")
    assert done.code == 3
    assert by_peer(done.json) == {"server-b": "error", "server-c": "success"}
    failed = done.json["peers"][0]
    assert (failed["error"]["code"], failed["tries"]) == ("peer-unreachable", 2)
    assert c.database.psql("SELECT v FROM t WHERE id = 2000") == "while b is away"
    again = sync(a, "--retry-failed", done.json["id"][:8], "--json")
    assert again.code == 1
    assert by_peer(again.json) == {"server-b": "error"}
    assert again.json["retry_of"] == done.json["id"]
    passed = sync(a)
    assert passed.code == 3  # not everything is well
    assert "○ server-b – skipped: 2 errors in a row, the last: " in passed.out
    assert "--peers server-b" in passed.out
    b.start()
    assert by_peer(sync(a, "--peers", "server-b", "--json").json) == {"server-b": "success"}
    assert by_peer(sync(a, "--json").json) == {"server-b": "success", "server-c": "success"}


def running_sync(node: Node, *arguments: str) -> subprocess.Popen[bytes]:
    """Types a complete sync, and returns when it is at work on its first peer."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = node.popen("complete-sync", *arguments, **quiet)
    began = "SELECT 1 FROM peersync.peer_sync_references WHERE status = 'running'"
    wait_until(lambda: node.database.psql(began) == "1")
    return process


def test_a_peer_that_waits_keeps_no_other_waiting_where_several_are_done_at_a_time(
    three: Three,
) -> None:
    a, b, c = three
    done = "SELECT status FROM peersync.peer_sync_references WHERE peer_name = 'server-c'"
    with held(b, "t"):
        a.database.psql("INSERT INTO t VALUES (2500, 'waits')")
        process = running_sync(a, "--parallel", "2")
        wait_until(lambda: a.database.psql(done) == "success")
        assert c.database.psql("SELECT v FROM t WHERE id = 2500") == "waits"
        assert status_of(a) == "running"
    assert process.wait(20) == 0


def test_a_paused_peer_is_passed_over_and_where_all_are_nothing_is_proved(three: Three) -> None:
    a, _, _ = three
    a.run("sync", "pause", "server-b")
    try:
        some = sync(a, "--json")
        assert some.code == 0
        assert by_peer(some.json) == {"server-b": "skipped", "server-c": "success"}
        assert "peersync sync resume server-b" in some.json["peers"][0]["reason"]
        assert sync(a, "--peers", "server-b").code == 3
    finally:
        a.run("sync", "resume", "server-b")


def test_a_second_one_is_refused_and_ctrl_c_ends_the_first(three: Three) -> None:
    a, b, _ = three
    with held(b, "t"):
        a.database.psql("INSERT INTO t VALUES (3000, 'waits')")
        first = running_sync(a)
        second = sync(a)
        assert second.code == 6
        assert "a complete sync is running" in second.err
        assert "node server-a" in second.err
        assert "peersync complete-sync cancel" in second.err
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 130
    assert status_of(a) == "interrupted"
    view = sync(a, "history", "--json").json["complete_syncs"][0]
    assert {peer["status"] for peer in view["peers"]} == {"not_run"}
    assert view["peers"][0]["reason"].startswith("cancelled by ")
    assert sync(a).code == 0


def test_what_a_killed_agent_left_is_interrupted_and_its_rest_can_be_done(fresh: Three) -> None:
    a, b, c = fresh
    with held(b, "t"):
        a.database.psql("INSERT INTO t VALUES (4000, 'waits')")
        watching = running_sync(a)
        a.kill()
        assert watching.wait(20) == 5
        assert status_of(a) == "running"
        a.start()
        wait_until(lambda: status_of(a) == "interrupted")
    view = sync(a, "history", "--json").json["complete_syncs"][0]
    assert {peer["status"] for peer in view["peers"]} == {"not_run"}
    assert view["peers"][0]["reason"] == "the agent ended before it was done"
    done = sync(a, "--retry-failed", view["id"], "--json")
    assert by_peer(done.json) == {"server-b": "success", "server-c": "success"}
    assert rows(a) == rows(b) == rows(c)
    assert records(a) == "2"
    with held(b, "t"):
        a.database.psql("INSERT INTO t VALUES (5000, 'waits')")
        watching = running_sync(a)
        assert a.stop() == 0  # one that is stopped in order says so itself
        assert status_of(a) == "interrupted"
        assert watching.wait(20) == 5


def test_a_peer_that_dies_in_the_middle_does_not_keep_the_next_waiting(fresh: Three) -> None:
    a, b, c = fresh
    with held(b, "t"):
        a.database.psql("INSERT INTO t VALUES (6000, 'waits')")
        watching = running_sync(a)
        b.kill()
        assert watching.wait(20) == 3
    view = sync(a, "history", "--json").json["complete_syncs"][0]
    assert by_peer(view) == {"server-b": "error", "server-c": "success"}
    assert view["peers"][0]["error"]["code"] == "peer-unreachable"
    assert rows(a) == rows(c)


def test_a_request_is_answered_at_once_and_its_repetition_starts_nothing(three: Three) -> None:
    a, _, _ = three
    body = {"database": "shop", "parallel": 2, "requestedBy": "cron"}
    first = call(a, "POST", "/api/complete-sync", body, Idempotency_Key="monday")
    assert first.status == 202
    assert first.json["status"] == "running"
    assert first.json["sync_type"] == "api"
    where = first.headers["Location"]
    wait_until(lambda: call(a, "GET", where).json["status"] == "success")
    again = call(a, "POST", "/api/complete-sync", body, Idempotency_Key="monday")
    assert (again.status, again.json["id"]) == (202, first.json["id"])
    other = call(a, "POST", "/api/complete-sync", {"database": "shop"}, Idempotency_Key="monday")
    assert other.status == 422
    found = call(a, "GET", "/api/complete-sync/history?database=shop&limit=5").json
    assert [view["id"] for view in found] == [first.json["id"]]
    unknown = call(a, "GET", f"/api/complete-sync/{'0' * 32}")
    assert unknown.status == 404
    assert call(a, "POST", "/api/complete-sync", {"database": "shop", "x": 1}).status == 400
