"""The source's side of a delta: digests out of the view that is backed up, and the keys wanted.

One `Giver` belongs to one generation of a backup and ends with it: what it answers is of a
snapshot that is held as long as the generation is made. It keeps the wanted keys in files beside
the chunks, so that no table makes it large, and decides nothing: the target says what it wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from peersync.agent.parts import PartJob
from peersync.agent.workers import Workers
from peersync.core.errors import BadRequest, DatabaseUnreachable, NotFound, SchemaMismatch
from peersync.core.names import quote_literal
from peersync.postgres.backup import View
from peersync.postgres.catalog import Table
from peersync.postgres.digest import Range, Shape, blocks, row_hashes
from peersync.postgres.keyed import KeyedCopy
from peersync.postgres.pool import Database
from peersync.wire.delta import (
    MAX_FRAME_BYTES,
    BlocksRequest,
    Compared,
    Digest,
    RowsRequest,
    Wanted,
    pack,
)
from peersync.wire.spool import Spool, disk_trouble_named

_GONE: Final = "this view of the source's rows is gone, or has no such part"
_FRAME_BYTES: Final = MAX_FRAME_BYTES // 4
_READERS: Final = 8  # connections to the database for one backup


class _Part:
    """One table on its way: the file of its wanted keys, and whether all of them are known."""

    def __init__(self, job: PartJob, table: Table, file: Path) -> None:
        self.job = job
        self.table = table
        self.file = file
        self.told = 0
        self.known = asyncio.Event()
        self.guard = asyncio.Lock()


class Giver:
    """`job` waits for a part's keys; the other methods are what the target asks."""

    def __init__(
        self,
        database: Database,
        kind: str,
        view: View,
        generation: int,
        jobs: Mapping[int, tuple[PartJob, Table]],
        spool: Spool,
        workers: Workers,
    ) -> None:
        """`jobs` are the parts that are compared, each with its table, as whole tables."""
        self.generation = generation
        self._database = database
        self._kind = kind
        self._view = view
        self._spool = spool
        self._workers = workers
        self._parts = {
            number: _Part(job, table, spool.directory / f"wanted-{number}")
            for number, (job, table) in jobs.items()
        }
        self._readers = asyncio.Semaphore(_READERS)
        self._closed = False

    async def job(self, number: int) -> PartJob:
        """What the part is made of, once the target has said so.

        Raises DatabaseUnreachable when the view was found to be gone meanwhile.
        """
        part = self._parts[number]
        await part.known.wait()
        if self._closed:
            raise DatabaseUnreachable("the view that is compared is gone: PostgreSQL ended it")
        return part.job

    def close(self) -> None:
        """The view is about to go: nothing more is answered."""
        self._closed = True

    # --- what the target asks -----------------------------------------------------------
    async def blocks(self, asked: BlocksRequest) -> AsyncIterator[bytes]:
        """The digests of a table's blocks, as frames."""
        shape = self._shape(asked.what)
        async with self._reading() as connection:
            async for some in blocks(connection, shape, asked.after):
                for few in within_frames([(one.low, one.rows, one.digest) for one in some]):
                    yield pack(few)

    async def rows(self, asked: RowsRequest) -> AsyncIterator[bytes]:
        """The hashes of the rows in some ranges, as frames."""
        shape = self._shape(asked.what)
        ranges = [Range(one.low, one.high, 0, 0) for one in asked.ranges]
        async with self._reading() as connection:
            async for some in row_hashes(connection, shape, ranges):
                for few in within_frames([(one.key, one.copies, one.digest) for one in some]):
                    yield pack(few)

    async def want(self, wanted: Wanted) -> None:
        """Notes keys that are wanted. Harmless to repeat."""
        part = self._part(wanted.generation, wanted.part)
        width = len(part.table.keys[0].columns) if part.table.keys else 0
        if any(len(key) != width for key in wanted.keys):
            raise BadRequest(f"keys of {part.table.name} have {width} columns")
        async with part.guard:
            if part.known.is_set():
                return
            if wanted.whole:
                part.known.set()
                return
            if wanted.at == part.told:
                await self._workers.run(self._keep, part, wanted)
                part.told += len(wanted.keys)
            elif wanted.at + len(wanted.keys) != part.told:
                raise BadRequest(f"keys of {part.table.name} are missing before these")
            if wanted.last:
                part.job = _of_keys(part.job, part.table, part.file)
                part.known.set()

    def _keep(self, part: _Part, wanted: Wanted) -> None:
        lines = b"".join(msgspec.json.encode(key) + b"\n" for key in wanted.keys)
        self._spool.take_room(len(lines))
        with disk_trouble_named(self._spool.directory), part.file.open("ab") as file:
            file.write(lines)

    def _lose(self) -> None:
        """Nobody else may notice: while tables are compared, nothing is read but for this."""
        self._closed = True
        for part in self._parts.values():
            part.known.set()

    # --- small things -------------------------------------------------------------------
    def _part(self, generation: int, number: int) -> _Part:
        part = self._parts.get(number)
        if self._closed or generation != self.generation or part is None:
            raise NotFound(_GONE)
        return part

    def _shape(self, what: Compared) -> Shape:
        """Raises SchemaMismatch where the table is not what the target takes it for."""
        table = self._part(what.generation, what.part).table
        types = {c.name: c.type for c in table.columns if not c.generated}
        wanted = tuple(types.get(name, "") for name in what.columns)
        if wanted != what.types or not table.keys or table.keys[0].columns != what.key:
            raise SchemaMismatch(f"{table.name} has other columns, or another key, than before")
        return Shape(table.name, what.columns, wanted, what.key, portable=what.portable)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection that sees the view of the backup."""
        async with (
            self._readers,
            self._database.connect(self._kind, what="comparing rows") as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            snapshot = quote_literal(self._view.exported)
            try:
                await connection.execute(f"SET TRANSACTION SNAPSHOT {snapshot}")
            except (asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError) as exc:
                self._lose()
                raise NotFound(_GONE) from exc
            await connection.execute("SET LOCAL row_security = off")
            yield connection


def within_frames(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    """Keys may be long: no more of them at once than the other side takes in one frame."""
    start = size = 0
    for n, (key, _, _) in enumerate(digests):
        longer = sum(len(part.encode()) + 16 for part in key or ())
        if n > start and size + longer > _FRAME_BYTES:
            yield digests[start:n]
            start, size = n, 0
        size += longer
    if start < len(digests):
        yield digests[start:]


def _of_keys(job: PartJob, table: Table, file: Path) -> PartJob:
    """The same part, with only the rows whose keys are in the file."""
    assert job.tables is not None
    (copy,) = job.tables
    key = table.keys[0]
    types = {c.name: c.type for c in table.columns}
    columns = tuple(
        (name, types[name], operator)
        for name, operator in zip(key.columns, key.operators, strict=True)
    )
    file.touch(mode=0o600)
    return job.of_rows(KeyedCopy(copy.name, copy.columns, key=columns, keys=file))
