"""A full sync by the method delta: both sides compare first, and only what differs travels."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgcluster import SUPERUSER

from tests.fault.rig import eventually
from tests.integration.target_rig import broken_foreign_keys
from tests.plugins.clusters import Database
from tests.plugins.compare import assert_same_rows, extra_rows, stored
from tests.plugins.nodes import Node, TwoNodes

ROWS = 12_000
_PAD = "repeat(md5(i::text) || md5('x' || i), 3)"
WIDE = f"""
    CREATE TABLE events (id {{kind}} PRIMARY KEY, v int NOT NULL, price numeric, pad text NOT NULL);
    INSERT INTO events SELECT {{key}}, i % 7, (i % 100) / 10.0, {_PAD}
      FROM generate_series(1, {ROWS}) i; ANALYZE events;"""
KEYS = {
    "int": WIDE.format(kind="int", key="i"),
    "uuid": WIDE.format(kind="uuid", key="md5(i::text)::uuid"),
    "text": WIDE.format(kind="text", key="'Key ' || chr(97 + i % 26) || i || 'é'"),
    "numeric": WIDE.format(kind="numeric", key="i / 8.0"),
    "composite": f"""
        CREATE TABLE events (b text COLLATE "C", a bigint, v int NOT NULL, price numeric,
                             pad text NOT NULL, PRIMARY KEY (a, b));
        INSERT INTO events SELECT 'B' || i % 3, i / 3, i % 7, (i % 100) / 10.0, {_PAD}
          FROM generate_series(1, {ROWS}) i; ANALYZE events;""",
}


def both(nodes: TwoNodes, sql: str) -> tuple[Node, Node]:
    source, target = nodes
    for node in (source, target):
        node.database.psql(sql)
    return source, target


def pull(target: Node, *options: str) -> Any:
    done = target.pull("server-a", "--method", "delta", *options, check=False)
    assert done.code == 0, done.err + str(done.out)[-2000:]
    return done.json


def table(done: Any, name: str = "events") -> Any:
    return next(t for t in done["tables"] if t["name"] == name)


def counts(done: Any, name: str = "events") -> tuple[int, ...]:
    found = table(done, name)
    names = ("inserted", "updated", "unchanged", "target_only", "deleted")
    return tuple(found[n] for n in names)


def visible(database: Database) -> str:
    return database.psql("SELECT md5(string_agg(e::text, '' ORDER BY e::text)) FROM events e")


@pytest.mark.parametrize("key", KEYS)
def test_only_what_differs_travels_and_the_target_is_the_source(
    key: str, pair_18: TwoNodes
) -> None:
    source, target = both(pair_18, KEYS[key])
    versions = stored(target.database)

    same = pull(target)
    assert counts(same) == (0, 0, ROWS, 0, 0)
    assert (table(same)["way"], table(same)["differing_blocks"]) == ("delta", 0)
    assert stored(target.database) == versions, "a row was written although nothing differs"

    source.database.psql("UPDATE events SET v = 100 WHERE price = 5 AND v = 1")
    source.database.psql("UPDATE events SET price = 3.00 WHERE price = 3 AND v = 2")  # = and yet
    source.database.psql("DELETE FROM events WHERE price = 1 AND v = 3")
    target.database.psql("DELETE FROM events WHERE price = 2 AND v = 4")
    changed = int(source.database.psql("SELECT count(*) FROM events WHERE v = 100"))
    changed += int(source.database.psql("SELECT count(*) FROM events WHERE price::text = '3.00'"))
    gone = int(target.database.psql("SELECT count(*) FROM events WHERE price = 1 AND v = 3"))
    missing = ROWS - int(target.database.psql("SELECT count(*) FROM events"))
    before = visible(target.database)

    some = pull(target)
    there = ROWS - gone
    assert counts(some) == (missing, changed, there - missing - changed, gone, 0)
    left = extra_rows(source.database, target.database)
    assert sum(sum(rows.values()) for rows in left.values()) == gone

    mirrored = pull(target, "--mirror")
    assert counts(mirrored) == (0, 0, there, 0, gone)
    assert_same_rows(source.database, target.database)

    for job in (mirrored, some):
        target.run("undo", job["session"], "--yes")
    assert visible(target.database) == before


def test_what_is_not_compared_is_sent_whole_and_says_why(pair_18: TwoNodes) -> None:
    source, target = both(
        pair_18,
        KEYS["int"]
        + f"""
        CREATE TABLE keyless (a int, pad text);
        INSERT INTO keyless SELECT i, {_PAD} FROM generate_series(1, {ROWS}) i;
        CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1);
        CREATE TABLE typed (id int PRIMARY KEY, v int, pad text);
        INSERT INTO typed SELECT i, i, {_PAD} FROM generate_series(1, {ROWS}) i;
        CREATE TABLE empty (LIKE typed INCLUDING ALL); INSERT INTO empty SELECT * FROM typed;
        CREATE TABLE changed (LIKE typed INCLUDING ALL); INSERT INTO changed SELECT * FROM typed;
        ANALYZE;""",
    )
    target.database.psql("ALTER TABLE typed ALTER v TYPE bigint; TRUNCATE empty; ANALYZE")
    source.database.psql("UPDATE changed SET v = -v WHERE id % 64 = 7")  # one row of each block

    plan = target.run("pull", "server-a", "--method", "delta", "--dry-run", "--json").json["plan"]
    assert (plan["method"], plan["rest_method"]) == ("delta", "backup")
    ways = {t["name"]: (t["way"], t["way_reason"]) for t in plan["tables"]}
    assert ways == {
        "events": ("delta", None),
        "changed": ("delta", None),
        "keyless": ("full", "it has no key"),
        "small": ("full", "it is small"),
        "typed": ("full", "its columns have other types here"),
        "empty": ("full", "most of its rows are not here"),
    }
    words = target.run("pull", "server-a", "--method", "delta", "--dry-run").err
    assert "compared first: 2 tables" in words
    assert "sent whole: public.keyless: it has no key" in words

    done = pull(target)
    assert (table(done)["way"], table(done)["blocks"]) == ("delta", -(-ROWS // 64))
    assert table(done, "changed")["way"] == "full"
    assert "of its blocks of rows differ" in table(done, "changed")["way_reason"]
    assert table(done, "keyless")["way_reason"] == "it has no key"
    assert counts(done, "changed")[1] == ROWS // 64 + (ROWS % 64 >= 7)
    assert_same_rows(source.database, target.database, "--exclude-table=typed")


@pytest.mark.parametrize(
    "when", ["before it is compared", "after it was compared", "after it, and the view is gone"]
)
def test_a_row_that_is_written_here_meanwhile_is_neither_lost_nor_passed_over(
    when: str, pair_18: TwoNodes
) -> None:
    source, target = both(pair_18, KEYS["int"])
    source.database.psql("UPDATE events SET v = 100 WHERE id = 5000")
    with psycopg.connect(target.database.conninfo()) as user:
        user.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")  # the final one is not had
        if when.startswith("before"):
            write(user)
        running = target.popen(
            "pull", "server-a", "--method", "delta", "--yes", "--json", stdout=subprocess.PIPE
        )
        eventually("the sync wants to write", lambda: waits(target.database))
        if when.startswith("after"):
            write(user)
        if when.endswith("gone"):
            target.database.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'peersync/hold/%' AND datname = current_database()",
                user=SUPERUSER,
            )
        user.commit()
        out, _ = running.communicate(timeout=120)
    done = json.loads(out.decode().strip().splitlines()[-1])
    assert running.returncode == 0, out
    way = "full" if when.endswith("gone") else "delta"  # then all rows come after all
    assert (table(done)["way"], counts(done)) == (way, (1, 2, ROWS - 3, 1, 0))
    target.database.psql("DELETE FROM events WHERE id = -1")
    assert_same_rows(source.database, target.database)


def write(user: psycopg.Connection) -> None:
    """In a savepoint: such rows have a transaction id that no snapshot lists as running."""
    with user.transaction():
        user.execute("INSERT INTO events VALUES (-1, 1, 1, 'mine')")  # only here: kept
        user.execute("UPDATE events SET v = 200 WHERE id = 7000")  # equal when compared
        user.execute("DELETE FROM events WHERE id = 9000")  # comes back


def test_a_table_that_is_written_to_all_the_time_is_not_read_twice(pair_18: TwoNodes) -> None:
    source, target = both(pair_18, KEYS["int"])
    source.database.psql("UPDATE events SET v = 100 WHERE id BETWEEN 5000 AND 5100")
    target.database.psql("DELETE FROM events WHERE id BETWEEN 7000 AND 7010")
    stop = threading.Event()

    def keep_writing() -> None:
        with psycopg.connect(target.database.conninfo(), autocommit=True) as user:
            for number in itertools.cycle(range(1, 1000)):
                user.execute("UPDATE events SET v = v + 1 WHERE id = %s", (number,))
                user.execute("DELETE FROM events WHERE id = %s", (1000 + number,))
                user.execute("INSERT INTO events VALUES (%s, 1, 1, '')", (1000 + number,))
                if stop.wait(0.002):
                    return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(keep_writing)
        done = pull(target)
        stop.set()
        writer.result(60)
    assert table(done)["way"] == "delta", table(done)["way_reason"]
    rest = "SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM events e WHERE id > 2000"
    assert target.database.psql(rest) == source.database.psql(rest)


def waits(database: Database) -> bool:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND application_name LIKE 'peersync/restore/%' AND datname = current_database()"
    )
    return database.psql(query) != "0"


def test_rows_that_refer_to_each_other_keep_their_foreign_keys(pair_18: TwoNodes) -> None:
    """With --mirror parents and children go together; what is referred to from outside stays."""
    source, target = both(
        pair_18,
        KEYS["int"]
        + f"""
        CREATE SEQUENCE numbers;
        CREATE TABLE parts (id int PRIMARY KEY, event int NOT NULL REFERENCES events, pad text);
        INSERT INTO parts SELECT i, i, {_PAD} FROM generate_series(1, {ROWS}) i;
        ANALYZE;""",
    )
    for node, number in ((source, 100_000), (target, 200_000)):
        node.database.psql(
            "INSERT INTO events SELECT i, 1, 1, 'x'"
            f" FROM generate_series({number}, {number} + 9) i;"
            f"INSERT INTO parts SELECT i, i, 'x' FROM generate_series({number}, {number} + 9) i"
        )
    target.database.psql(
        "CREATE TABLE mine (event int REFERENCES events); INSERT INTO mine VALUES (200000)"
    )
    kept = pull(target, "--tables", "events", "--tables", "parts")
    assert counts(kept) == (10, 0, ROWS, 10, 0)
    assert counts(kept, "parts") == (10, 0, ROWS, 10, 0)
    source.database.psql("SELECT setval('numbers', 77)")  # comes, although no table is sent whole
    again = target.pull("server-a", "--method", "delta", "--mirror", check=False)
    assert again.code == 3, again.err
    assert counts(again.json) == (0, 0, ROWS + 10, 1, 9)
    assert counts(again.json, "parts") == (0, 0, ROWS + 10, 0, 10)
    assert "rows of public.mine refer to them" in table(again.json)["note"]
    assert target.database.psql("SELECT last_value FROM numbers") == "77"
    assert broken_foreign_keys(target.database) == ""


def test_a_push_is_a_delta_too_and_table_by_table(two_nodes: TwoNodes) -> None:
    source, target = both(two_nodes, KEYS["uuid"])
    source.grant()
    target.grant()
    source.database.psql("UPDATE events SET v = 100 WHERE v = 3 AND price = 1")
    pushed = source.run("push", "server-b", "--method", "delta", "--per-table", "--yes", "--json")
    found = table(pushed.json)
    assert (found["way"], found["result"]) == ("delta", "done")
    assert found["updated"] == int(source.database.psql("SELECT count(*) FROM events WHERE v=100"))
    assert_same_rows(source.database, target.database)


def test_an_identical_wide_table_costs_hardly_any_bytes_and_no_memory(pair_18: TwoNodes) -> None:
    source, target = pair_18
    wide = ", ".join(f"md5('{n}' || i)" for n in range(30))
    source.database.psql(
        "CREATE TABLE events (id bigint PRIMARY KEY, pad text NOT NULL);"
        f"INSERT INTO events SELECT i, concat({wide}) FROM generate_series(1, 20000) i;"
        "CREATE TABLE narrow (id bigint PRIMARY KEY, v int);"
        "INSERT INTO narrow SELECT i, i % 9 FROM generate_series(1, 200000) i; ANALYZE"
    )
    first = target.pull("server-a").json
    target.database.psql("UPDATE narrow SET v = -1 WHERE id % 6400 < 640; ANALYZE")
    changed = int(target.database.psql("SELECT count(*) FROM narrow WHERE v = -1"))
    before = [peak_kib(node) for node in (source, target)]
    again = pull(target)
    assert table(again)["differing_blocks"] == 0
    assert table(again, "narrow")["updated"] == changed
    grown = [peak_kib(node) - was for node, was in zip((source, target), before, strict=True)]
    assert max(grown) < 50_000, grown

    words = target.run("pull", "server-a", "--tables", "events", "--dry-run").err
    assert "method: delta, both sides have most rows of 1 table" in words
    identical = target.pull("server-a", "--tables", "events").json  # auto: it is likely to pay
    assert table(identical)["way"] == "delta"
    assert identical["wire_bytes"] < first["wire_bytes"] / 200


def peak_kib(node: Node) -> int:
    """The most memory that the agent ever had."""
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
