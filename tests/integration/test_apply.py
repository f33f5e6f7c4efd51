"""What a peer's changes do to the rows here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from peersync.core.errors import CorruptData, DatabaseError, Locked, NotFound, ProtocolError
from peersync.core.names import TableName
from peersync.postgres.log.apply import Applier
from peersync.postgres.log.members import set_state
from peersync.postgres.log.rows import read_shapes, read_target, write_row
from tests.integration.apply_rig import Node, drain, make_group, stream
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, note text);
CREATE TABLE public.pairs (a int, b text, v numeric, PRIMARY KEY (b, a));
CREATE TABLE public.heap (x int, y text);
"""


@pytest.fixture(params=[15, 18])
async def two(
    request: pytest.FixtureRequest, stack: AsyncExitStack, make_database: MakeDatabase
) -> list[Node]:
    """a with PostgreSQL 18, b with 15 or 18."""
    return await make_group(
        stack, *(make_database(n, migrated=True) for n in (18, request.param)), sql=TABLES
    )


async def test_inserts_updates_and_deletes_arrive(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'one'), (2, 2, NULL), (3, 3, 'a \"q\", \\b')")
    await a.execute("INSERT INTO pairs SELECT g, 'k' || g, g * 1.50 FROM generate_series(1, 5) g")
    await a.execute("UPDATE acc SET n = n + 10 WHERE id < 3")
    await a.execute("DELETE FROM acc WHERE id = 2")
    await a.execute("DELETE FROM pairs WHERE a = 4")
    applied = await b.pull(a)
    assert (applied.transactions, applied.changes, applied.conflicts) == (5, 12, 0)
    assert applied.vector[a.origin] == 5
    for table in ("acc", "pairs"):
        sql = f"SELECT t::text FROM {table} t ORDER BY 1"
        assert await b.rows(sql) == await a.rows(sql) != []
    assert (await b.pull(a)).transactions == 0
    assert (await a.pull(b)).transactions == 0, "what was applied is no change of our own"


async def test_newer_change_of_two_wins_on_both_sides(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 0, 'base'), (2, 0, 'base')")
    await drain(a, b)
    await a.execute("UPDATE acc SET note = 'a' WHERE id = 1")
    await b.execute("UPDATE acc SET note = 'b' WHERE id = 1")
    await b.execute("UPDATE acc SET note = 'b' WHERE id = 2")
    await a.execute("UPDATE acc SET note = 'a' WHERE id = 2")
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT id, note FROM acc ORDER BY 1") == [(1, "b"), (2, "a")]
        told = await node.rows("SELECT key, kind, winner, reason FROM peersync.conflict ORDER BY 1")
        assert [t[:2] for t in told] == [(f"({n})", "update_origin_differs") for n in (1, 2)]
        assert all("neither saw the other" in t[3] for t in told)


async def test_a_row_that_one_deletes_and_the_other_updates_ends_the_same(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 0, 'base'), (2, 0, 'base')")
    await drain(a, b)
    await a.execute("DELETE FROM acc WHERE id = 1")
    await b.execute("UPDATE acc SET n = 1 WHERE id = 1")  # newer: the row comes back
    await b.execute("UPDATE acc SET n = 1 WHERE id = 2")
    await a.execute("DELETE FROM acc WHERE id = 2")  # newer: it is gone
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT id, n FROM acc") == [(1, 1)]
    kinds = "SELECT key, kind, winner, kept_image, in_image FROM peersync.conflict ORDER BY key"
    assert await a.rows(kinds) == [
        ("(1)", "update_missing", "incoming", None, "(1,1,base)"),
        ("(2)", "update_missing", "kept", None, "(2,1,base)"),
    ]
    assert await b.rows(kinds) == [
        ("(1)", "delete_origin_differs", "kept", "(1,1,base)", None),
        ("(2)", "delete_origin_differs", "incoming", "(2,1,base)", None),
    ]


