"""Gives a backup: dumps one view of a database in parts and serves it chunk by chunk.

What is in the spool is a finished artefact: once the dump is complete nothing of the
database is needed any more, and no restart of anything loses it. While it is not, a death
of PostgreSQL or of this agent loses the snapshot; the dump then begins again as a new
generation, and chunks with the same content are known by their digest.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from peersync.agent.workers import Workers
from peersync.config.model import FullSync
from peersync.core.errors import NotFound, PeersyncError, SchemaMismatch, root_error
from peersync.core.names import TableName
from peersync.core.progress import Progress
from peersync.postgres.backup import (
    Dump,
    View,
    data_arguments,
    lock_against_ddl,
    open_view,
    schema_arguments,
)
from peersync.postgres.binaries import Tool
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.pool import Database
from peersync.wire.chunks import ChunkCutter, manifest_digest
from peersync.wire.messages import (
    BackupRequest,
    Baseline,
    Chunk,
    ManifestPage,
    ManifestRequest,
    Part,
    TableRef,
)
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.source")

BIG_TABLE_BYTES = 16 << 20
MAX_BIG_TABLES = 64
PAGE_CHUNKS = 1000
_TRIES = 3


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the spool's journal; exactly one field is set."""

    request: BackupRequest | None = None
    generation: int | None = None
    parts: tuple[Part, ...] | None = None
    baseline: Baseline | None = None
    chunk: Chunk | None = None
    complete: str | None = None


@dataclass(frozen=True)
class _Job:
    part: Part
    arguments: list[str]


