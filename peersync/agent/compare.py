"""How many rows a sync would insert, update and leave, table by table, before it begins.

Counted exactly where that is cheap: small tables, twenty bytes a row over the network.
Otherwise what the planners of both databases believe, marked as an estimate; what nobody
knows stays unknown.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import msgspec

from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.plan import Plan
from peersync.agent.tableplan import TablePlan
from peersync.core.errors import BadRequest, PeersyncError
from peersync.core.names import TableName
from peersync.core.plancounts import RowCounts
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.filters import whole
from peersync.postgres.narrow import narrowed
from peersync.postgres.pool import Database
from peersync.postgres.rowhash import Hashed, compare_hashes, hashes, send_hashes
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import Catalogue, HashedTable, RowHashRequest, TableRef
from peersync.wire.narrow import Narrow

log = logging.getLogger("peersync.target")

PATH = "/api/sync/row-hashes"
CHEAP_ROWS = 200_000
CHEAP_BYTES = 128 << 20
_MIRROR_TIMES = 10  # rows that will be deleted are worth a longer look
_ALL_ROWS = 4_000_000
_BATCH = 250
_TEXT_KEYS = re.compile(
    r"smallint|integer|bigint|uuid|text|boolean|date|bytea|oid|character varying.*"
    r"|timestamp.*with(out)? time zone"
)
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
        """Streams the hashes of some tables. Raises before `begin` what the peer should know."""
        await self._backups.offers.require(peer, asked.database, asked.session)
        database = self._databases.get(asked.database)
        async with (
            database.acquire("comparing rows", lock_timeout_s=_LOCK_S) as connection,
            connection.transaction(readonly=True),
        ):
            await connection.execute(f"SET LOCAL statement_timeout = {int(_PATIENCE_S * 1000)}")
            tables = await self._tables(connection, asked)
            await send_hashes(connection, hashes(tables), await begin())

    async def _tables(self, connection: asyncpg.Connection, asked: RowHashRequest) -> list[Hashed]:
        """What is asked for, as far as the peer may know of it."""
        catalog = await read_catalog(connection)
        shapes = await shapes_for_peer(connection, self._backups.filters(asked.database), catalog)
        names = [TableName(one.table.schema, one.table.name) for one in asked.tables]
        shapes = await narrowed(connection, shapes, catalog, asked.narrow, names)
        patterns = self._databases.patterns(asked.database)
        found = []
        for one in asked.tables:
            name = TableName(one.table.schema, one.table.name)
            table = catalog.tables.get(name)
            if table is None or not patterns.match(name):
                raise BadRequest(f"there is no table {name} here")
            shape = shapes.get(name) or whole(table)
            if not {c.name for c in shape.columns}.issuperset((*one.columns, *one.key)):
                raise BadRequest(f"{name} has no such columns")
            found.append(Hashed(name, one.columns, one.key, shape.where))
        return found


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
        narrow: Narrow | None = None,
    ) -> None:
        self._client = client
        self._database = database
        self._source = {TableName(t.schema, t.name): t for t in source.tables}
        self._here = here
        self._session = session
        self._narrow = narrow

    async def fill(self, plan: Plan, *, mirror: bool) -> Plan:
        """The plan with counts. What can't be counted in time stays an estimate."""
        deadline = time.monotonic() + _PATIENCE_S
        counts: dict[TableName, RowCounts] = {}
        for batch in self._batches(plan, mirror=mirror):
            counts |= await self._counted(batch, deadline - time.monotonic())
        tables = tuple(
            msgspec.structs.replace(t, counts=counts.get(t.table, t.counts)) for t in plan.tables
        )
        return msgspec.structs.replace(plan, tables=tables)

    def _batches(self, plan: Plan, *, mirror: bool) -> list[list[Hashed]]:
        """The tables that are cheap to count, the smallest first."""
        left = _ALL_ROWS
        cheap = []
        for table in sorted(plan.tables, key=lambda t: t.size_bytes):
            rows = max(table.rows or 0, table.rows_here or 0)
            if rows > left or not self._is_cheap(table, rows, mirror=mirror):
                continue
            hashed = self._hashed(table)
            if hashed is not None:
                left -= rows
                cheap.append(hashed)
        return [cheap[n : n + _BATCH] for n in range(0, len(cheap), _BATCH)]

    def _is_cheap(self, table: TablePlan, rows: int, *, mirror: bool) -> bool:
        if table.action not in ("upsert", "insert"):
            return False
        times = _MIRROR_TIMES if mirror else 1
        size = max(table.size_bytes, self._here.tables[table.table].size_bytes)
        return rows <= CHEAP_ROWS * times and size <= CHEAP_BYTES * times

    def _hashed(self, table: TablePlan) -> Hashed | None:
        """None where the two sides' texts can't be compared: their types differ."""
        own = {c.name: c for c in self._here.tables[table.table].columns}
        there = self._source[table.table]
        common = [c for c in there.columns if not c.generated and not own[c.name].generated]
        if any(own[c.name].type != c.type for c in common):
            return None
        return Hashed(table.table, tuple(c.name for c in common), table.key)

    def _keys_are_texts(self, one: Hashed) -> bool:
        """Whether keys are equal exactly if their texts are: 1.0 and 1.00 are not."""
        table = self._here.tables[one.table]
        types = [c.type for c in table.columns if c.name in one.key]
        return all(_TEXT_KEYS.fullmatch(t) is not None for t in types)

    async def _counted(self, tables: list[Hashed], patience_s: float) -> dict[TableName, RowCounts]:
        try:
            async with (
                asyncio.timeout(max(patience_s, 0)),
                self._database.acquire("comparing rows", lock_timeout_s=_LOCK_S) as connection,
            ):
                found = await compare_hashes(connection, self._there(tables), tables)
        except (PeersyncError, TimeoutError) as exc:
            log.info("%d tables are not counted: %s", len(tables), exc or "it takes too long")
            return {}
        return {
            one.table: RowCounts(
                insert=difference.insert,
                update=difference.update,
                unchanged=difference.unchanged,
                target_only=None if self._narrow else difference.target_only,
                exact=self._keys_are_texts(one),
            )
            for one, difference in zip(tables, found, strict=True)
        }

    async def _there(self, tables: list[Hashed]) -> AsyncIterator[bytes]:
        asked = RowHashRequest(
            database=self._database.name,
            session=self._session,
            narrow=self._narrow,
            tables=tuple(
                HashedTable(
                    table=TableRef(schema=one.table.schema, name=one.table.name),
                    columns=one.columns,
                    key=one.key,
                )
                for one in tables
            ),
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
