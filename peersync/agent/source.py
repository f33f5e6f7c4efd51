"""Gives a backup: dumps one view of a database in parts and serves it chunk by chunk.

What is in the spool is a finished artefact: once the dump is complete nothing of the
database is needed any more, and no restart of anything loses it. While it is not, a death
of PostgreSQL or of this agent loses the snapshot; the dump then begins again as a new
generation, and chunks with the same content are known by their digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg

from peersync.agent.delta.giver import Giver
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.giveway import GiveWay
from peersync.agent.inventory import Inventory
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
from peersync.wire.chunks import ChunkCutter
from peersync.wire.delta import Wanted
from peersync.wire.messages import (
    BackupRequest,
    Baseline,
    ManifestPage,
    ManifestRequest,
    Part,
)
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.source")


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
        self._made = Inventory(spool)
        self._closing = False
        self._waiting_for: str | None = None
        self._told_waiting: str | None = None
        self._giver: Giver | None = None
        self._changed = asyncio.Event()
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
        return self._made.complete

    async def page(self, asked: ManifestRequest) -> ManifestPage:
        """The manifest after what the target has; waits until there is something to say."""
        deadline = asyncio.get_running_loop().time() + asked.wait_s
        while True:
            known = asked.generation == self._made.generation
            after = asked.after if known else 0
            news = self._made.has_after(after) or self.complete or self.error is not None
            news = news or self._closing or self._waiting_for != self._told_waiting
            # parts may wait for what the target says of them: it must know them at once
            news = news or (not known and bool(self._made.parts))
            left = deadline - asyncio.get_running_loop().time()
            if news or left <= 0:
                return self._page(after)
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._changed.wait()
            except TimeoutError:
                if self._made.dumped_bytes and left < asked.wait_s - 1:
                    return self._page(after)

    def _page(self, after: int) -> ManifestPage:
        self._told_waiting = self._waiting_for
        error = _words(self.error) if self.error else None
        return self._made.page(after, error=error, waiting_for=self._waiting_for)

    async def chunk_path(self, digest: str, workers: Workers) -> Path:
        """The file of a chunk of this backup. Raises NotFound for any other, or a damaged one."""
        return await self._made.chunk_path(digest, workers)

    @property
    def giver(self) -> Giver:
        """What compares rows of the view at hand. Raises NotFound while there is none."""
        if self._giver is None:
            raise NotFound("this backup has no view of the rows at the moment")
        return self._giver

    async def want(self, wanted: Wanted) -> None:
        """Notes what the target wants; it may not have heard that it was heard."""
        if not (self.complete and wanted.generation == self._made.generation):
            await self.giver.want(wanted)

    def renew(self, request: BackupRequest) -> None:
        """The target has begun anew, and compares its rows anew: so must this. It must not run."""
        self.request = request
        self._giver = None
        self._made.forget()
        self._made.generation = 0

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
        return self._made.reload(self.request, self.peer_id, self._filters)

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
        self._giver = None
        await workers.run(self._made.begin, self.request, self.peer_id, self._filters)
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
            catalog = await read_catalog(keeper)
            jobs = [job.leaving_alone(alone) for job in await self._plan(keeper, catalog)]
            needs_tool = any(job.needs_tool for job in jobs)
            version_num = catalog.server.version_num
            tool = await workers.run(choose, version_num) if needs_tool else None
            self._giver = giver = self._make_giver(workers, taken.view, catalog, jobs)
            kept.callback(giver.close)
            parts = [job.part for job in jobs]
            await workers.run(self._made.plan, parts, self._baseline(taken))
            self._waiting_for = None
            self._changed.set()
            await self._dump_parts(workers, tool, taken, jobs)
        await workers.run(self._made.end)
        self._changed.set()

    async def _plan(self, keeper: asyncpg.Connection, catalog: DatabaseCatalog) -> list[PartJob]:
        """The parts of the backup, by what is there, may leave, and was asked for."""
        refuse_if_gone(self.request, catalog)
        shapes = await shapes_for_peer(keeper, self._filters, catalog)
        names = [table_name(t) for t in self.request.tables]
        shapes = await narrowed(keeper, shapes, catalog, self.request.narrow, names)
        probed = await probe(keeper) if self.request.compare else None
        return plan_parts(self.request, catalog, shapes, probed)

    def _baseline(self, taken: Taken) -> Baseline:
        """What the target may say that it has of this database, once it has committed."""
        return Baseline(
            node_id=self._node_id,
            snapshot=taken.view.snapshot,
            taken_at=taken.view.taken_at,
            vector=taken.vector,
            group=taken.group,
        )

    def _make_giver(
        self, workers: Workers, view: View, catalog: DatabaseCatalog, jobs: Sequence[PartJob]
    ) -> Giver:
        compared = {
            job.part.id: (job, catalog.tables[table_name(job.part.table)])
            for job in jobs
            if job.part.probe is not None and job.part.table is not None
        }
        return Giver(
            self._database, self._kind, view, self._made.generation, compared, self._spool, workers
        )

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
            self._made.add_chunk(
                part, index, self.request.codec, digest=digest, size=len(data), raw_size=raw_size
            )
            index += 1
            loop.call_soon_threadsafe(self._changed.set)

        def take(data: bytes) -> None:
            nonlocal total
            total += len(data)
            self._made.dumped(len(data))
            if cutter.add(data):
                emit()

        run.run(take)
        if cutter.raw_size:
            emit()
        self._made.end_part(part, index, total)
        loop.call_soon_threadsafe(self._changed.set)


def _words(error: PeersyncError) -> str:
    words = f"{error.message}: {error.detail}" if error.detail else error.message
    return f"{words}\n{error.hint}" if error.hint else words
