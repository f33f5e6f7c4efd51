"""A database changes which way its rows go, and something dies in the middle of it.

Nothing that was changed is lost, what it does is what was typed or what it did before, and the
same command typed again ends well.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import Node, TwoNodes
from tests.plugins.waiting import eventually

ITEMS = """
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 200) AS n;
"""
KEPT_BACK = (
    "UPDATE item SET name = 'of the branch' WHERE id = 1; DELETE FROM item WHERE id = 2;"
    "INSERT INTO item VALUES (900, 'new there')"
)
CHANGED = (
    "SELECT (SELECT name FROM item WHERE id = 1), (SELECT count(*) FROM item WHERE id = 2),"
    " (SELECT max(id) FROM item)"
)
AT_BRANCH = "of the branch|0|900"
BEFORE = "item 1|1|200"
STATE = "SELECT state, direction FROM peersync.replica"
WITHHELD = "SELECT count(*) FROM peersync.withheld"


def shows(node: Node, sql: str, expected: str) -> None:
    eventually(f"{node.name}: {expected!r} from {sql}", lambda: node.database.psql(sql) == expected)


@contextmanager
def held(node: Node, what: str, session: str) -> Iterator[Callable[[], None]]:
    """`what` waits for a lock of another's, given back at the end; called: until it waits."""
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        f" AND datname = current_database() AND application_name LIKE 'peersync/{session}'"
    )
    with psycopg.connect(node.database.conninfo()) as other:
        other.execute(what.encode())
        yield lambda: _until(f"{session} waits", node, waits)
        with suppress(psycopg.Error):  # the server may have been restarted
            other.rollback()


def _until(what: str, node: Node, sql: str) -> None:
    eventually(what, lambda: node.database.psql(sql) != "0")


def hq_agent_dies(hq: Node, _: Node) -> None:
    hq.kill()
    hq.start()


def agent_dies(_: Node, branch: Node) -> None:
    branch.kill()
    branch.start()


def server_dies(_: Node, branch: Node) -> None:
    branch.database.cluster.restart("immediate")


BASELINES = ("LOCK TABLE peersync.baselines IN ACCESS EXCLUSIVE MODE", "restore/%")


@pytest.mark.parametrize("dies", [agent_dies, server_dies, hq_agent_dies])
def test_a_join_one_way_and_the_way_back_go_on_after_a_death(
    pair_18: TwoNodes, dies: Callable[[Node, Node], None]
) -> None:
    hq, branch = pair_18
    hq.database.psql(ITEMS)
    with held(branch, *BASELINES) as until_it_waits:
        branch.run("join", "server-a", "--receive-only", "--yes", "--no-wait")
        until_it_waits()
        dies(hq, branch)
    shows(branch, STATE, "active|receive")
    branch.database.psql(KEPT_BACK)
    shows(branch, WITHHELD, "3")

    with held(branch, *BASELINES) as until_it_waits:
        branch.run("rebaseline", "server-a", "--both-ways", "--yes", "--no-wait")
        until_it_waits()
        dies(hq, branch)
        assert hq.database.psql(CHANGED) == BEFORE
    shows(branch, STATE, "active|both")
    shows(hq, CHANGED, AT_BRANCH)
    hq.database.psql("UPDATE item SET name = 'of hq' WHERE id = 5")
    hq.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(hq.database, branch.database)
    assert branch.database.psql(WITHHELD) == "0"


def test_a_way_back_that_is_cancelled_by_a_dying_agent_is_typed_again(pair_18: TwoNodes) -> None:
    """It is what it was, and held: neither half of a member, nor one that gives what it kept."""
    hq, branch = pair_18
    hq.database.psql(ITEMS)
    branch.run("join", "server-a", "--receive-only", "--yes")
    shows(branch, STATE, "active|receive")
    origin = branch.database.psql("SELECT origin FROM peersync.replica")
    branch.database.psql(KEPT_BACK)
    shows(branch, WITHHELD, "3")
    with held(branch, *BASELINES) as until_it_waits:
        branch.run("rebaseline", "server-a", "--both-ways", "--yes", "--no-wait")
        until_it_waits()
        branch.kill()
    # it died after it had noted down that it was told to stop
    branch.database.psql(
        "UPDATE peersync.full_sync_sessions SET state = 'cancelling' WHERE completed_at IS NULL"
    )
    branch.start()
    shows(branch, STATE, "held|receive")
    assert branch.database.psql("SELECT origin FROM peersync.replica") == origin
    assert branch.database.psql(CHANGED) == AT_BRANCH
    assert hq.database.psql(CHANGED) == BEFORE
    status = branch.run("status", check=False)
    assert status.code != 0
    assert "peersync rebaseline server-a" in status.out

    branch.run("rebaseline", "server-a", "--both-ways", "--yes")
    shows(branch, STATE, "active|both")
    shows(hq, CHANGED, AT_BRANCH)
    hq.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(hq.database, branch.database)
    counted = "SELECT count(*) FROM peersync.member WHERE state = 'member'"
    assert hq.database.psql(counted) == branch.database.psql(counted) == "2"


@pytest.mark.parametrize("dies", [agent_dies, server_dies])
def test_a_direction_that_was_not_set_is_typed_again(
    pair_18: TwoNodes, dies: Callable[[Node, Node], None]
) -> None:
    hq, branch = pair_18
    hq.database.psql(ITEMS)
    branch.run("join", "server-a", "--yes")
    hq.run("sync", "now", "--wait", "--timeout", "60")
    for direction, node in (("receive", branch), ("give", hq)):
        other = hq if node is branch else branch
        command = ("sync", "direction", direction, "--yes")
        with held(node, "SELECT FROM peersync.replica FOR UPDATE", "members") as until_it_waits:
            node.database.psql(
                "SET synchronous_commit = on;"  # the servers of the tests lose the latest commits
                f"UPDATE item SET name = '{direction}, before' WHERE id = 1"
            )
            typed = node.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            until_it_waits()
            dies(other, node)
            out, err = typed.communicate(timeout=60)
            assert typed.returncode, out
            assert b"peersync: " in err
        node.run(*command)
        node.database.psql(f"UPDATE item SET name = '{direction}, after' WHERE id = 2")
        assert node.database.psql(STATE) == f"active|{direction}"
        # what was committed before it goes both ways, what comes after it as was typed
        shows(other, "SELECT name FROM item WHERE id = 1", f"{direction}, before")
        told = f"SELECT count(*) FROM peersync.member WHERE info ->> 'direction' = '{direction}'"
        shows(other, told, "1")
    hq.run("sync", "now", "--wait", "--timeout", "60")
    names = "SELECT name FROM item WHERE id = 2"
    assert hq.database.psql(names) == branch.database.psql(names) == "give, after"
