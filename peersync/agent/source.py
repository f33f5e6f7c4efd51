"""Gives a backup: dumps one view of a database in parts and serves it chunk by chunk.

What is in the spool is a finished artefact: once the dump is complete nothing of the
database is needed any more, and no restart of anything loses it. While it is not, a death
of PostgreSQL or of this agent loses the snapshot; the dump then begins again as a new
generation, and chunks with the same content are known by their digest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from peersync.agent.delta.giver import Giver
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.giveway import GiveWay
from peersync.agent.parts import Means, PartJob, Run, plan_parts, table_name
from peersync.agent.periodic.joining import found_group
from peersync.agent.refused import left_alone, refuse_if_gone
from peersync.agent.workers import Workers
from peersync.config.filters import Filters
from peersync.config.model import Config
from peersync.core.backoff import Backoff
from peersync.core.errors import (
    DiskFull,
    NotFound,
    PeersyncError,
    root_error,
)
from peersync.core.progress import Progress
from peersync.postgres.backup import View
from peersync.postgres.binaries import Tool
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.digest import probe
from peersync.postgres.locks import end_leftovers
from peersync.postgres.log.baseline import Taken, baseline
from peersync.postgres.narrow import narrowed
from peersync.postgres.pool import Database
from peersync.postgres.rights import read_rights, unreadable
from peersync.wire.chunks import ChunkCutter, manifest_digest
from peersync.wire.delta import Wanted
from peersync.wire.messages import (
    BackupRequest,
    Baseline,
    Chunk,
    ManifestPage,
    ManifestRequest,
    Part,
)
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.source")

PAGE_CHUNKS = 1000
_GENERATION_BITS = 48


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the spool's journal; exactly one field is set."""

    request: BackupRequest | None = None
    peer_id: str | None = None
    filters: Filters = ()  # a backup made with others must not be served
    generation: int | None = None
    parts: tuple[Part, ...] | None = None
    baseline: Baseline | None = None
    chunk: Chunk | None = None
    complete: str | None = None


