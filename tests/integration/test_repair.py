"""`peersync repair`: rows that differ are made the same again, and that is proved."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.fault.rig import eventually
from tests.integration.test_delta import waits
from tests.integration.test_join import join, shows
from tests.plugins.clusters import Database
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import Node, TwoNodes

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text);
CREATE TABLE "Odd *? T.x" (id int PRIMARY KEY, v text);
CREATE TABLE same (id int PRIMARY KEY);
INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 1000) AS n;
INSERT INTO "Odd *? T.x" VALUES (1, 'a'), (2, 'b');
INSERT INTO same SELECT generate_series(1, 100);
"""
# What no log has: a session that capture can't see.
DRIFT = """
SET session_replication_role = replica;
UPDATE item SET name = 'lost' WHERE id IN (1, 500); DELETE FROM item WHERE id = 7;
UPDATE "Odd *? T.x" SET v = 'lost' WHERE id = 2; INSERT INTO item VALUES (2000, 'only here');
"""


@pytest.fixture
def members(pair_18: TwoNodes) -> TwoNodes:
    source, target = pair_18
    source.database.psql(TABLES)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    return pair_18


def test_members_that_differ_are_the_same_again_by_the_side_that_is_right(
    members: TwoNodes,
) -> None:
    source, target = members
    assert target.run("repair", "server-a", "--from", "peer", "--yes").code == 0  # nothing to do
    target.database.psql(DRIFT)
    shown = target.run("repair", "server-a", "--from", "peer", "--dry-run")
    assert "differs" in shown.out and "same" not in shown.err
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "lost"
    asked = target.run("repair", "server-a", "--from", "peer", check=False)
    assert asked.code == 2 and "nobody is there to ask" in asked.err

    kept = target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
    assert kept.code == 4, kept.err  # the row that is only here stays
    assert "1 row only on the side that was changed" in kept.err
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "item 1"
    whole = target.run("repair", "server-a", "--from", "peer", "--mirror", "--yes", "--json")
    assert whole.code == 0
    assert (whole.json["before"]["result"], whole.json["after"]["result"]) == (
        "differs",
        "identical",
    )
    assert_same_rows(source.database, target.database)

    target.database.psql("UPDATE item SET name = 'goes on' WHERE id = 1")
    shows(source.database, "SELECT name FROM item WHERE id = 1", "goes on")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert target.run("verify", "server-a").code == 0


def test_the_other_side_is_repaired_from_here_and_what_was_changed_can_be_put_back(
    members: TwoNodes,
) -> None:
    source, target = members
    source.run("peer", "allow", "server-b", "--push")
    source.database.psql(DRIFT)
    done = target.run("repair", "server-a", "--from", "this", "--mirror", "--yes", "--json")
    assert done.json["after"]["result"] == "identical"
    assert_same_rows(source.database, target.database)
    source.run("undo", done.json["sync"]["session"], "--yes")
    assert source.database.psql("SELECT name FROM item WHERE id = 500").strip() == "lost"


def test_a_row_that_is_newer_than_the_comparison_is_kept(
    members: TwoNodes,
) -> None:
    """Nobody has fetched it: it is no drift, and no repair may undo it."""
    source, target = members
    target.database.psql(DRIFT)
    target.run("sync", "pause")
    source.run("sync", "pause")
    target.database.psql("UPDATE item SET name = 'newer' WHERE id = 500")
    target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
    assert target.database.psql("SELECT name FROM item WHERE id = 500").strip() == "newer"


def test_what_is_written_while_a_repair_runs_is_kept_on_both_sides(members: TwoNodes) -> None:
    """Nobody ever sees a row go back to what it was, and in the end both have the last of it."""
    source, target = members
    target.database.psql(DRIFT)
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        writers = [
            pool.submit(write, node.database, key, stop)
            for node, key in ((target, 500), (source, 1))
        ]
        done = target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
        stop.set()
        last = [writer.result(60) for writer in writers]
    assert done.code in (0, 4), done.err
    for node in members:
        node.run("sync", "now", "--wait", "--timeout", "60")
    for node in members:
        for key, value in zip((500, 1), last, strict=True):
            shows(node.database, f"SELECT name FROM item WHERE id = {key}", value)
    left = target.run("verify", "server-a", "--json", check=False).json
    assert (left["different"], left["missing"], left["extra"]) == (0, 0, 1)


def write(database: Database, key: int, stop: threading.Event) -> str:
    """Writes a row again and again; the last value. Each time it finds what it had written."""
    before = None
    with psycopg.connect(database.conninfo(), autocommit=True) as user:
        for number in itertools.count():
            row = user.execute(
                "UPDATE item SET name = %s WHERE id = %s RETURNING old.name", (f"w{number}", key)
            ).fetchone()
            assert row is not None
            assert before is None or row[0] == before, f"{key} went back to {row[0]}"
            before = f"w{number}"
            if stop.wait(0.02):
                return before
    raise AssertionError


PARTED = "CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"


