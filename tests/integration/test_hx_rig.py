"""Attacks on the rig of two databases without agents. Each assertion is what ought to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.prune import prune
from peersync.postgres.log.quarantine import edit, retry
from tests.integration.apply_rig import Node, drain, make_group
from tests.integration.operators_rig import connect
from tests.plugins.clusters import MakeDatabase

TABLES = """
CREATE TABLE public.acc (id int PRIMARY KEY, n int, code text UNIQUE);
CREATE TABLE public.bag (n int, note text);
"""


@pytest.fixture
async def stack(make_database: MakeDatabase) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def two(stack: AsyncExitStack, make_database: MakeDatabase) -> list[Node]:
    return await make_group(stack, make_database(18), make_database(18, nth=1), sql=TABLES)


async def rows(node: Node, table: str) -> list[str]:
    return [r[0] for r in await node.rows(f"SELECT x::text FROM public.{table} x ORDER BY 1")]


async def waiting(node: Node) -> list[tuple]:
    return await node.rows(
        "SELECT id, op::text, key, image, state, settled_by FROM peersync.quarantine ORDER BY id"
    )


async def report(a: Node, b: Node, table: str) -> None:
    for node in (a, b):
        print(node.name, await rows(node, table), "quarantine", await waiting(node))
        print("   conflicts", await node.rows(
            "SELECT key, kind, winner, state, reason FROM peersync.conflict ORDER BY id"))


async def only_waiting(node: Node) -> int:
    found = await node.rows("SELECT id FROM peersync.quarantine WHERE state='waiting' ORDER BY id")
    return found[0][0]


# --- bags ---------------------------------------------------------------------------------
async def test_bag_delete_and_reinsert(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES (1, 'r')")
    await drain(a, b)
    await a.execute("DELETE FROM bag")
    await b.execute("DELETE FROM bag")
    await b.execute("INSERT INTO bag VALUES (1, 'r')")
    await drain(a, b)
    await report(a, b, "bag")
    assert await rows(a, "bag") == await rows(b, "bag")


async def test_bag_there_and_back(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO bag VALUES (1, 'r')")
    await drain(a, b)
    await b.execute("DELETE FROM bag")
    await a.execute("UPDATE bag SET note = 's'")
    await b.pull(a)
    await a.execute("UPDATE bag SET note = 'r'")
    await drain(a, b)
    await report(a, b, "bag")
    assert await rows(a, "bag") == await rows(b, "bag")


async def test_bag_refused_then_deleted_at_its_origin(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100)")
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    await a.execute("DELETE FROM bag")
    await drain(a, b)
    await prune(a.conn); await prune(b.conn)
    await b.execute("ALTER TABLE bag DROP CONSTRAINT small")
    conn = await connect(b.test)
    for (number,) in await b.rows("SELECT id FROM peersync.quarantine WHERE state='waiting'"):
        print(await retry(conn, number, by="me"))
    await conn.close()
    await drain(a, b)
    await report(a, b, "bag")
    assert await rows(a, "bag") == await rows(b, "bag") == []


async def test_bag_refused_then_truncated_at_its_origin(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100)")
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    await a.execute("TRUNCATE bag")
    await drain(a, b)
    await b.execute("ALTER TABLE bag DROP CONSTRAINT small")
    conn = await connect(b.test)
    for (number,) in await b.rows("SELECT id FROM peersync.quarantine WHERE state='waiting'"):
        print(await retry(conn, number, by="me"))
    await conn.close()
    await drain(a, b)
    await report(a, b, "bag")
    assert await rows(a, "bag") == await rows(b, "bag") == []


async def test_bag_refused_and_edited(two: list[Node]) -> None:
    a, b = two
    await b.execute("ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100)")
    await a.execute("INSERT INTO bag VALUES (500, 'r')")
    await drain(a, b)
    conn = await connect(b.test)
    print(await edit(conn, await only_waiting(b), {"n": "5"}, by="me"))
    await conn.close()
    await drain(a, b)
    await report(a, b, "bag")
    assert await rows(a, "bag") == await rows(b, "bag")


# --- quarantine with keys -----------------------------------------------------------------
async def test_edit_of_the_key(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'x')")
    await b.execute("INSERT INTO acc VALUES (2, 2, 'x')")
    await b.pull(a)
    conn = await connect(b.test)
    print(await edit(conn, await only_waiting(b), {"id": "3", "code": "y"}, by="me"))
    await conn.close()
    await drain(a, b)
    await report(a, b, "acc")
    # b settled everything of its own
    assert ("(1,1,x)" in await rows(a, "acc")) == ("(1,1,x)" in await rows(b, "acc"))


async def test_edit_over_something_newer(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'old')")
    await drain(a, b)
    await b.execute("ALTER TABLE acc ADD CONSTRAINT small CHECK (n < 100)")
    await a.execute("UPDATE acc SET n = 500")
    await drain(a, b)
    await b.execute("UPDATE acc SET code = 'newer' WHERE id = 1")
    await drain(a, b)
    await report(a, b, "acc")
    conn = await connect(b.test)
    print(await edit(conn, await only_waiting(b), {"n": "5"}, by="me"))
    await conn.close()
    await drain(a, b)
    await report(a, b, "acc")
    assert await rows(b, "acc") == ["(1,1,newer)"] or await rows(b, "acc") == ["(1,5,newer)"]


async def test_retry_against_an_insert_that_is_open(two: list[Node]) -> None:
    """R2: an absent key is not locked by FOR UPDATE."""
    a, b = two
    await b.execute("ALTER TABLE acc ADD CONSTRAINT small CHECK (n < 100)")
    await a.execute("INSERT INTO acc VALUES (1, 500, 'a')")
    await b.pull(a)
    await b.execute("ALTER TABLE acc DROP CONSTRAINT small")
    number = await only_waiting(b)
    app = await asyncpg.connect(b.test.url())
    await app.execute("BEGIN")
    await app.execute("INSERT INTO acc VALUES (1, 7, 'mine')")
    conn = await connect(b.test)
    task = asyncio.create_task(retry(conn, number, by="me"))
    await asyncio.sleep(1.0)
    print("retry done before the commit:", task.done())
    await app.execute("COMMIT")
    await app.close()
    print(await task)
    await conn.close()
    await drain(a, b)
    await report(a, b, "acc")
    assert await rows(a, "acc") == await rows(b, "acc")


async def test_own_unpublished_row_that_is_written_again_and_refused(two: list[Node]) -> None:
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'first')")
    await drain(a, b)
    await a.execute("BEGIN; UPDATE acc SET code = 'z' WHERE id = 1; INSERT INTO acc VALUES (2, 2, 'y'); COMMIT")
    await a.conn.execute("SELECT peersync.publish()")
    await asyncio.sleep(0.05)
    await b.execute("UPDATE acc SET code = 'y' WHERE id = 1")  # newer, not published
    await b.pull(a)
    print("after the pull:")
    await report(a, b, "acc")
    await drain(a, b)
    print("drained:")
    await report(a, b, "acc")
    await a.execute("UPDATE acc SET code = 'w' WHERE id = 2")  # the obstacle goes
    await drain(a, b)
    for node in (a, b):
        conn = await connect(node.test)
        for (number,) in await node.rows(
            "SELECT id FROM peersync.quarantine WHERE state='waiting' ORDER BY hlc, origin, position"):
            print(node.name, await retry(conn, number, by="me"))
        await conn.close()
    await drain(a, b)
    print("retried:")
    await report(a, b, "acc")
    assert await rows(a, "acc") == await rows(b, "acc")


async def test_own_published_row(two: list[Node]) -> None:
    """The same as before, published first: to compare."""
    a, b = two
    await a.execute("INSERT INTO acc VALUES (1, 1, 'first')")
    await drain(a, b)
    await a.execute("BEGIN; UPDATE acc SET code = 'z' WHERE id = 1; INSERT INTO acc VALUES (2, 2, 'y'); COMMIT")
    await a.conn.execute("SELECT peersync.publish()")
    await asyncio.sleep(0.05)
    await b.execute("UPDATE acc SET code = 'y' WHERE id = 1")
    await b.conn.execute("SELECT peersync.publish()")
    await b.pull(a)
    await drain(a, b)
    await a.execute("UPDATE acc SET code = 'w' WHERE id = 2")
    await drain(a, b)
    for node in (a, b):
        conn = await connect(node.test)
        for (number,) in await node.rows(
            "SELECT id FROM peersync.quarantine WHERE state='waiting' ORDER BY hlc, origin, position"):
            print(node.name, await retry(conn, number, by="me"))
        await conn.close()
    await drain(a, b)
    await report(a, b, "acc")
    assert await rows(a, "acc") == await rows(b, "acc")


# --- manual: the same conflict, depending on batches ---------------------------------------
async def test_a_manual_conflict_is_open_on_both(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await node.execute("UPDATE peersync.synced_table SET strategy = 'manual'")
    await a.execute("INSERT INTO acc VALUES (1, 1, 'first')")
    await drain(a, b)
    await a.execute("UPDATE acc SET code = 'a1'")
    await b.execute("UPDATE acc SET code = 'b1'")
    await a.pull(b)  # a knows of the conflict
    await a.execute("UPDATE acc SET n = n + 1")
    await drain(a, b)
    await report(a, b, "acc")
    counts = [
        (await n.rows("SELECT count(*) FROM peersync.conflict WHERE state = 'open'"))[0][0] for n in two
    ]
    assert counts[0] == counts[1]


# --- capture ------------------------------------------------------------------------------
ALL = Patterns(["*"])


async def test_unlogged_then_logged(two: list[Node]) -> None:
    a, b = two
    for node in two:
        await enrol(node.conn, ALL, lock_timeout_s=5)
    for node in two:
        await node.execute("CREATE UNLOGGED TABLE public.load (id int PRIMARY KEY, v text)")
    await a.execute("INSERT INTO load SELECT g, 'v' FROM generate_series(1, 5) g")
    for node in two:
        print(await enrol(node.conn, ALL, lock_timeout_s=5))
    for node in two:
        await node.execute("ALTER TABLE load SET LOGGED")
        print(await enrol(node.conn, ALL, lock_timeout_s=5))
    await a.execute("UPDATE load SET v = 'w' WHERE id = 1")
    await drain(a, b)
    await report(a, b, "load")
    assert await rows(a, "load") == await rows(b, "load")


async def test_a_type_is_renamed_on_both_sides(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = """CREATE TYPE public.mood AS ENUM ('sad', 'happy');
             CREATE TABLE public.p (id int PRIMARY KEY, m public.mood)"""
    a, b = await make_group(stack, make_database(18), make_database(18, nth=1), sql=sql)
    for node in (a, b):
        await enrol(node.conn, ALL, lock_timeout_s=5)
    app = await asyncpg.connect(a.test.url(), statement_cache_size=0)
    for n in range(8):
        await app.execute(f"INSERT INTO p VALUES ({n}, 'sad')")
    await drain(a, b)
    from peersync.postgres.log.capture import catalog_stamp
    before = [await catalog_stamp(n.conn) for n in (a, b)]
    for node in (a, b):
        await node.execute("ALTER TYPE public.mood RENAME TO feeling")
    after = [await catalog_stamp(n.conn) for n in (a, b)]
    print("the stamp says that something changed:", before != after)
    await app.execute("INSERT INTO p VALUES (100, 'happy')")  # a pooled connection
    await drain(a, b)
    print("parked:", await b.rows("SELECT parked FROM peersync.synced_table"))
    print("resumed:", await b.applier.resume_parked())
    print(await a.rows("SELECT shape, types FROM peersync.shape"))
    await report(a, b, "p")
    await app.close()
    assert await rows(a, "p") == await rows(b, "p")
