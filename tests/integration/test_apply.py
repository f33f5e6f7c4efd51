"""What a peer's changes do to the rows here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.integration.apply_rig import Node, drain, make_group
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, note text);
CREATE TABLE public.pairs (a int, b text, v numeric, PRIMARY KEY (b, a));
CREATE TABLE public.heap (x int, y text);
"""


@pytest.fixture
async def stack(make_database: MakeDatabase) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=[15, 18])
async def two(
    request: pytest.FixtureRequest, stack: AsyncExitStack, make_database: MakeDatabase
) -> list[Node]:
    """a with PostgreSQL 18, b with 15 or 18."""
    return await make_group(stack, make_database(18), make_database(request.param), sql=TABLES)


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
