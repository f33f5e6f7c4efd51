"""The target's side of a delta: compares its tables with the source's view, and says what it wants.

It runs beside the fetching and loading of an attempt: the source sends a table's rows as soon as
it is known which. Of each table it keeps what `postgres.compared` needs to prove later that the
comparison still holds. What can't be compared, or not cheaply, is asked for whole, with the reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol

import asyncpg

from peersync.agent.delta.ahead import differs_everywhere, is_worth_it
from peersync.agent.leftovers import stage_prefix
from peersync.agent.tableplan import TablePlan
from peersync.core.errors import (
    BadRequest,
    DatabaseError,
    NotFound,
    PeerFailed,
    PeerUnreachable,
    ProtocolError,
)
from peersync.core.names import TableName, quote_literal
from peersync.postgres import rowlists
from peersync.postgres.catalog import Table, read_catalog
from peersync.postgres.compared import Comparison, look
from peersync.postgres.digest import (
    ROWS_IN_BLOCK,
    Block,
    Range,
    Shape,
    Tally,
    compare_blocks,
    probe,
    row_hashes,
)
from peersync.postgres.keyorder import written_by_type
from peersync.postgres.pool import Database
from peersync.transport.client import PeerClient, PeerStream
from peersync.wire.delta import (
    MAX_KEYS,
    MAX_RANGES,
    BlocksRequest,
    Compared,
    Digest,
    Key,
    KeyRange,
    RowsRequest,
    Unpacker,
    Wanted,
)
from peersync.wire.messages import Ok, Part

log = logging.getLogger("peersync.target")

ROWS_AT_ONCE: Final = 200_000  # whose hashes one request asks for
BREAKS: Final = 5  # of an answer at one place: then it is not the network
_BREAK_S: Final = 0.1
_BLOCKS_AT_ONCE: Final = 512
_FEW_BLOCKS: Final = 16  # may differ in any table
_MOST_DIFFERING: Final = 0.3  # of the blocks, in a plan that does not say

Patiently = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


def batched(digests: Sequence[Digest]) -> Iterator[list[Block]]:
    """Few blocks at a time: what differs too much is given up before all of it was read."""
    for start in range(0, len(digests), _BLOCKS_AT_ONCE):
        yield [Block(*one) for one in digests[start : start + _BLOCKS_AT_ONCE]]


class Notes(Protocol):
    """Who keeps what became of the tables."""

    def note_compared(self, table: TableName, found: Comparison) -> None: ...

    def note_whole(self, table: TableName, reason: str) -> None: ...

    def note_progress(self, table: TableName, rows: int) -> None: ...

    def note_wire(self, size_bytes: int) -> None: ...


class _Whole(Exception):
    """All rows of the table are wanted after all, for this reason."""


class _Broken(Exception):
    """The network ended in the middle."""


@dataclass(frozen=True)
class _Task:
    """One table that is compared."""

    plan: TablePlan
    part: Part
    table: Table
    what: Compared
    shape: Shape

    @property
    def name(self) -> TableName:
        return self.table.name


class Taker:
    """`run` once for one generation of the source's backup."""

    def __init__(
        self,
        session: str,
        client: PeerClient,
        database: Database,
        plans: Sequence[TablePlan],
        notes: Notes,
        patiently: Patiently,
        begin_again: Callable[[], Awaitable[None]],
        *,
        parallel: int,
        lock_timeout_s: float,
        exported: str,
    ) -> None:
        """`patiently` repeats a call to the source that could not be reached.

        `begin_again` asks for the backup once more, when the source has lost its view.
        `exported` is the snapshot in which all tables are compared; see `hold`.
        """
        self._exported = exported
        self._session = session
        self._client = client
        self._database = database
        self._plans = {plan.table: plan for plan in plans}
        self._notes = notes
        self._patiently = patiently
        self._begin_again = begin_again
        self._free = asyncio.Semaphore(parallel)
        self._lock_timeout_s = lock_timeout_s
        self._path = f"/api/sync/backups/{session}"

    async def run(self, generation: int, parts: Sequence[Part]) -> None:
        """Compares the tables of these parts, and asks for the rows that differ."""
        async with self._database.acquire("reading the catalog") as connection:
            catalog = await read_catalog(connection)
            own = await probe(connection)
        async with asyncio.TaskGroup() as group:
            for part in parts:
                assert part.table is not None
                table = catalog.tables.get(TableName(part.table.schema, part.table.name))
                work = self._take(generation, part, table, portable=part.probe != own)
                group.create_task(work, name=f"compare-{part.id}")

    async def _take(
        self, generation: int, part: Part, table: Table | None, *, portable: bool
    ) -> None:
        async with self._free:
            try:
                if table is None:  # the loader says what that means
                    raise _Whole("it is not here any more")
                await self._compare(self._task(generation, part, table, portable=portable))
            except _Whole as exc:
                reason = str(exc)
            except DatabaseError as exc:
                if exc.retryable:
                    raise
                reason = f"it could not be compared: {exc.message}"
            except (PeerFailed, ProtocolError, BadRequest) as exc:  # also: too large to be read
                reason = f"it could not be compared: {exc.message}"
            else:
                return
            assert part.table is not None
            name = TableName(part.table.schema, part.table.name)
            log.info("session %s: %s is taken whole: %s", self._session, name, reason)
            self._notes.note_whole(name, reason)
            await self._want(Wanted(generation=generation, part=part.id, whole=True, last=True))

    def _task(self, generation: int, part: Part, table: Table, *, portable: bool) -> _Task:
        plan = self._plans[table.name]
        columns = plan.compared
        types = {c.name: c.type for c in table.columns if not c.generated}
        here = tuple(types.get(name, "") for name in columns)
        if not all(here) or not any(key.columns == plan.key for key in table.keys):
            raise _Whole("it was altered here since the plan was made")
        what = Compared(
            generation=generation,
            part=part.id,
            columns=columns,
            types=here,
            key=plan.key,
            portable=portable,
        )
        shape = Shape(table.name, columns, here, plan.key, portable=portable)
        if not written_by_type(shape):
            raise _Whole("the two servers do not hash alike, and not all of its key is numbers")
        return _Task(plan, part, table, what, shape)

    # --- one table ----------------------------------------------------------------------
    async def _compare(self, task: _Task) -> None:
        """In the snapshot that is held until the sync has ended."""
        async with (
            self._database.connect(
                f"compare/{self._session[:8]}",
                what=f"comparing {task.name}",
                lock_timeout_s=self._lock_timeout_s,
            ) as connection,
            connection.transaction(isolation="repeatable_read"),
        ):
            await connection.execute(
                f"SET TRANSACTION SNAPSHOT {quote_literal(self._exported)};"
                " SET LOCAL row_security = off;"  # an error instead of rows that are not seen
                f" LOCK TABLE ONLY {task.name.sql} IN ACCESS SHARE MODE"
            )
            seen = await look(connection, task.name, self._exported)
            reason = await rowlists.not_by_text(connection, task.name, task.plan.key)
            if reason is not None:
                raise _Whole(reason)
            await connection.execute(rowlists.CREATE)
            tally = Tally()
            await self._compare_blocks(connection, task, tally)
            await self._compare_rows(connection, task)
            only_here = TableName("peersync", f"{stage_prefix(self._session)}_only_{task.part.id}")
            found = await rowlists.join(connection, task.table, task.plan.key, only_here)
            if tally.rows_there - found.missing + found.only_here != tally.rows_here:
                raise _Whole("its comparison does not add up")
            self._notes.note_compared(
                task.name,
                Comparison(
                    seen=seen,
                    rows_there=tally.rows_there,
                    rows_here=tally.rows_here,
                    only_here=only_here,
                    blocks=tally.blocks,
                    differing=tally.differing,
                    wanted=found.missing + found.differing,
                ),
            )
            await self._want_keys(connection, task)

    async def _compare_blocks(
        self, connection: asyncpg.Connection, task: _Task, tally: Tally
    ) -> None:
        """The ranges that differ go into a temporary table: there may be very many."""
        expected = (task.plan.rows or 0) // ROWS_IN_BLOCK
        noted, looked_ahead = 0, False
        async with aclosing(self._blocks(task)) as there:
            async for some in compare_blocks(connection, task.shape, there, tally=tally):
                await rowlists.add_ranges(connection, some)
                self._refuse_dear(task, tally, max(expected, tally.blocks))
                if not looked_ahead and is_worth_it(tally, expected):
                    looked_ahead = True
                    await self._refuse_hopeless(connection, task)
                self._notes.note_progress(task.name, tally.rows_there - noted)
                noted = tally.rows_there
        self._refuse_dear(task, tally, tally.blocks)

    @staticmethod
    def _refuse_dear(task: _Task, tally: Tally, blocks: int) -> None:
        most = task.plan.most_differing or _MOST_DIFFERING
        if tally.differing > max(_FEW_BLOCKS, most * blocks):
            share = 100 * tally.differing // max(tally.blocks, 1)
            raise _Whole(f"{share} % of its blocks of rows differ")

    async def _refuse_hopeless(self, connection: asyncpg.Connection, task: _Task) -> None:
        def ask(key: Key) -> AsyncGenerator[list[Block], None]:
            return self._blocks(task, key)

        if await differs_everywhere(connection, task.shape, ask):
            raise _Whole("nearly all of its blocks of rows differ")

    async def _compare_rows(self, connection: asyncpg.Connection, task: _Task) -> None:
        async for some in rowlists.ranges(connection, MAX_RANGES, ROWS_AT_ONCE):
            await self._rows(connection, task, some)
            async for rows in row_hashes(connection, task.shape, some):
                await rowlists.add_here(connection, rows)

    async def _want_keys(self, connection: asyncpg.Connection, task: _Task) -> None:
        at = 0
        number, generation = task.part.id, task.what.generation
        async for keys in rowlists.wanted(connection, MAX_KEYS):
            told = Wanted(generation=generation, part=number, at=at, keys=tuple(keys))
            await self._want(told)
            at += len(keys)
        await self._want(Wanted(generation=generation, part=number, at=at, last=True))

    # --- what is asked of the source ----------------------------------------------------
    async def _want(self, wanted: Wanted) -> None:
        async def tell() -> None:
            try:
                await self._client.call("POST", f"{self._path}/wanted", wanted, Ok)
            except NotFound as exc:
                raise await self._gone() from exc

        await self._patiently(tell)

    async def _blocks(
        self, task: _Task, after: Key | None = None
    ) -> AsyncGenerator[list[Block], None]:
        """The source's blocks. Where an answer breaks off, the last block is asked for again."""
        breaks = 0
        while True:
            kept: Digest | None = None
            asked = BlocksRequest(what=task.what, after=after)
            try:
                async with aclosing(self._frames("blocks", asked)) as frames:
                    async for some in frames:
                        *whole, kept = some if kept is None else [kept, *some]
                        breaks = 0
                        for few in batched(whole):
                            yield few
            except _Broken as exc:
                breaks += 1
                if breaks > BREAKS:
                    raise _Whole("the source could not give its digests") from exc
                log.info("%s; going on with the comparison of %s", exc, task.name)
                after = kept[0] if kept is not None else after
                await asyncio.sleep(_BREAK_S)
                continue
            if kept is not None:
                yield [Block(*kept)]
            return

    async def _rows(
        self, connection: asyncpg.Connection, task: _Task, some: Sequence[Range]
    ) -> None:
        """The hashes of the source's rows in these ranges; begun again where it breaks off."""
        asked = RowsRequest(
            what=task.what, ranges=tuple(KeyRange(low=one.low, high=one.high) for one in some)
        )
        for _ in range(BREAKS):
            try:
                async with (
                    connection.transaction(),
                    aclosing(self._frames("rows", asked)) as frames,
                ):
                    async for rows in frames:
                        await rowlists.add_there(connection, rows)
            except _Broken as exc:
                log.info("%s; asking again for the rows of %s", exc, task.name)
                await asyncio.sleep(_BREAK_S)
            else:
                return
        raise _Whole("the source could not give the digests of its rows")

    async def _frames(
        self, path: str, asked: BlocksRequest | RowsRequest
    ) -> AsyncGenerator[list[Digest]]:
        """What comes of one answer. Raises _Broken where it breaks off."""
        unpacker = Unpacker()
        async with AsyncExitStack() as kept:

            async def begin() -> PeerStream:
                answer = self._client.open_stream(f"{self._path}/{path}", method="POST", body=asked)
                try:
                    return await kept.enter_async_context(answer)
                except NotFound as exc:
                    raise await self._gone() from exc

            stream: PeerStream = await self._patiently(begin)
            try:
                async for piece in stream:
                    self._notes.note_wire(len(piece))
                    for some in unpacker.feed(piece):
                        if some:
                            yield some
            except PeerUnreachable as exc:
                raise _Broken(str(exc)) from exc
        unpacker.end()

    async def _gone(self) -> PeerUnreachable:
        """The backup begins again; whoever fetches it finds out, and ends the attempt."""
        await self._begin_again()
        return PeerUnreachable(f"{self._client.peer.name} has no view to compare with any more")