class SourceBackup:
    """One backup for one peer's session. `run` makes it; the other methods serve it."""

    def __init__(
        self,
        request: BackupRequest,
        peer_id: str,
        database: Database,
        spool: Spool,
        settings: FullSync,
        node_id: str,
    ) -> None:
        self.request = request
        self.peer_id = peer_id
        self.progress: Progress | None = None  # the target's, as it reports it
        self.error: PeersyncError | None = None
        self._database = database
        self._spool = spool
        self._settings = settings
        self._node_id = node_id
        self._generation = 0
        self._parts: dict[int, Part] = {}
        self._chunks: list[Chunk] = []
        self._digest: str | None = None
        self._baseline: Baseline | None = None
        self._waiting_for: str | None = None
        self._dumped_bytes = 0
        self._changed = asyncio.Event()
        self._guard = threading.Lock()
        self._dumps: set[Dump] = set()

    # --- serving ------------------------------------------------------------------------
    @property
    def complete(self) -> bool:
        return self._digest is not None

    async def page(self, asked: ManifestRequest) -> ManifestPage:
        """The manifest after what the target has; waits until there is something to say."""
        deadline = asyncio.get_running_loop().time() + asked.wait_s
        while True:
            after = asked.after if asked.generation == self._generation else 0
            news = len(self._chunks) > after or self.complete or self.error is not None
            left = deadline - asyncio.get_running_loop().time()
            if news or left <= 0:
                return self._page(after)
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._changed.wait()
            except TimeoutError:
                if self._dumped_bytes and left < asked.wait_s - 1:
                    return self._page(after)

    def _page(self, after: int) -> ManifestPage:
        with self._guard:
            chunks = tuple(self._chunks[after : after + PAGE_CHUNKS])
            last = after + len(chunks) == len(self._chunks)
            return ManifestPage(
                generation=self._generation,
                parts=tuple(self._parts.values()),
                chunks=chunks,
                complete=self.complete and last,
                digest=self._digest if last else None,
                baseline=self._baseline,
                dumped_bytes=self._dumped_bytes,
                error=_words(self.error) if self.error else None,
                waiting_for=self._waiting_for,
            )

    def chunk_path(self, digest: str) -> Path:
        """The file of a chunk of this backup. Raises NotFound for any other digest."""
        if not any(chunk.digest == digest for chunk in self._chunks):
            raise NotFound("this backup has no such chunk")
        return self._spool.path(digest)

    def discard(self) -> None:
        self._spool.remove()

    # --- after a restart ----------------------------------------------------------------
    def reload(self) -> bool:
        """Takes up what the journal has. True when the dump was complete; blocks."""
        for line in self._spool.journal():
            entry = msgspec.json.decode(line, type=_Line)
            if entry.generation is not None:
                self._generation = entry.generation
                self._parts, self._chunks = {}, []
            self._parts.update({p.id: p for p in entry.parts or ()})
            self._baseline = entry.baseline or self._baseline
            if entry.chunk is not None:
                self._chunks.append(entry.chunk)
            self._digest = entry.complete or self._digest
        if self.complete and not all(self._spool.has(chunk) for chunk in self._chunks):
            self._digest = None  # somebody cleaned up: dump again
        self._dumped_bytes = sum(chunk.raw_size for chunk in self._chunks)
        return self.complete

    # --- making -------------------------------------------------------------------------
    async def run(self, workers: Workers, choose: Callable[[int], Tool]) -> None:
        """Dumps until the backup is complete. What PostgreSQL interrupts begins again."""
        for attempt in range(1, _TRIES + 1):
            self.error = None
            try:
                await self._dump_all(workers, choose)
            except PeersyncError as exc:
                if not exc.retryable or attempt == _TRIES:
                    self.error = exc
                    self._changed.set()
                    raise
                log.warning("backup %s: %s; starting again", self.request.session, exc)
                self._waiting_for = f"the source's PostgreSQL: {exc.message}"
                self._changed.set()
                await asyncio.sleep(2.0 * attempt)
            else:
                return

    async def _dump_all(self, workers: Workers, choose: Callable[[int], Tool]) -> None:
        await workers.run(self._begin_generation)
        async with self._database.connect(
            f"backup/{self.request.session[:8]}",
            what="backing up",
            lock_timeout_s=self._settings.lock_timeout_s,
        ) as keeper:
            view = await open_view(keeper)
            catalog = await read_catalog(keeper)
            self._check_wanted(catalog)
            await lock_against_ddl(keeper, [_name(t) for t in self.request.tables])
            tool = await workers.run(choose, catalog.server.version_num)
            jobs = plan_parts(self.request, catalog)
            baseline = Baseline(
                node_id=self._node_id, snapshot=view.snapshot, taken_at=view.taken_at
            )
            parts = tuple(job.part for job in jobs)
            self._parts = {part.id: part for part in parts}
            self._baseline = baseline
            await workers.run(self._spool.append, _Line(parts=parts, baseline=baseline))
            self._waiting_for = None
            self._changed.set()
            await self._dump_parts(workers, tool, view, jobs)
        digest = manifest_digest(self._chunks)
        await workers.run(self._spool.append, _Line(complete=digest))
        self._digest = digest
        self._changed.set()

    def _begin_generation(self) -> None:
        self._spool.create()
        with self._guard:
            self._generation += 1
            self._parts, self._chunks, self._digest = {}, [], None
            self._dumped_bytes = 0
        self._spool.restart_journal()
        self._spool.append(_Line(request=self.request))
        self._spool.append(_Line(generation=self._generation))

    def _check_wanted(self, catalog: DatabaseCatalog) -> None:
        gone = [str(_name(t)) for t in self.request.tables if _name(t) not in catalog.tables]
        if gone:
            raise SchemaMismatch(
                f"the source has no table {gone[0]} any more",
                hint="Start the sync again: the plan is then made anew.",
            )

    async def _dump_parts(
        self, workers: Workers, tool: Tool, view: View, jobs: Sequence[_Job]
    ) -> None:
        waiting = list(reversed(jobs))
        with self._database.resolved.child_env(
            application_name=f"peersync/backup/{self.request.session[:8]}"
        ) as env:

            async def work() -> None:
                while waiting:
                    job = waiting.pop()
                    dump = Dump(tool.path, job.arguments, env, view)
                    await workers.pump(dump.stop, lambda d=dump, j=job: self._pump(d, j.part, loop))  # type: ignore[misc]

            loop = asyncio.get_running_loop()
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._settings.parallel):
                        group.create_task(work(), name=f"dump-{number}")
            except BaseExceptionGroup as errors:
                raise root_error(errors) from errors

    def _pump(self, dump: Dump, part: Part, loop: asyncio.AbstractEventLoop) -> None:
        """One part: pg_dump's output, cut into chunks, into the spool. Runs in a thread."""
        cutter = ChunkCutter(
            self.request.codec,
            level=self._settings.compression_level,
            target_bytes=self._settings.chunk_mib << 20,
        )
        index = 0
        total = 0

        def emit() -> None:
            nonlocal index
            digest, data, raw_size = cutter.take()
            self._spool.write(digest, data)
            self._add_chunk(part, index, digest, len(data), raw_size)
            index += 1
            loop.call_soon_threadsafe(self._changed.set)

        def take(data: bytes) -> None:
            nonlocal total
            total += len(data)
            with self._guard:
                self._dumped_bytes += len(data)
            if cutter.add(data):
                emit()

        dump.run(take)
        if cutter.raw_size:
            emit()
        self._end_part(part, index, total)
        loop.call_soon_threadsafe(self._changed.set)

    def _add_chunk(self, part: Part, index: int, digest: str, size: int, raw_size: int) -> None:
        with self._guard:
            chunk = Chunk(
                number=len(self._chunks),
                part=part.id,
                index=index,
                digest=digest,
                size=size,
                raw_size=raw_size,
                codec=self.request.codec,
            )
            self._chunks.append(chunk)
            self._spool.append(_Line(chunk=chunk))

    def _end_part(self, part: Part, chunks: int, raw_bytes: int) -> None:
        ended = msgspec.structs.replace(part, done=True, chunks=chunks, raw_bytes=raw_bytes)
        with self._guard:
            self._parts[part.id] = ended
            self._spool.append(_Line(parts=(ended,)))