class SourceBackup:
    """One backup for one peer's session. `run` makes it; the other methods serve it."""

    def __init__(
        self,
        request: BackupRequest,
        peer_id: str,
        database: Database,
        spool: Spool,
        config: Config,
        node_id: str,
    ) -> None:
        self.request = request
        self.peer_id = peer_id
        self.progress: Progress | None = None  # the target's, as it reports it
        self.error: PeersyncError | None = None
        self._database = database
        self._spool = spool
        self._config = config
        self._node_id = node_id
        self._generation = 0
        self._parts: dict[int, Part] = {}
        self._chunks: list[Chunk] = []
        self._known: dict[str, Chunk] = {}
        self._sent: set[str] = set()
        self._closing = False
        self._digest: str | None = None
        self._baseline: Baseline | None = None
        self._waiting_for: str | None = None
        self._told_waiting: str | None = None
        self._dumped_bytes = 0
        self._giver: Giver | None = None
        self._changed = asyncio.Event()
        self._guard = threading.Lock()
        self._way = GiveWay(database, self._kind, self._say)

    @property
    def _filters(self) -> Filters:
        return self._config.database[self.request.database].filter

    @property
    def _parallel(self) -> int:
        return self.request.parallel or self._config.full_sync.parallel

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
            news = news or self._closing or self._waiting_for != self._told_waiting
            # parts may wait for what the target says of them: it must know them at once
            news = news or (asked.generation != self._generation and bool(self._parts))
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
        self._told_waiting = self._waiting_for
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

    async def chunk_path(self, digest: str, workers: Workers) -> Path:
        """The file of a chunk of this backup. Raises NotFound for any other digest.

        A file that is asked for again may have been found damaged, so it is looked at; when
        it is, or is gone, the whole backup is not what it says, and must be made anew.
        """
        chunk = self._known.get(digest)
        if chunk is None:
            raise NotFound("this backup has no such chunk")
        looks = self._spool.proves if digest in self._sent else self._spool.has
        self._sent.add(digest)
        if not await workers.run(looks, chunk):
            log.error("backup %s: chunk %d is damaged", self.request.session, chunk.number)
            await workers.run(self._spool.discard, chunk)
            self._digest = None
            raise NotFound("this chunk was damaged on the disk of the source")
        return self._spool.path(digest)

    @property
    def giver(self) -> Giver:
        """What compares rows of the view at hand. Raises NotFound while there is none."""
        if self._giver is None:
            raise NotFound("this backup has no view of the rows at the moment")
        return self._giver

    async def want(self, wanted: Wanted) -> None:
        """Notes what the target wants; it may not have heard that it was heard."""
        if not (self.complete and wanted.generation == self._generation):
            await self.giver.want(wanted)

    def renew(self, request: BackupRequest) -> None:
        """The target has begun anew, and compares its rows anew: so must this. It must not run."""
        self.request = request
        self._forget_generation()
        self._generation = 0

    def leave(self) -> None:
        """The agent stops: whoever waits for news gets what there is."""
        self._closing = True
        self._changed.set()

    def fail(self, error: PeersyncError) -> None:
        self.error = error
        self._changed.set()

    def free(self) -> None:
        """Of a backup that is not complete no restart can use anything: gives the space back."""
        if not self.complete:
            self._spool.remove_chunks()

    def discard(self) -> None:
        self._spool.remove()

    # --- after a restart ----------------------------------------------------------------
    def reload(self) -> bool:
        """Takes up what the journal has. True when the dump was complete; blocks.

        A journal of another peer's or of another request is not this backup's: begun anew.
        """
        try:
            self._replay()
        except msgspec.MsgspecError as exc:
            log.warning("backup %s: its journal can't be read: %s", self.request.session, exc)
            self._digest = None
        if self.complete and not all(self._spool.has(chunk) for chunk in self._chunks):
            self._digest = None  # somebody cleaned up: dump again
        self._known = {chunk.digest: chunk for chunk in self._chunks}
        self._dumped_bytes = sum(chunk.raw_size for chunk in self._chunks)
        return self.complete

    def _replay(self) -> None:
        for line in self._spool.journal():
            entry = msgspec.json.decode(line, type=_Line)
            if entry.request is not None:
                self._digest = None
                made_for = (entry.request, entry.peer_id, entry.filters)
                if made_for != (self.request, self.peer_id, self._filters):
                    return
            if entry.generation is not None:
                self._generation = entry.generation
                self._parts, self._chunks = {}, []
            self._parts.update({p.id: p for p in entry.parts or ()})
            self._baseline = entry.baseline or self._baseline
            if entry.chunk is not None:
                self._chunks.append(entry.chunk)
            self._digest = entry.complete or self._digest

    # --- making -------------------------------------------------------------------------
    async def run(self, workers: Workers, choose: Callable[[int], Tool]) -> None:
        """Dumps until the backup is complete. What PostgreSQL interrupts begins again."""
        network = self._config.network
        backoff = Backoff(maximum_s=network.retry_max_s, total_s=network.retry_for_s)
        loop = asyncio.get_running_loop()
        self.error = None
        self._way.times = 0
        while True:
            times = self._way.times
            try:
                return await self._attempt(workers, choose)
            except PeersyncError as exc:
                pause = self._way.pause_s(times) or backoff.next_pause(loop.time())
                # A full disk does not mend itself.
                if not exc.retryable or isinstance(exc, DiskFull) or pause is None:
                    raise
                log.warning("backup %s: %s; starting again", self.request.session, exc)
                self._say(exc.message)
                await asyncio.sleep(pause)

    async def _attempt(self, workers: Workers, choose: Callable[[int], Tool]) -> None:
        """One generation. It ends early when the application waits for it."""
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._way.watch(), name=f"way-{self._kind}")
                await self._dump_all(workers, choose)
                watch.cancel()
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors

    def _say(self, waiting_for: str | None) -> None:
        """What the target shows as long as it lasts."""
        self._waiting_for = f"the source's PostgreSQL: {waiting_for}" if waiting_for else None
        self._changed.set()

    @property
    def _kind(self) -> str:
        return f"backup/{self.request.session[:8]}"

    async def _dump_all(self, workers: Workers, choose: Callable[[int], Tool]) -> None:
        await workers.run(self._begin_generation)
        if self.request.join is not None:
            await found_group(
                self._database, self._config, node_id=self._node_id, name=self._config.node.name
            )
        async with AsyncExitStack() as kept:
            keeper = await kept.enter_async_context(
                self._database.connect(
                    self._kind,
                    what="backing up",
                    lock_timeout_s=self._config.full_sync.lock_timeout_s,
                )
            )
            await end_leftovers(keeper, self.request.session)
            alone = left_alone(self.request, unreadable(await read_rights(keeper)))
            taken = await kept.enter_async_context(
                baseline(
                    self._database,
                    keeper,
                    [table_name(t) for t in self.request.tables],
                    node_id=self.peer_id,
                    join=self.request.join,
                    lock_timeout_s=self._config.full_sync.lock_timeout_s,
                )
            )
            view = taken.view
            catalog = await read_catalog(keeper)
            refuse_if_gone(self.request, catalog)
            shapes = await shapes_for_peer(keeper, self._filters, catalog)
            names = [table_name(t) for t in self.request.tables]
            shapes = await narrowed(keeper, shapes, catalog, self.request.narrow, names)
            probed = await probe(keeper) if self.request.compare else None
            planned = plan_parts(self.request, catalog, shapes, probed)
            jobs = [j.leaving_alone(alone) for j in planned]
            needs_tool = any(job.needs_tool for job in jobs)
            version_num = catalog.server.version_num
            tool = await workers.run(choose, version_num) if needs_tool else None
            made = Baseline(
                node_id=self._node_id,
                snapshot=view.snapshot,
                taken_at=view.taken_at,
                vector=taken.vector,
                group=taken.group,
            )
            self._giver = giver = self._make_giver(workers, view, catalog, jobs)
            kept.callback(giver.close)
            parts = tuple(job.part for job in jobs)
            self._parts = {part.id: part for part in parts}
            self._baseline = made
            await workers.run(self._spool.append, _Line(parts=parts, baseline=made))
            self._waiting_for = None
            self._changed.set()
            await self._dump_parts(workers, tool, taken, jobs)
        digest = manifest_digest(self._chunks)
        await workers.run(self._spool.append, _Line(complete=digest))
        self._digest = digest
        self._changed.set()

    def _make_giver(
        self, workers: Workers, view: View, catalog: DatabaseCatalog, jobs: Sequence[PartJob]
    ) -> Giver:
        compared = {
            job.part.id: (job, catalog.tables[table_name(job.part.table)])
            for job in jobs
            if job.part.probe is not None and job.part.table is not None
        }
        return Giver(
            self._database, self._kind, view, self._generation, compared, self._spool, workers
        )

    def _begin_generation(self) -> None:
        self._spool.create()
        self._spool.remove_chunks()  # of a view that is gone: the target has what it has
        self._forget_generation()
        # Not counted up: a journal that was lost must not give an old number again.
        self._generation = secrets.randbits(_GENERATION_BITS)
        self._spool.restart_journal()
        self._spool.append(_Line(request=self.request, peer_id=self.peer_id, filters=self._filters))
        self._spool.append(_Line(generation=self._generation))

    def _forget_generation(self) -> None:
        with self._guard:
            self._giver = None
            self._parts, self._chunks, self._digest = {}, [], None
            self._known, self._sent = {}, set()
            self._baseline, self._dumped_bytes = None, 0

    async def _dump_parts(
        self, workers: Workers, tool: Tool | None, taken: Taken, jobs: Sequence[PartJob]
    ) -> None:
        waiting = [job for job in reversed(jobs) if job.part.probe is None]
        compared = [job for job in jobs if job.part.probe is not None]
        few = asyncio.Semaphore(self._parallel)
        with self._database.resolved.child_env(application_name=f"peersync/{self._kind}") as env:
            means = Means(
                tool, env, taken.view, self._database.resolved, self._kind, log_view=taken.log
            )

            async def make(job: PartJob) -> None:
                run = job.start(means)
                await workers.pump(run.stop, lambda: self._pump(run, job.part, loop))

            async def work() -> None:
                while waiting:
                    await make(waiting.pop())

            async def work_when_compared(number: int) -> None:
                wanted = await self.giver.job(number)
                async with few:
                    await make(wanted)

            loop = asyncio.get_running_loop()
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._parallel):
                        group.create_task(work(), name=f"dump-{number}")
                    for job in compared:
                        number = job.part.id
                        group.create_task(work_when_compared(number), name=f"wanted-{number}")
            except BaseExceptionGroup as errors:
                raise root_error(errors) from errors

    def _pump(self, run: Run, part: Part, loop: asyncio.AbstractEventLoop) -> None:
        """One part: its output, cut into chunks, into the spool. Runs in a thread."""
        cutter = ChunkCutter(
            self.request.codec,
            level=self._config.full_sync.compression_level,
            target_bytes=self._config.full_sync.chunk_mib << 20,
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

        run.run(take)
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
            self._spool.append(_Line(chunk=chunk))
            self._chunks.append(chunk)
            self._known[digest] = chunk

    def _end_part(self, part: Part, chunks: int, raw_bytes: int) -> None:
        ended = msgspec.structs.replace(part, done=True, chunks=chunks, raw_bytes=raw_bytes)
        with self._guard:
            self._parts[part.id] = ended
            self._spool.append(_Line(parts=(ended,)))


def _words(error: PeersyncError) -> str:
    words = f"{error.message}: {error.detail}" if error.detail else error.message
    return f"{words}\n{error.hint}" if error.hint else words
