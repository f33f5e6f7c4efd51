"""Refused changes of a pair: what a later change, a retry or an edit leaves equal on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from peersync.core.errors import BadRequest
from peersync.postgres.log.prune import prune
from peersync.postgres.log.quarantine import edit, retry
from tests.integration.apply_rig import Node, drain, make_group
from tests.integration.operators_rig import connect
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, code text UNIQUE);
CREATE TABLE public.bag (n int, note text);
"""
STATES = "SELECT id, state FROM peersync.quarantine ORDER BY id"


@pytest.fixture(params=[15, 18])
async def two(
    request: pytest.FixtureRequest, make_database: MakeDatabase
) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        databases = [make_database(request.param, nth=nth, migrated=True) for nth in (0, 1)]
        nodes = await make_group(stack, *databases, sql=TABLES)
        await nodes[1].execute(
            "ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100);"
            "ALTER TABLE acc ADD CONSTRAINT small CHECK (n < 100)"
        )
        yield nodes


async def rows(node: Node, table: str) -> list[str]:
    return [r[0] for r in await node.rows(f"SELECT x::text FROM public.{table} x ORDER BY 1")]


async def states(node: Node) -> list[str]:
    return [state for _, state in await node.rows(STATES)]


async def with_first(
    node: Node, work: Callable[[asyncpg.Connection, int], Coroutine[Any, Any, Any]]
) -> Any:
    """What an operator does with the first change that waits."""
    conn = await connect(node.test)
    try:
        ((number, _), *_) = await node.rows(STATES)
        return await work(conn, number)
    finally:
        await conn.close()


async def again(conn: asyncpg.Connection, number: int) -> str:
    return (await retry(conn, number, by="ann")).result


# --- rows without a key ---------------------------------------------------------------------
async def test_a_refused_row_without_a_key_is_gone_once_its_origin_has_deleted_it(
    two: list[Node],
) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES (1, 'r'), (500, 'r')")
    await drain(a, b)
    await a.execute("INSERT INTO bag VALUES (500, 'r'), (500, 's')")
    await drain(a, b)
    assert await states(b) == ["waiting"] * 3
    await a.execute("DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE n = 500)")
    await drain(a, b)
    assert await states(b) == ["superseded", "waiting", "waiting"]
    await a.execute("TRUNCATE bag")
    await drain(a, b)
    await prune(b.conn)
    assert await states(b) == ["superseded"] * 3
    assert await rows(b, "bag") == []


async def test_a_delete_takes_one_that_waits_before_an_equal_one_that_is_there(
    two: list[Node],
) -> None:
    a, b = two
    await b.execute("ALTER TABLE bag DROP CONSTRAINT small")
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    await b.execute("ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100) NOT VALID")
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    await a.execute("DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag)")
    await drain(a, b)
    assert await states(b) == ["superseded"]
    assert await rows(a, "bag") == await rows(b, "bag") == ["(500,r)"]


async def test_a_delete_of_somebody_who_never_had_the_waiting_row_leaves_it(
    two: list[Node],
) -> None:
    a, b = two
    await b.execute("INSERT INTO bag VALUES (1, 'r')")
    await drain(a, b)
    await b.execute("ALTER TABLE bag DROP CONSTRAINT small, ADD CHECK (n > 1) NOT VALID")
    await a.execute("INSERT INTO bag VALUES (1, 'r')")
    await b.pull(a)
    await b.execute("DELETE FROM bag")  # its own: what waits is not touched
    await drain(a, b)
    assert (await states(b), await rows(a, "bag")) == (["waiting"], ["(1,r)"])


async def test_an_edited_row_without_a_key_takes_the_place_of_the_one_that_was_sent(
    two: list[Node],
) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    await with_first(b, lambda conn, number: edit(conn, number, {"n": "5"}, by="ann"))
    await drain(a, b)
    assert await rows(a, "bag") == await rows(b, "bag") == ["(5,r)"]


# --- rows with a key ------------------------------------------------------------------------
async def test_an_edit_of_the_key_is_refused(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 500, 'x')")
    await b.pull(a)
    with pytest.raises(BadRequest, match=r"id is the key of public\.acc"):
        await with_first(b, lambda conn, number: edit(conn, number, {"id": "3"}, by="ann"))
    same = {"id": "1", "n": "3"}
    await with_first(b, lambda conn, number: edit(conn, number, same, by="ann"))
    await drain(a, b)
    assert await rows(a, "acc") == await rows(b, "acc") == ["(1,3,x)"]


async def test_an_edit_does_not_overwrite_what_is_newer(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'old')")
    await drain(a, b)
    await a.execute("UPDATE acc SET n = 500")
    await drain(a, b)
    await b.execute("UPDATE acc SET code = 'newer'")
    with pytest.raises(BadRequest, match=r"the row \(1\) of public.acc was changed after"):
        await with_first(b, lambda conn, number: edit(conn, number, {"n": "5"}, by="ann"))
    assert await with_first(b, again) == "superseded"
    await drain(a, b)
    assert await rows(a, "acc") == await rows(b, "acc") == ["(1,1,newer)"]


@pytest.mark.parametrize("what", ["retry", "edit"])
async def test_an_insert_that_is_still_open_is_not_overwritten(two: list[Node], what: str) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 500, 'a')")
    await b.pull(a)
    await b.execute("ALTER TABLE acc DROP CONSTRAINT small")

    async def late_edit(conn: asyncpg.Connection, number: int) -> str:
        with pytest.raises((BadRequest, asyncpg.UniqueViolationError)):
            await edit(conn, number, {"n": "5"}, by="ann")
        return await again(conn, number)

    app = await asyncpg.connect(b.test.url())
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, app.transaction():
        await app.execute("INSERT INTO acc VALUES (1, 7, 'mine')")
        done = group.create_task(with_first(b, again if what == "retry" else late_edit))
        while not await b.asks.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    await app.close()
    assert done.result() == "superseded"
    await drain(a, b)
    assert await rows(a, "acc") == await rows(b, "acc") == ["(1,7,mine)"]