def plan_parts(request: BackupRequest, catalog: DatabaseCatalog) -> list[_Job]:
    """The runs of pg_dump: definitions, one for each big table, largest first, one for the rest."""
    wanted = {_name(t) for t in request.tables}
    sizes = {n: t.size_bytes for n, t in catalog.tables.items() if n in wanted}
    big = sorted((n for n, s in sizes.items() if s >= BIG_TABLE_BYTES), key=lambda n: -sizes[n])
    big = big[:MAX_BIG_TABLES]
    left_out = [*big, *(n for n in catalog.tables if n not in wanted)]
    runs: list[tuple[Part, list[str]]] = []

    def add(part: Part, arguments: list[str]) -> None:
        runs.append((msgspec.structs.replace(part, id=len(runs)), arguments))

    if request.schema != "none":
        tables = [_name(t) for t in request.schema_tables] if request.schema == "tables" else []
        add(Part(id=0, kind="pre-data"), schema_arguments("pre-data", tables))
        add(Part(id=0, kind="post-data"), schema_arguments("post-data", tables))
    for name in big:
        ref = TableRef(schema=name.schema, name=name.name)
        add(
            Part(id=0, kind="data", table=ref, estimated_bytes=sizes[name]),
            data_arguments(name, (), large_objects=False),
        )
    rest = sum(size for name, size in sizes.items() if name not in big)
    add(
        Part(id=0, kind="data", estimated_bytes=rest),
        data_arguments(None, left_out, large_objects=request.large_objects),
    )
    return [_Job(part, arguments) for part, arguments in runs]


def _name(ref: TableRef) -> TableName:
    return TableName(ref.schema, ref.name)


def _words(error: PeersyncError) -> str:
    return f"{error.message}: {error.detail}" if error.detail else error.message
