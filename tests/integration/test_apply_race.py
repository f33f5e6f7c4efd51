"""Applications write the same rows on several nodes while changes arrive on all.

In the end the nodes are equal, and each row is what the change with the highest version made
it: a change that lost its place to a row that it had never seen would show here.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from peersync.core.errors import PeersyncError
from peersync.postgres.log.staging import CREATE, IN, copy_in
from tests.integration.apply_rig import Node, drain, make_group
from tests.plugins.clusters import MakeDatabase

HOT = 12
WRITERS = 4
SECONDS = 6.0
TABLES = "CREATE TABLE public.hot (id int PRIMARY KEY, who text NOT NULL, n int NOT NULL)"
# The newest change of each row that a log knows, and what the row is after it.
NEWEST = """
SELECT DISTINCT ON (e.key) e.key, e.hlc, e.origin,
       CASE WHEN e.op = 'D' THEN NULL ELSE e.image END
  FROM peersync.entry e
 ORDER BY e.key, e.hlc DESC, e.origin DESC, e.position DESC, e.ordinal DESC"""


async def write_for_a_while(node: Node, name: str, seed: int, until: float) -> int:
    """Changes, deletes and inserts of a few rows; gives how many were committed."""
    choose, done = random.Random(seed), 0
    conn = await asyncpg.connect(node.test.url())
    try:
        while asyncio.get_running_loop().time() < until:
            key = choose.randrange(HOT)
            try:
                kind = choose.random()
                async with conn.transaction():
                    if kind < 0.15:
                        await conn.execute("DELETE FROM hot WHERE id = $1", key)
                    else:
                        await conn.execute(
                            "INSERT INTO hot VALUES ($1, $2, $3) ON CONFLICT (id) "
                            "DO UPDATE SET who = excluded.who, n = excluded.n",
                            key, name, done,
                        )  # fmt: skip
                    if kind > 0.7:
                        other = choose.randrange(HOT)
                        await conn.execute("UPDATE hot SET n = -n WHERE id = $1", other)
                        await asyncio.sleep(choose.random() / 100)
                done += 1
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                continue
            if choose.random() < 0.3:
                await asyncio.sleep(choose.random() / 100)
    finally:
        await conn.close()
    return done


async def keep_pulling(node: Node, source: Node, until: float) -> tuple[int, int]:
    applied = retried = 0
    while asyncio.get_running_loop().time() < until:
        try:
            applied += (await node.pull(source, max_changes=random.choice((1, 20, 500)))).changes
        except PeersyncError as error:
            assert error.retryable, repr(error)
            retried += 1
    return applied, retried


async def race(nodes: list[Node], seconds: float) -> None:
    until = asyncio.get_running_loop().time() + seconds
    async with asyncio.TaskGroup() as group:
        for n, node in enumerate(nodes):
            for w in range(WRITERS):
                name = f"{node.name}{w}"
                group.create_task(write_for_a_while(node, name, n * 100 + w, until))
        for node in nodes:
            group.create_task(keep_pulling(node, nodes[nodes.index(node) - 1], until))
    await drain(*nodes)


@pytest.mark.parametrize("size", [2, 3])
async def test_nodes_that_write_the_same_rows_end_equal(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int
) -> None:
    nodes = await make_group(
        stack, *(make_database(18, migrated=True) for _ in range(size)), sql=TABLES
    )
    await race(nodes, SECONDS)  # three are a ring: each relays
    a = nodes[0]
    rows = "SELECT ROW(id)::text, hot::text FROM hot ORDER BY 1"
    for node in nodes[1:]:
        assert await node.rows(rows) == await a.rows(rows)
    versions: dict[str, tuple[int, int, str | None]] = {}
    for node in nodes:
        for key, hlc, origin, image in await node.rows(NEWEST):
            versions[key] = max(versions.get(key, (0, 0, None)), (hlc, origin, image))
    newest = {key: image for key, (_, _, image) in versions.items() if image is not None}
    assert dict(await a.rows(rows)) == newest
    told = [
        await n.rows("SELECT winner, count(*) FROM peersync.conflict GROUP BY 1") for n in nodes
    ]
    assert {winner for of_node in told for winner, _ in of_node} == {"incoming", "kept"}
    assert sum(count for of_node in told for _, count in of_node) > 50, told


async def test_a_session_that_is_ended_at_any_moment_applies_nothing_twice(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = "CREATE TABLE public.heap (n int)"
    a, b = await make_group(
        stack, *(make_database(18, nth=n, migrated=True) for n in (0, 1)), sql=sql
    )
    for n in range(300):
        await a.execute("INSERT INTO heap SELECT $1 FROM generate_series(1, 20)", n)
    ended = failed = 0
    killer = await asyncpg.connect(b.test.url())
    stack.push_async_callback(killer.close)

    async def kill_now_and_then() -> None:
        nonlocal ended
        while True:
            await asyncio.sleep(random.uniform(0.01, 0.3))
            ended += await killer.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'peersync/apply' AND datname = current_database()"
            )

    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill_now_and_then())
        while (await b.rows("SELECT sum(applied) FROM peersync.member"))[0][0] < 300:
            try:
                await b.pull(a, max_changes=random.choice((20, 100, 400)))
            except PeersyncError as error:
                assert error.retryable, repr(error)
                failed += 1
        killing.cancel()
    assert await b.rows("SELECT n, count(*) FROM heap GROUP BY n ORDER BY n") == [
        (n, 20) for n in range(300)
    ]
    assert failed, f"{ended} were ended"


async def test_a_server_that_ends_while_it_is_too_slow_to_read_is_not_waited_for(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    conn = await asyncpg.connect(make_database(18).url())
    stack.push_async_callback(conn.close)
    await conn.execute(CREATE)
    server = conn.get_server_pid()

    async def rows() -> AsyncIterator[bytes]:
        yield b""
        os.kill(server, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.5, end)
        for _ in range(200):
            yield b"1\t1\t1\tthen\t1\tI\tk\t" + b"x" * 100_000 + b"\t\\N\n"

    def end() -> None:
        os.kill(server, signal.SIGTERM)
        os.kill(server, signal.SIGCONT)

    async with asyncio.timeout(120):
        with pytest.raises(asyncpg.PostgresError):
            await copy_in(conn, IN, rows())
