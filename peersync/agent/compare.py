"""How many rows a sync would insert, update and leave, table by table, before it begins.

Counted exactly where that is cheap: small tables, sixteen bytes a row over the network.
Otherwise what the planners of both databases believe, marked as an estimate; what nobody
knows stays unknown.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import msgspec

from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.plan import Plan, TablePlan
from peersync.core.errors import BadRequest, Denied, PeersyncError
from peersync.core.names import TableName
from peersync.core.plancounts import RowCounts
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.pool import Database
from peersync.postgres.rowhash import compare_hashes, hashes, send_hashes
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import Catalogue, RowHashRequest, TableInfo, TableRef

log = logging.getLogger("peersync.target")

PATH = "/api/sync/row-hashes"
CHEAP_ROWS = 200_000
CHEAP_BYTES = 128 << 20
_MIRROR_TIMES = 10  # rows that will be deleted are worth a longer look
_ALL_ROWS = 1_000_000
_PATIENCE_S = 20.0
_LOCK_S = 5.0


class RowHashes:
    """The source's side."""

    def __init__(self, databases: Databases, backups: Backups) -> None:
        self._databases = databases
        self._backups = backups

    async def send(
        self, peer: Peer, asked: RowHashRequest, begin: Callable[[], Awaitable[_Take]]
    ) -> None:
        """Streams the hashes of one table. Raises before `begin` what the peer should know."""
        await self._backups.offers.require(peer, asked.database, asked.session)
        database = self._databases.get(asked.database)
        name = TableName(asked.table.schema, asked.table.name)
        if not self._databases.patterns(asked.database).match(name):
            raise Denied(f"{name} is left out here by the configuration")
        async with (
            database.acquire("comparing rows", lock_timeout_s=_LOCK_S) as connection,
            connection.transaction(readonly=True),
        ):
            query = await self._query(connection, asked, name)
            await send_hashes(connection, query, await begin())

    async def _query(
        self, connection: asyncpg.Connection, asked: RowHashRequest, name: TableName
    ) -> str:
        catalog = await read_catalog(connection)
        table = catalog.tables.get(name)
        if table is None:
            raise BadRequest(f"there is no table {name} here")
        shapes = await shapes_for_peer(connection, self._backups.filters(asked.database), catalog)
        shape = shapes.get(name)
        known = {c.name for c in (shape.columns if shape else table.columns)}
        if not known.issuperset((*asked.columns, *asked.key)):
            raise BadRequest(f"{name} has no such columns")
        return hashes(name, asked.columns, asked.key, shape.where if shape else None)


_Take = Callable[[bytes], Awaitable[None]]


class Comparison:
    """The target's side: fills in the counts of a plan."""

    def __init__(
        self,
        client: PeerClient,
        database: Database,
        source: Catalogue,
        here: DatabaseCatalog,
        session: str | None,
    ) -> None:
        self._client = client
        self._database = database
        self._source = {TableName(t.schema, t.name): t for t in source.tables}
        self._here = here
        self._session = session

    async def fill(self, plan: Plan, *, mirror: bool) -> Plan:
        """The plan with counts. What can't be counted in time is estimated."""
        deadline = time.monotonic() + _PATIENCE_S
        left = _ALL_ROWS
        counted: dict[TableName, RowCounts] = {}
        for table in sorted(plan.tables, key=lambda t: t.size_bytes):
            counts = estimate(table)
            if self._is_cheap(table, mirror=mirror) and (table.rows or 0) <= left:
                left -= table.rows or 0
                counts = await self._counted(table, deadline - time.monotonic()) or counts
            counted[table.table] = counts
        tables = tuple(msgspec.structs.replace(t, counts=counted[t.table]) for t in plan.tables)
        return msgspec.structs.replace(plan, tables=tables)

    def _is_cheap(self, table: TablePlan, *, mirror: bool) -> bool:
        if table.action not in ("upsert", "insert"):
            return False
        times = _MIRROR_TIMES if mirror else 1
        here = self._here.tables[table.table]
        rows = max(table.rows or 0, table.rows_here or 0)
        size = max(table.size_bytes, here.size_bytes)
        return rows <= CHEAP_ROWS * times and size <= CHEAP_BYTES * times

    async def _counted(self, table: TablePlan, patience_s: float) -> RowCounts | None:
        there, here = self._source[table.table], self._here.tables[table.table]
        own = {c.name: c for c in here.columns}
        common = [c for c in there.columns if not c.generated and not own[c.name].generated]
        if patience_s <= 0 or any(own[c.name].type != c.type for c in common):
            return None
        columns = tuple(c.name for c in common)
        query = hashes(table.table, columns, table.key)
        try:
            async with (
                asyncio.timeout(patience_s),
                self._database.acquire("comparing rows", lock_timeout_s=_LOCK_S) as connection,
            ):
                found = await compare_hashes(
                    connection, self._there(there, columns, table.key), query, keyed=bool(table.key)
                )
        except (PeersyncError, TimeoutError) as exc:
            log.info("%s is not counted: %s", table.table, exc or "it takes too long")
            return None
        return RowCounts(
            insert=found.insert,
            update=found.update,
            unchanged=found.unchanged,
            target_only=found.target_only,
            exact=True,
        )

    async def _there(
        self, table: TableInfo, columns: tuple[str, ...], key: tuple[str, ...]
    ) -> AsyncIterator[bytes]:
        asked = RowHashRequest(
            database=self._database.name,
            session=self._session,
            table=TableRef(schema=table.schema, name=table.name),
            columns=columns,
            key=key,
        )
        async with self._client.open_stream(PATH, method="POST", body=asked) as stream:
            async for piece in stream:
                yield piece


def estimate(table: TablePlan) -> RowCounts:
    """By the planners of both sides; None is unknown."""
    there, here = table.rows, table.rows_here
    if table.action == "blocked":
        return RowCounts(insert=0, update=0, unchanged=0, target_only=None)
    if here == 0:
        return RowCounts(insert=there, update=0, unchanged=0, target_only=0)
    if there is None or here is None:
        return RowCounts()
    return RowCounts(insert=max(there - here, 0), target_only=max(here - there, 0))
