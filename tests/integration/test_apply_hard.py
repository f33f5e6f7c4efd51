"""What is rare and expensive: many refused rows, very long keys, waiting while the log is cut."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import beat
from peersync.postgres.log.quarantine import retry, waiting
from tests.integration.apply_rig import Node, drain, make_group, stream
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, note text);
CREATE TABLE public.other (id int PRIMARY KEY);
CREATE TABLE public.doc (k bytea PRIMARY KEY, v text, many int[]);
"""
LONG_KEY = (  # more than an entry of a btree may have, and not to be compressed
    "(SELECT string_agg(sha256(g::text::bytea), '') FROM generate_series(1, 63) g)"
)
WAITING = "SELECT key, sqlstate, reason FROM peersync.quarantine WHERE state = 'waiting'"
ALL = "SELECT id, n, note FROM acc ORDER BY id"


@pytest.fixture
async def two(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield await make_group(
            stack, *(make_database(18, nth=n, migrated=True) for n in (0, 1)), sql=TABLES
        )


@pytest.fixture
async def three(make_database: MakeDatabase) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        databases = [make_database(18, nth=n, migrated=True) for n in range(3)]
        yield await make_group(stack, *databases, sql=TABLES)


async def settle(*nodes: Node) -> None:
    """All have all, have said so, and what nobody needs has left every log."""
    for _ in range(3):
        for node in nodes:
            await beat(node.conn)
        await drain(*nodes)
    for node in nodes:
        await prune(node.conn)


async def kept(node: Node, op: str) -> int:
    sql = 'SELECT count(*) FROM peersync.entry WHERE op = $1::text::"char"'
    return int(await node.conn.fetchval(sql, op))


async def park(b: Node, *others: Node) -> None:
    """Changes of acc wait at b, for a column."""
    for node in others:
        await node.execute("ALTER TABLE acc ADD COLUMN extra text")
        await node.execute(
            "SELECT peersync.capture_install('acc'::regclass, tbl, false, false) "
            "FROM peersync.synced_table WHERE table_name = 'acc'"
        )


async def unpark(b: Node) -> None:
    await park(b, b)
    assert [done.name.name for done in await b.applier.resume_parked()] == ["acc"]


# --- refused rows ---------------------------------------------------------------------------
async def test_many_refused_rows_cost_time_by_their_number_only(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE acc ADD CHECK (n % 20 <> 0)")
    await a.execute("INSERT INTO acc SELECT g, g, 'x' FROM generate_series(1, 40000) g")
    began = time.monotonic()
    applied = await b.pull(a, max_changes=50_000)
    assert applied.quarantined == 2_000
    assert time.monotonic() - began < 30
    assert await b.rows("SELECT count(*), count(*) FILTER (WHERE n % 20 = 0) FROM acc") == [
        (38_000, 0)
    ]
    words = await b.rows("SELECT DISTINCT sqlstate, left(reason, 40) FROM peersync.quarantine")
    assert words == [("23514", 'new row for relation "acc" violates chec')]
    assert await b.rows(
        "SELECT count(*) FROM peersync.quarantine WHERE key = format('(%s)', substring(image, 2, "
        "strpos(image, ',') - 2)) AND reason LIKE format('%%(%s, %s, x)%%', substring(image, 2, "
        "strpos(image, ',') - 2), substring(image, 2, strpos(image, ',') - 2))"
    ) == [(2_000,)]
    await a.execute("INSERT INTO acc VALUES (40001, 1, 'y')")
    assert (await b.pull(a)).quarantined == 0


# --- keys and values ------------------------------------------------------------------------
async def test_a_row_with_a_very_long_key_may_be_in_conflict(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await node.execute(
            "UPDATE peersync.synced_table SET strategy = 'merge_columns' WHERE table_name = 'doc'"
        )
    await a.execute(f"INSERT INTO doc (k, v) SELECT {LONG_KEY}, 'first'")
    await drain(a, b)
    await a.execute("UPDATE doc SET v = 'a'")
    await b.execute("UPDATE doc SET v = 'b'")
    await drain(a, b)
    assert await a.rows("SELECT v FROM doc") == await b.rows("SELECT v FROM doc")
    assert await b.rows("SELECT count(*) FROM peersync.conflict") == [(1,)]
    await settle(a, b)


async def test_a_row_with_a_very_long_key_may_be_refused(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE doc ADD CHECK (v <> 'bad')")
    await a.execute(f"INSERT INTO doc (k, v) SELECT {LONG_KEY}, 'bad'")
    assert (await b.pull(a)).quarantined == 1
    await a.execute("UPDATE doc SET v = 'good'")
    assert (await b.pull(a)).quarantined == 0
    assert await b.rows("SELECT state FROM peersync.quarantine") == [("superseded",)]


async def test_a_null_in_an_array_arrives_whatever_the_defaults_of_the_database_are(
    two: list[Node],
) -> None:
    a, b = two
    name = b.test.name
    for setting in ("array_nulls = off", "standard_conforming_strings = off"):
        await b.execute(f'ALTER DATABASE "{name}" SET {setting}')
    await a.execute("INSERT INTO doc VALUES ('x', E'back\\\\slash ''', '{1,NULL,3}')")
    assert (await b.pull(a)).quarantined == 0
    assert await b.rows("SELECT v, many FROM doc") == [("back\\slash '", [1, None, 3])]


async def test_a_value_that_is_twice_in_a_deferrable_key_is_refused(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await node.execute("ALTER TABLE acc ADD CONSTRAINT u UNIQUE (note) DEFERRABLE")
    await a.execute("INSERT INTO acc VALUES (1, 1, 'same'), (3, 1, 'x'), (4, 1, 'y')")
    await b.execute("INSERT INTO acc VALUES (2, 1, 'same')")
    head, rows = await b.frame(a)
    assert (await b.pull(a)).quarantined == 1
    assert (await a.applier.apply(head, stream(rows))).quarantined == 1
    words = 'rows of public.acc collide in the deferrable constraint "u"'
    assert await b.rows(WAITING) == [("(1)", "23505", words)]
    assert await a.rows(WAITING) == [("(2)", "23505", words)]
    (number,) = await waiting(b.conn, None)
    assert (await retry(b.conn, number, by="me")).result == "refused"
    await a.execute("UPDATE acc SET note = CASE note WHEN 'x' THEN 'y' ELSE 'x' END WHERE id > 2")
    assert (await b.pull(a)).quarantined == 0  # they have changed places
    assert await b.rows("SELECT id, note FROM acc ORDER BY id") == [
        (2, "same"), (3, "y"), (4, "x"),
    ]  # fmt: skip
    await b.execute("DELETE FROM acc WHERE id = 2")
    assert (await retry(b.conn, number, by="me")).result == "applied"


async def test_ranges_that_meet_in_a_deferrable_exclusion_are_refused(two: list[Node]) -> None:
    a, b = two
    await b.execute(
        "ALTER TABLE acc ADD EXCLUDE USING gist (int4range(n, n + 10) WITH &&) "
        "WHERE (n > 0) DEFERRABLE INITIALLY DEFERRED"
    )
    await b.execute("INSERT INTO acc VALUES (1, 5, ''), (2, -5, '')")
    await a.execute("INSERT INTO acc VALUES (3, 10, ''), (4, -7, ''), (5, 20, '')")
    assert (await b.pull(a)).quarantined == 1
    assert [row[:2] for row in await b.rows(WAITING)] == [("(3)", "23P01")]


# --- what waits while the log is cut --------------------------------------------------------
async def test_a_truncate_that_waits_spares_rows_made_here_later(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'x'), (2, 2, 'y')")
    await drain(a, b)
    await park(b, a)
    await a.execute("TRUNCATE acc")
    await drain(a, b)
    await b.execute("INSERT INTO acc VALUES (5, 5, 'mine')")
    await drain(a, b)
    await settle(a, b)
    assert await kept(b, "I") >= 1
    await unpark(b)
    assert await a.rows(ALL) == await b.rows(ALL) == [(5, 5, "mine")]
    await settle(a, b)
    assert await kept(b, "I") == 0


async def test_rows_that_wait_are_gone_with_a_truncate_that_was_made_here_later(
    two: list[Node],
) -> None:
    a, b = two
    await park(b, a)
    await a.execute("INSERT INTO acc VALUES (1, 1, 'x'), (2, 2, 'y')")
    await drain(a, b)
    await b.execute("TRUNCATE acc")
    await drain(a, b)
    await settle(a, b)
    assert await kept(b, "T") == 0
    await unpark(b)
    assert await a.rows(ALL) == await b.rows(ALL) == []


async def test_a_refused_row_is_not_brought_back_after_a_truncate_that_has_left_the_log(
    two: list[Node],
) -> None:
    a, b = two
    await b.execute("ALTER TABLE acc ADD CONSTRAINT c CHECK (note <> 'bad')")
    await a.execute("INSERT INTO acc VALUES (1, 1, 'bad'), (2, 2, 'good')")
    await drain(a, b)
    await b.execute("TRUNCATE acc")
    await settle(a, b)
    assert await kept(b, "T") == 0
    await b.execute("ALTER TABLE acc DROP CONSTRAINT c")
    for number in await waiting(b.conn, None):
        await retry(b.conn, number, by="me")
    assert await a.rows(ALL) == await b.rows(ALL) == []


async def test_what_waits_does_not_undo_a_newer_change_of_a_third_node(three: list[Node]) -> None:
    a, b, c = three
    await a.execute("INSERT INTO acc VALUES (1, 1, 'x')")
    await drain(a, b, c)
    await a.execute("UPDATE acc SET note = 'older, of a'")
    await a.feed.execute("SELECT peersync.publish()")
    await c.execute("UPDATE acc SET note = 'newer, of c'")
    await b.pull(c)
    await b.execute("ALTER TABLE acc DROP COLUMN n")  # now it waits
    await b.execute(
        "SELECT peersync.capture_install('acc'::regclass, tbl, false, false) "
        "FROM peersync.synced_table WHERE table_name = 'acc'"
    )
    await drain(a, b, c)
    assert await b.rows("SELECT count(*) FROM peersync.quarantine WHERE cause = 'table'") != [(0,)]
    await settle(a, b, c)
    await b.execute("ALTER TABLE acc ADD COLUMN n int")
    await b.execute(
        "SELECT peersync.capture_install('acc'::regclass, tbl, false, false) "
        "FROM peersync.synced_table WHERE table_name = 'acc'"
    )
    await b.applier.resume_parked()
    for node in three:
        assert await node.rows("SELECT note FROM acc") == [("newer, of c",)]