async def test_the_same_insert_on_both_sides_is_no_conflict(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await node.execute(
            "INSERT INTO acc VALUES (1, 7, 'same'), (2, $1, 'other')", ord(node.name)
        )
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT n FROM acc ORDER BY id") == [(7,), (ord("b"),)]
        found = await node.rows("SELECT key, kind FROM peersync.conflict")
        assert found == [("(2)", "insert_exists")]


async def test_the_last_change_of_a_row_counts_and_keys_may_move(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc SELECT g, g, NULL FROM generate_series(1, 50) g")
    await drain(a, b)
    await a.execute("UPDATE acc SET id = id + 100 WHERE id > 40")
    await a.execute("UPDATE acc SET id = 1 - id WHERE id < 3; UPDATE acc SET n = 5 WHERE id = 3")
    await a.execute("DELETE FROM acc WHERE id = 3")
    await a.execute("INSERT INTO acc VALUES (3, 33, 'again')")
    await b.pull(a)
    rows = "SELECT t::text FROM acc t ORDER BY id"
    assert await b.rows(rows) == await a.rows(rows)
    assert (3, 33) in await b.rows("SELECT id, n FROM acc")


async def test_truncate_empties_the_table_but_for_what_is_newer(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc SELECT g, 0, 'old' FROM generate_series(1, 5) g")
    await drain(a, b)
    await b.execute("UPDATE acc SET note = 'before' WHERE id = 1")
    await a.execute("INSERT INTO acc VALUES (8, 0, 'gone'); TRUNCATE acc")
    await a.execute("INSERT INTO acc VALUES (9, 0, 'a'), (3, 0, 'a')")
    await b.execute("UPDATE acc SET note = 'after' WHERE id IN (2, 3)")
    await b.execute("INSERT INTO acc VALUES (7, 0, 'b')")
    await drain(a, b)
    for node in two:
        found = await node.rows("SELECT id, note FROM acc ORDER BY id")
        assert found == [(2, "after"), (3, "after"), (7, "b"), (9, "a")]


async def test_tables_without_a_key_keep_their_number_of_equal_rows(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO heap VALUES (1, 'x'), (1, 'x'), (1, 'x'), (2, NULL), (3, '')")
    await drain(a, b)
    await a.execute("DELETE FROM heap WHERE ctid = (SELECT min(ctid) FROM heap)")
    await a.execute("UPDATE heap SET y = 'z' WHERE x = 2; INSERT INTO heap VALUES (2, NULL)")
    await b.execute("INSERT INTO heap VALUES (1, 'x')")
    await drain(a, b)
    for node in two:
        found = await node.rows("SELECT x, y, count(*) FROM heap GROUP BY 1, 2 ORDER BY 1, 2")
        assert found == [(1, "x", 3), (2, "z", 1), (2, None, 1), (3, "", 1)]


async def test_three_nodes_relay_and_end_equal(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    a, b, c = await make_group(
        stack, *(make_database(18, migrated=True) for _ in "abc"), sql=TABLES
    )
    for n, node in enumerate((a, b, c)):
        await node.execute("INSERT INTO acc VALUES ($1, 0, $2)", n, node.name)
        await node.execute("INSERT INTO acc VALUES (9, $1, $2)", n, node.name)
    for _ in range(3):  # a chain: a and c never meet
        for one, other in ((a, b), (b, a), (b, c), (c, b)):
            await one.pull(other)
    rows = "SELECT id, n, note FROM acc ORDER BY id"
    assert await a.rows(rows) == [(0, 0, "a"), (1, 0, "b"), (2, 0, "c"), (9, 2, "c")]
    assert await b.rows(rows) == await c.rows(rows) == await a.rows(rows)
    assert (await b.rows("SELECT count(DISTINCT origin) FROM peersync.relayed"))[0][0] == 2


async def test_a_frame_that_comes_twice_or_to_two_at_once_is_applied_once(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO heap SELECT g, 'x' FROM generate_series(1, 100) g")
    head, rows = await a.frame(b)
    async with Applier(b.database, b.origin) as other, asyncio.TaskGroup() as group:
        both = [
            group.create_task(applier.apply(head, stream(rows))) for applier in (b.applier, other)
        ]
    assert sorted(task.result().transactions for task in both) == [0, 1]
    assert (await b.applier.apply(head, stream(rows))).transactions == 0
    assert await b.rows("SELECT count(*) FROM heap") == [(100,)]


async def test_a_frame_that_breaks_off_leaves_nothing(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc SELECT g, 0, repeat('x', 100) FROM generate_series(1, 99) g")
    head, rows = await a.frame(b)

    async def broken() -> AsyncIterator[bytes]:
        yield rows[0][: len(rows[0]) // 2]
        raise CorruptData("cut")

    async def short() -> AsyncIterator[bytes]:
        yield rows[0][: rows[0].index(b"\n") + 1]

    with pytest.raises(CorruptData, match="cut"):
        await b.applier.apply(head, broken())
    with pytest.raises(ProtocolError, match="announced 99 changes and sent 1"):
        await b.applier.apply(head, short())
    assert await b.rows("SELECT count(*) FROM acc") == [(0,)]
    assert (await b.applier.apply(head, stream(rows))).changes == 99


async def test_a_row_that_somebody_holds_delays_the_run_and_says_who(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 0, 'base')")
    await drain(a, b)
    await a.execute("UPDATE acc SET n = 1")
    head, rows = await a.frame(b)
    await b.execute("BEGIN; UPDATE acc SET note = 'mine'")
    async with Applier(b.database, b.origin, lock_timeout_s=0.2) as applier:
        with pytest.raises(Locked, match=r"process \d+") as caught:
            await applier.apply(head, stream(rows))
        assert caught.value.retryable
        await b.execute("COMMIT")
        applied = await applier.apply(head, stream(rows))
    assert (applied.transactions, applied.conflicts) == (1, 1)
    await drain(a, b)
    for node in two:
        assert await node.rows("SELECT n, note FROM acc") == [(0, "mine")]


async def test_a_held_database_applies_nothing(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 0, 'x')")
    head, rows = await a.frame(b)
    await set_state(b.conn, "held", "restored from a backup")
    for doing in (b.applier.apply(head, stream(rows)), b.applier.resume_parked()):
        with pytest.raises(DatabaseError, match="it is held") as caught:
            await doing
        assert caught.value.detail == "restored from a backup"
    assert await b.rows("SELECT count(*) FROM acc") == [(0,)]


async def test_one_row_is_written_by_its_literals(two: list[Node]) -> None:
    _, b = two
    await b.execute("INSERT INTO acc VALUES (1, 1, 'x')")
    ((tbl,),) = await b.rows("SELECT tbl FROM peersync.synced_table WHERE table_name = 'acc'")
    target = await read_target(b.conn, tbl)
    assert (target.name, target.key, target.parked) == (TableName("public", "acc"), ("id",), None)
    ((number,),) = await b.rows("SELECT shape FROM peersync.shape WHERE table_name = 'acc'")
    shape = (await read_shapes(b.conn, [number]))[number]
    assert await write_row(b.conn, target, shape, "U", "(1)", '(1,2,"a ""b""")') == 1
    assert await write_row(b.conn, target, shape, "I", "(2)", "(2,,)") == 1
    assert await b.rows("SELECT * FROM acc ORDER BY id") == [(1, 2, 'a "b"'), (2, None, None)]
    assert await write_row(b.conn, target, shape, "D", "(1)", None) == 1
    assert await write_row(b.conn, target, shape, "D", "(1)", None) == 0
    with pytest.raises(NotFound):
        await read_target(b.conn, 99)
