"""Answers a peer's questions about digests of this node's tables, line by line.

The peer needs the right to pull, and sees of a table what its filter lets it see. One question is
one read-only transaction in one view, but for totals, which need no common one. Blocks are told
for a minute at most: then the view is let go of and the peer asks for the rest, so that a large
table never holds back vacuum for hours.
A filter's text, and values of rows that it hides, are in no error that a peer reads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Final

import asyncpg
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.proof.kept import ask_to_keep
from peersync.config.model import Config
from peersync.core.errors import BadRequest, PeersyncError, SchemaMismatch, root_error
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.digest import Block, Key, Range, Shape, blocks, probe, row_hashes
from peersync.postgres.errors import TRANSLATED, translate
from peersync.postgres.filters import Shapes, whole
from peersync.postgres.keptback import kept_back
from peersync.postgres.keylook import in_order, look_at_keys, read_fields
from peersync.postgres.keyorder import read_order
from peersync.postgres.pool import Database
from peersync.postgres.proof_blocks import kept_blocks, kept_total, open_kept
from peersync.postgres.rangetotals import cuts, share_out, totals
from peersync.postgres.sqlfiles import queries
from peersync.transport.app import PEER
from peersync.transport.body import read_message
from peersync.wire.digests import (
    MAX_QUESTION_BYTES,
    MEDIA_TYPE,
    PATH,
    Blocks,
    Broken,
    Cuts,
    DigestRequest,
    End,
    Keys,
    Line,
    Probe,
    Rows,
    Totals,
    Values,
    cut,
    encode_line,
    hexadecimal,
    key_size,
)

log = logging.getLogger("peersync.verify")

VIEW_S: Final = 60.0  # for so long one view is read from, where a later one can go on
ALIVE_S: Final = 10.0
KNOWN_S: Final = 15.0  # a catalogue is good for the tables that are asked for next
LOCK_S: Final = 10.0


@dataclass(frozen=True)
class _Known:
    catalog: DatabaseCatalog
    shapes: Shapes
    read_at: float


class DigestsApi:
    """The handler; `routes` lists it."""

    def __init__(self, config: Config, databases: Databases) -> None:
        self._config = config
        self._databases = databases
        self._known: dict[str, _Known] = {}

    def routes(self) -> list[web.RouteDef]:
        return [web.post(PATH, self._answer)]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, DigestRequest, limit=MAX_QUESTION_BYTES)
        request[PEER].require("pull", asked.database)
        database = self._databases.get(asked.database)
        response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE})
        async with database.connect(
            "digests", what="comparing rows for a peer", lock_timeout_s=LOCK_S
        ) as conn:
            await share_out(conn, self._config.verify.processes)
            shape = await self._shape(conn, database, asked)
            if asked.what == "kept total":
                await ask_to_keep(self._config, database, shape)
            await response.prepare(request)
            await _streamed(response, _lines(conn, asked, shape))
        await response.write_eof()
        return response

    async def _shape(
        self, conn: asyncpg.Connection, database: Database, asked: DigestRequest
    ) -> Shape | None:
        """What is asked for, as far as the peer may know of it."""
        if asked.what == "probe":  # the tables are asked for next
            with suppress(PeersyncError, *TRANSLATED):
                await self._look(conn, database)
            return None
        if asked.table is None:
            raise BadRequest("which table?")
        name = TableName(asked.table.schema, asked.table.name)
        names = [name] if asked.only else await _leaves(conn, name)
        known = await self._look(conn, database)
        try:
            return self._visible(database, known, asked, names)
        except (BadRequest, SchemaMismatch):  # it may be new, or have been altered
            self._known.pop(database.name, None)
            known = await self._look(conn, database)
            return self._visible(database, known, asked, names)

    def _visible(
        self, database: Database, known: _Known, asked: DigestRequest, names: Sequence[TableName]
    ) -> Shape:
        """The table as this peer may see it; `names` hold its rows.

        BadRequest, SchemaMismatch where it is another, or one of `names` is not for peers.
        """
        assert asked.table is not None
        name = TableName(asked.table.schema, asked.table.name)
        patterns = self._databases.patterns(database.name)
        tables = [known.catalog.tables[n] for n in names if n in known.catalog.tables]
        hidden = len(tables) < len(names) or not all(patterns.match(n) for n in names)
        if not tables or hidden:
            raise BadRequest(f"there is no table {name} here")
        visible = [known.shapes.get(table.name) or whole(table) for table in tables]
        if len({shape.where for shape in visible}) > 1:
            raise BadRequest(f"the partitions of {name} have different filters")
        types = {c.name: c.type for c in visible[0].columns if not c.generated}
        shown = set.intersection(*({c.name for c in shape.columns} for shape in visible))
        if not asked.columns or not types.keys() & shown >= {*asked.columns, *asked.key}:
            raise BadRequest(f"{name} has no such columns")
        _refuse_unfit(asked)
        own = tuple(types[column] for column in asked.columns)
        if own != asked.types:
            raise SchemaMismatch(f"{name} was altered after it had been described")
        return Shape(
            table=name,
            columns=asked.columns,
            types=own,
            key=asked.key,
            where=visible[0].where,
            wide=asked.wide,
            portable=asked.portable,
            as_text=frozenset(asked.as_text),
            numbers=frozenset(asked.numbers),
            only=asked.only,
        )

    async def _look(self, conn: asyncpg.Connection, database: Database) -> _Known:
        known = self._known.get(database.name)
        if known is None or time.monotonic() - known.read_at > KNOWN_S:
            async with conn.transaction(readonly=True):
                catalog = await read_catalog(conn)
                filters = self._config.database[database.name].filter
                shapes = await shapes_for_peer(conn, filters, catalog)
            known = self._known[database.name] = _Known(catalog, shapes, time.monotonic())
        return known


async def _leaves(conn: asyncpg.Connection, root: TableName) -> list[TableName]:
    """All that a query of a partitioned table reads, whether it is known or not."""
    rows = await conn.fetch(queries("digest")["leaves"], root.schema, root.name)
    return [TableName(row["schema"], row["name"]) for row in rows]


def _refuse_unfit(asked: DigestRequest) -> None:
    """BadRequest for keys that are none of this table."""
    if asked.what == "values" and not asked.key:
        raise BadRequest(f"rows of {asked.table and asked.table.name} have no key to be read by")
    bounds = [
        asked.lower,
        asked.upper,
        *asked.keys,
        *(bound for one in asked.ranges for bound in one),
    ]
    if any(bound is not None and len(bound) != (len(asked.key) or 1) for bound in bounds):
        raise BadRequest("a bound has not as many parts as the key")
    if any(low is None for low, _ in asked.ranges[1:]) or any(
        high is None for _, high in asked.ranges[:-1]
    ):
        raise BadRequest("the ranges overlap")


# --- the lines ------------------------------------------------------------------------------
async def _streamed(response: web.StreamResponse, lines: AsyncIterator[Line]) -> None:
    """Writes the lines, and an empty one while there is nothing to say."""
    writing = asyncio.Lock()

    async def write(data: bytes) -> None:
        async with writing:
            await response.write(data)

    async def alive() -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            await write(b"\n")

    try:
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(alive(), name="digests-alive")
            async for line in lines:
                await write(encode_line(line))
            ticker.cancel()
    except BaseExceptionGroup as errors:
        raise root_error(errors) from errors


async def _lines(
    conn: asyncpg.Connection, asked: DigestRequest, shape: Shape | None
) -> AsyncGenerator[Line, None]:
    """The whole answer; what the database refuses is its last line."""
    try:
        if shape is not None and asked.what in ("cuts", "totals"):
            async with aclosing(_coarse(conn, shape, asked)) as coarse:
                async for line in coarse:
                    yield line
            return
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            if shape is None:
                yield Probe(text=await probe(conn))
                yield End()
            elif asked.what in ("kept", "kept total"):
                async with aclosing(_kept(conn, shape, asked.what)) as told:
                    async for line in told:
                        yield line
            elif asked.what == "blocks":
                async with aclosing(_blocks(conn, shape, asked.lower, asked.upper)) as told:
                    async for line in told:
                        yield line
            else:
                async for line in _rows(conn, shape, asked):
                    yield line
                yield End()
    except (PeersyncError, *TRANSLATED) as exc:
        yield _broken(exc, shape)


def _broken(exc: Exception, shape: Shape | None) -> Broken:
    error = exc if isinstance(exc, PeersyncError) else translate(exc, what="comparing rows")
    if shape is not None and shape.where is not None:
        log.error("%s: %s (%s)", shape.table, error.message, error.detail)
        error = SchemaMismatch(
            f"{shape.table} could not be read with its filter",
            hint="The log of the agent that was asked has the reason.",
        )
    return Broken(
        code=error.code, message=error.message, hint=error.hint, retryable=error.retryable
    )


async def _kept(conn: asyncpg.Connection, shape: Shape, what: str) -> AsyncGenerator[Line, None]:
    kept = await open_kept(conn, shape)
    if kept is None:
        yield End()
        return
    if what == "kept total":
        rows, digest = await kept_total(conn, kept)
        yield Totals(rows=rows, digest=hexadecimal(digest))
        yield End(kept=kept.oldest.isoformat() if kept.oldest is not None else None)
        return
    async with aclosing(kept_blocks(conn, kept)) as lists:
        async for some in lists:
            for part in cut(key_size(block.low) for block in some):
                yield _line(some[part])
    yield End(kept=kept.oldest.isoformat() if kept.oldest is not None else None)


async def _refuse_overlap(conn: asyncpg.Connection, shape: Shape, asked: DigestRequest) -> None:
    """BadRequest for ranges whose rows would be read twice."""
    ends = [bound for one in asked.ranges for bound in one if bound is not None]
    if not await in_order(conn, shape, ends):
        raise BadRequest("the ranges overlap")


async def _coarse(
    conn: asyncpg.Connection, shape: Shape, asked: DigestRequest
) -> AsyncGenerator[Line, None]:
    """In views of their own: the whole table may be read long after it was cut."""
    await _refuse_overlap(conn, shape, asked)
    ranges = asked.ranges
    if asked.what == "cuts":
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            way = await cuts(conn, shape)
        yield Cuts(bounds=way.bounds, ordered=way.ordered, large=way.large, brief=way.brief)
        ranges = ((None, None),) if way.at_once else ()
    async with aclosing(totals(conn, shape, ranges)) as found:
        async for one in found:
            yield Totals(rows=one.rows, digest=one.digest)
    yield End()


async def _blocks(
    conn: asyncpg.Connection, shape: Shape, lower: Key | None, upper: Key | None
) -> AsyncGenerator[Line, None]:
    """Blocks until the end of the table, or of the time that one view is held.

    The last block of a list is told with the next one: where a view ends, a block begins.
    """
    until = time.monotonic() + VIEW_S
    goes_on = (await read_order(conn, shape)).indexed  # else each view is a sort of the table
    kept: Block | None = None
    async with aclosing(blocks(conn, shape, lower, upper)) as lists:
        async for some in lists:
            made = [kept, *some] if kept is not None else some
            told, kept = made[:-1], made[-1]
            for part in cut(key_size(block.low) for block in told):
                yield _line(told[part])
            if told and goes_on and time.monotonic() > until:
                yield End(next=kept.low)
                return
    if kept is not None:
        yield _line([kept])
    yield End()


def _line(some: Sequence[Block]) -> Blocks:
    return Blocks(
        lows=tuple(block.low for block in some),
        rows=tuple(block.rows for block in some),
        digests=tuple(hexadecimal(block.digest) for block in some),
    )


async def _rows(
    conn: asyncpg.Connection, shape: Shape, asked: DigestRequest
) -> AsyncGenerator[Line, None]:
    if asked.what == "rows":
        await _refuse_overlap(conn, shape, asked)
        ranges = [Range(low, high, 0, 0) for low, high in asked.ranges]
        async for some in row_hashes(conn, shape, ranges):
            for part in cut(key_size(row.key) for row in some):
                rows = some[part]
                yield Rows(
                    keys=tuple(row.key for row in rows),
                    digests=tuple(hexadecimal(row.digest) for row in rows),
                    copies=tuple(row.copies for row in rows),
                    places=tuple(row.place for row in rows),
                )
    elif asked.what == "keys":
        looked = [*(await look_at_keys(conn, shape, asked.keys)).items()]
        for part in cut(key_size(key) for key, _ in looked):
            yield Rows(
                keys=tuple(key for key, _ in looked[part]),
                digests=tuple(hexadecimal(row.digest) for _, row in looked[part]),
                copies=tuple(row.copies for _, row in looked[part]),
                versions=tuple(row.version for _, row in looked[part]),
            )
    elif asked.what == "kept back":  # of rows that a filter hides, nothing is told
        held = await kept_back(conn, shape, asked.keys) if shape.where is None else set()
        for part in cut(map(key_size, told := sorted(held))):
            yield Keys(keys=tuple(told[part]))
    else:
        fields = [*(await read_fields(conn, shape, asked.keys)).items()]
        for part in cut(key_size(key) + key_size(row.texts) for key, row in fields):
            yield Values(
                keys=tuple(key for key, _ in fields[part]),
                digests=tuple(row.digests for _, row in fields[part]),
                texts=tuple(row.texts for _, row in fields[part]),
            )