def test_without_a_membership_it_says_which_rows_it_would_overwrite_and_what_it_cannot_know(
    pair_18: TwoNodes,
) -> None:
    source, target = pair_18
    for node, bounds in ((source, (1, 50, 99)), (target, (1, 99))):
        node.database.psql(TABLES + PARTED)
        for low, high in itertools.pairwise(bounds):
            node.database.psql(
                f"CREATE TABLE parted_{low} PARTITION OF parted FOR VALUES FROM ({low}) TO ({high})"
            )
        node.database.psql("INSERT INTO parted SELECT i, i FROM generate_series(1, 98) i")
    target.database.psql(DRIFT)
    target.database.psql("UPDATE parted SET v = 0 WHERE id = 60")
    shown = target.run("repair", "server-a", "--from", "peer", "--dry-run")
    for row in ("different: public.item id=1\n", "missing: public.item id=7", "extra: public.item"):
        assert row in shown.out
    assert "WARNING: no membership tells what is newer" in shown.err
    assert "not repaired: public.parted: its rows are in other partitions" in shown.err
    assert target.database.psql("SELECT name FROM item WHERE id = 1") == "lost"

    id_ = shown.err.split("peersync repair --apply ")[1].split()[0]
    done = target.run("repair", "--apply", id_, "--yes", "--json", check=False)
    assert (done.code, done.json["state"], done.json["left_out"][0][0]) == (
        4,
        "partly",
        "public.parted",
    )
    assert target.database.psql("SELECT name FROM item WHERE id = 1") == "item 1"
    again = target.run("repair", "--apply", id_, "--yes", check=False)
    assert again.code == 2 and "only a planned one can go on" in again.err
    (listed,) = target.run("repair", "--list", "--json").json["repairs"]
    assert (listed["state"], listed["session"]) == ("partly", done.json["sync"]["session"])

    planned = target.run("repair", "server-a", "--from", "peer", "--dry-run", "--json").json
    stopped = target.run("repair", "--cancel", planned["id"], "--json").json
    assert (stopped["id"], stopped["state"]) == (planned["id"], "cancelled")
    with psycopg.connect(target.database.conninfo()) as user:
        user.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        with target.popen("repair", "server-a", "--from", "peer", "--yes") as running:
            eventually("it compares", lambda: newest(target)["state"] == "comparing")
            target.run("repair", "--cancel", newest(target)["id"])
            assert running.wait(60) == 130
    assert newest(target)["state"] == "cancelled"


def test_one_repair_at_a_time_and_none_goes_on_that_was_cancelled(pair_18: TwoNodes) -> None:
    """While each step is written down, which somebody's lock keeps it from, others ask."""
    _, target = pair_18
    for node in pair_18:
        node.database.psql(TABLES)
    target.database.psql("UPDATE item SET name = 'lost' WHERE id = 1")
    dry = ("repair", "server-a", "--from", "peer", "--dry-run")
    with held(target.database) as user, target.popen(*dry) as first:
        with user:
            eventually("it is to be noted", lambda: is_to_be_noted(target.database))
            second = target.run(*dry, check=False)
        assert second.code == 6 and "is being repaired with server-a already" in second.err
        assert first.wait(60) == 0

    planned = newest(target)["id"]
    with held(target.database) as user, target.popen("repair", "--apply", planned, "-y") as running:
        with user:
            eventually("it is to be noted", lambda: is_to_be_noted(target.database))
            stopped = target.run("repair", "--cancel", planned, "--json")
        assert stopped.json["state"] == "writing"
        assert running.wait(60) == 130
    assert newest(target)["state"] == "cancelled"
    assert target.database.psql("SELECT name FROM item WHERE id = 1") == "lost"


@contextmanager
def held(database: Database) -> Iterator[psycopg.Connection]:
    """Nobody can note how far a repair is, until the connection is closed."""
    with psycopg.connect(database.conninfo()) as user:
        user.execute("LOCK TABLE peersync.repairs IN EXCLUSIVE MODE")
        yield user


def is_to_be_noted(database: Database) -> bool:
    return (
        database.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query LIKE '%INTO peersync.repairs%' AND datname = current_database()"
        )
        == "1"
    )


def newest(node: Node) -> Any:
    return node.run("repair", "--list", "--json").json["repairs"][0]


def test_a_repair_whose_agent_dies_while_it_writes_is_proved_when_it_is_back(
    two_nodes: TwoNodes,
) -> None:
    source, target = two_nodes
    for node in two_nodes:
        node.database.psql(TABLES)
    target.database.psql("UPDATE item SET name = 'lost' WHERE id = 1")
    with psycopg.connect(target.database.conninfo()) as user:
        user.execute("LOCK TABLE item IN ROW EXCLUSIVE MODE")
        with target.popen("repair", "server-a", "--from", "peer", "--yes") as running:
            eventually("it wants to write", lambda: waits(target.database))
            target.kill()
            target.start()
            user.rollback()
            running.wait(120)

    eventually("it is proved", lambda: newest(target)["state"] == "done")
    assert_same_rows(source.database, target.database)
