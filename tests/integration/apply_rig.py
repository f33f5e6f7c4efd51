"""Two or more databases of one group, and frames carried from one to the other by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import asyncpg

from peersync.postgres.conninfo import resolve
from peersync.postgres.log.apply import Applied, Applier
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import add_member, found, read_members, read_replica, read_vector
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED, Database
from peersync.wire.feed import FeedHead, FeedReader, FeedRequest
from tests.plugins.clusters import Database as TestDatabase

CAPTURE_ALL = """
WITH new AS (
    INSERT INTO peersync.synced_table (schema_name, table_name, relation, state)
    SELECT n.nspname, c.relname, c.oid, 'captured'
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_'
       AND n.nspname NOT IN ('information_schema', 'peersync')
    ON CONFLICT DO NOTHING RETURNING tbl, relation)
SELECT peersync.capture_install(p.relid::oid, new.tbl, false, false)
  FROM new CROSS JOIN LATERAL (
       SELECT new.relation AS relid
        UNION SELECT t.relid::oid FROM pg_partition_tree(new.relation) AS t) AS p"""


class Node:
    """A database of the group. `conn` is an application's; the others serve and ask."""

    def __init__(
        self,
        test: TestDatabase,
        name: str,
        conn: asyncpg.Connection,
        feed: asyncpg.Connection,
        asks: asyncpg.Connection,
    ) -> None:
        self.test = test
        self.name = name
        self.conn = conn
        self.feed = feed
        self.asks = asks
        self.database = Database(name, resolve(test.conninfo()))
        self.origin = 0
        self.applier: Applier

    async def execute(self, sql: str, *args: Any) -> str:
        return str(await self.conn.execute(sql, *args))

    async def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.conn.fetch(sql, *args)]

    async def capture(self) -> None:
        await self.conn.execute(CAPTURE_ALL)

    async def frame(
        self, asker: Node, *, max_changes: int = 20_000
    ) -> tuple[FeedHead, list[bytes]]:
        """What this node would answer now, as it travels: the bytes are the rows'."""
        await self.feed.execute("SELECT peersync.publish()")
        replica = await read_replica(self.feed)
        assert replica is not None
        wanted = FeedRequest(
            database="shop",
            group=replica.group_id,
            origin=asker.origin,
            vector=await read_vector(asker.asks),
            max_changes=max_changes,
        )
        opened = await open_feed(self.feed, wanted)
        pieces: list[bytes] = []

        async def write(data: bytes) -> None:
            pieces.append(data)

        await opened.send(write)
        reader = FeedReader()
        rows = [row for piece in pieces for row in reader.feed(piece)]
        reader.end()
        assert reader.head is not None
        return reader.head, rows

    async def pull(self, source: Node, *, max_changes: int = 20_000) -> Applied:
        """Asks a node and applies what it answers."""
        head, rows = await source.frame(self, max_changes=max_changes)
        return await self.applier.apply(head, stream(rows))


async def stream(rows: list[bytes]) -> AsyncIterator[bytes]:
    for row in rows:
        yield row


class MakeGroup(Protocol):
    def __call__(self, *databases: TestDatabase, sql: str) -> Awaitable[list[Node]]: ...


Connect = Callable[[TestDatabase], Awaitable[asyncpg.Connection]]


async def make_group(stack: AsyncExitStack, *databases: TestDatabase, sql: str) -> list[Node]:
    """A group of databases with the same tables, all captured, each knowing the others."""
    nodes: list[Node] = []
    group = None
    for n, test in enumerate(databases):
        name = "abcdef"[n]
        conn, feed, asks = [await _connect(stack, test) for _ in range(3)]
        await migrate(conn)
        await conn.execute(sql)
        node = Node(test, name, conn, feed, asks)
        replica = await found(conn, name * 32, name, group_id=group)
        group, node.origin = replica.group_id, replica.origin
        await node.capture()
        node.applier = await stack.enter_async_context(Applier(node.database, node.origin))
        stack.push_async_callback(node.database.close)
        nodes.append(node)
    for node in nodes:
        for other in nodes:
            if other is not node:
                await add_member(node.conn, other.origin, other.name * 32, other.name)
    return nodes


async def drain(*nodes: Node) -> None:
    """Every node asks every other until nobody has anything new."""
    moved = True
    while moved:
        moved = False
        for node in nodes:
            for other in nodes:
                if other is not node and (await node.pull(other)).transactions:
                    moved = True


async def members_of(node: Node) -> dict[int, str]:
    return {member.origin: member.node_name for member in await read_members(node.conn)}


async def _connect(stack: AsyncExitStack, test: TestDatabase) -> asyncpg.Connection:
    settings = {**PINNED, "search_path": "pg_catalog, public"}
    conn = await asyncpg.connect(test.url(), server_settings=settings, statement_cache_size=0)
    stack.push_async_callback(conn.close)
    return conn
