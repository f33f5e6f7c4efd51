"""Takes a full sync from a peer: one session from its plan to its end, whatever happens.

A session is a chain of attempts. Each attempt takes the lease, clears away what an earlier
one left, and either commits everything or nothing. What may be tried again (a database that
restarts, a source that had to dump anew, a damaged chunk) is tried again from the chunks
that are here. Whether an attempt committed is never inferred from an exception: the
database is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from datetime import UTC, datetime

import msgspec

from peersync.agent.fetch import DumpRestarted, Fetcher
from peersync.agent.loader import Loader, clean_up
from peersync.agent.plan import Plan
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import (
    Cancelled,
    DiskFull,
    PeersyncError,
    PeerUnreachable,
    VerifyFailed,
    root_error,
)
from peersync.core.progress import Progress, Step, StepState
from peersync.core.session import SessionRecord, State
from peersync.postgres.history import History
from peersync.postgres.locks import Holder, lease
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE, TableResult
from peersync.transport.client import PeerClient
from peersync.transport.sse import EventRing
from peersync.wire.messages import (
    BackupRequest,
    FinishRequest,
    Ok,
    ProgressReport,
    TableRef,
)
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.target")

ATTEMPTS = 5
TICK_S = 0.25
RECORD_EVERY_S = 2.0
REPORT_EVERY_S = 1.0
_PAUSE_S = 2.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the one who asked wants different from the usual."""

    compress: bool = True
    verify: bool = True


class TargetSession:
    """One full sync by pull. `run` does it; `cancel` is `Task.cancel` on whoever runs it."""

    def __init__(
        self,
        session: str,
        plan: Plan,
        options: Options,
        *,
        client: PeerClient,
        database: Database,
        spool: Spool,
        workers: Workers,
        config: Config,
        replica_role: bool,
        ring: EventRing,
        resumed: int = 0,
    ) -> None:
        self.session = session
        self.plan = plan
        self.options = options
        self.ring = ring
        self.results: list[TableResult] = []
        self.error: PeersyncError | None = None
        self._client = client
        self._database = database
        self._history = History(database)
        self._spool = spool
        self._workers = workers
        self._config = config
        self._replica_role = replica_role
        self._record = SessionRecord(session, plan.action, plan.database, plan.source, plan.target)
        self._record.resumed = resumed
        self._record.rows_estimated = plan.rows
        self._record.started_at = _utc()
        self._record.count(Step.BACKUP, 0, plan.size_bytes or None)
        self._loader: Loader | None = None
        self._fetcher: Fetcher | None = None
        self._leftovers: list[str] = []
        self._leaving = False

    # --- for those who watch ------------------------------------------------------------
    @property
    def state(self) -> State:
        return self._record.state

    def progress(self) -> Progress:
        if self._loader is not None and self._fetcher is not None:
            self._loader.count(self._fetcher.data_bytes)
        return self._record.progress(time.monotonic(), _utc())

    def seconds(self) -> dict[str, float]:
        return self._record.seconds(time.monotonic())

    def cancelling(self) -> None:
        """Says at once that a cancel has been heard; the task's cancellation does the work."""
        if self._record.state is State.RUNNING:
            self._record.become(State.CANCELLING)
            self._publish()

    def leave(self) -> None:
        """The agent is about to stop: the coming cancellation is not the end of the session."""
        self._leaving = True

    # --- the session --------------------------------------------------------------------
    async def run(self) -> None:
        """Ends in a final state, whatever happens. Raises only for a bug, after recording it."""
        self._record.become(State.RUNNING)
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick(), name=f"progress-{self.session[:8]}")
                await self._attempts()
                ticker.cancel()
        except BaseExceptionGroup as group_error:
            await self._end_with(root_error(group_error))
        except BaseException as exc:
            await self._end_with(exc)
            if isinstance(exc, asyncio.CancelledError):
                raise
        else:
            await self._end(self._success(), None)

    async def gather_statistics(self) -> None:
        """What is left to do once the session has ended well, and nobody waits for any more."""
        if self._loader is None or self.state not in (State.DONE, State.PARTLY):
            return
        try:
            await self._loader.gather_statistics()
        except PeersyncError as exc:
            log.warning("session %s: ANALYZE: %s; autovacuum will do it", self.session, exc)

    def _success(self) -> State:
        return (
            State.DONE
            if all(r.result == "done" for r in self.results) and not (self.plan.blocked)
            else State.PARTLY
        )

    async def _attempts(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt()
            except BaseExceptionGroup as group_error:
                error = root_error(group_error)
            except PeersyncError as exc:
                error = exc
            if not self._may_try_again(error, attempt):
                raise error
            log.warning("session %s: %s; trying again", self.session, error)
            self._record.waiting_for = f"{error}; trying again"
            self._record.resumed += 1
            self._record.restart()
            await asyncio.sleep(0 if isinstance(error, DumpRestarted) else _PAUSE_S * attempt)
        return None

    @staticmethod
    def _may_try_again(error: BaseException, attempt: int) -> bool:
        """An unreachable peer has had its time already, and a full disk does not mend itself."""
        if not isinstance(error, PeersyncError) or not error.retryable or attempt == ATTEMPTS:
            return False
        return not isinstance(error, PeerUnreachable | DiskFull)

    async def _attempt(self) -> None:
        holder = Holder(
            node=self.plan.target,
            pid=os.getpid(),
            job=self.session,
            what=f"a full sync from {self.plan.source}",
        )
        async with lease(self._database, LEASE, holder) as fence:
            if await self._committed():
                return
            await self._clear()
            self._record.waiting_for = None
            await self._workers.run(self._spool.create)
            try:
                await self._restore(fence)
            except BaseException:
                self._stop_reading()
                raise
        await self._clear()

    async def _restore(self, fence: int) -> None:
        fetcher = self._fetcher = Fetcher(
            self._client,
            self._request(),
            self._spool,
            self._record,
            self._workers,
            self._config.network,
            self._config.full_sync.in_flight,
            time.monotonic,
        )
        loader = self._loader = Loader(
            self.plan,
            self.session,
            self._database,
            self._record,
            self._workers,
            self._config.full_sync,
            time.monotonic,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(fetcher.run(), name=f"fetch-{self.session[:8]}")
            await fetcher.parts_known.wait()
            await loader.load(fetcher.streams)
        if fetcher.baseline is None:
            raise PeersyncError("the source sent no baseline")
        loader.count(fetcher.data_bytes)
        self.results = await loader.commit(
            fence,
            fetcher.baseline,
            verify=self.options.verify,
            replica_role=self._replica_role,
        )
        loader.count(fetcher.data_bytes)
        now = time.monotonic()
        self._record.end(Step.RESTORE, now)
        verified = StepState.DONE if self.options.verify else StepState.SKIPPED
        self._record.end(Step.VERIFY, now, verified)

    def _request(self) -> BackupRequest:
        wanted = self.plan.wanted()
        create = tuple(_ref(t.schema, t.name) for t in wanted if t.action == "create")
        scope = self.plan.schema_scope
        return BackupRequest(
            session=self.session,
            database=self.plan.database,
            tables=tuple(_ref(t.schema, t.name) for t in wanted),
            schema=scope,
            schema_tables=create if scope == "tables" else (),
            codec="zstd" if self.options.compress else "none",
            large_objects=self.plan.large_objects > 0,
        )

    def _stop_reading(self) -> None:
        if self._fetcher is not None:
            self._fetcher.abort()

    # --- what an attempt leaves, and what the database says -----------------------------
    async def _committed(self) -> bool:
        entry = await self._history.get(self.session)
        if entry is None or entry.committed_at is None:
            return False
        self.results = entry.tables
        for step in Step:
            self._record.end(step, time.monotonic())
        return True

    async def _clear(self) -> None:
        """Drops staging tables, and what was created unless it is committed."""
        entry = await self._history.get(self.session)
        created = entry.created_objects if entry and entry.committed_at is None else []
        self._leftovers = await clean_up(self.session, created, self._database, self._workers)
        for left in self._leftovers:
            log.error("session %s could not drop %s", self.session, left)

    async def _end_with(self, cause: BaseException) -> None:
        """Cleans up after a failure or a cancel, asks the database, and closes the record."""
        self._stop_reading()
        if self._leaving and isinstance(cause, asyncio.CancelledError):
            self.ring.close()
            return None
        self._record.fail_running(time.monotonic())
        try:
            async with lease(self._database, LEASE, self._cleaner()):
                if await self._committed():
                    return await self._end(self._success(), None)
                await self._clear()
        except PeersyncError as exc:
            log.warning("session %s: cleaning up: %s", self.session, exc)
        if isinstance(cause, asyncio.CancelledError | Cancelled):
            self._record.become(State.CANCELLING)
            return await self._end(State.CANCELLED, Cancelled("cancelled; nothing was changed"))
        if isinstance(cause, PeersyncError):
            return await self._end(State.FAILED, cause)
        log.error("session %s: internal error", self.session, exc_info=cause)
        bug = PeersyncError(
            f"internal error in session {self.session[:8]}: nothing was changed",
            hint="The agent's log has the details under this id.",
        )
        await self._end(State.FAILED, bug)
        return None

    def _cleaner(self) -> Holder:
        return Holder(
            node=self.plan.target, pid=os.getpid(), job=self.session, what="cleaning up a full sync"
        )

    async def _end(self, state: State, error: PeersyncError | None) -> None:
        self.error = error
        self._record.waiting_for = None
        if error is not None and self._leftovers:
            error.detail = "\n".join([error.detail or "", "left behind:", *self._leftovers]).strip()
        self._record.become(state)
        progress = self.progress()
        resumable = state is State.FAILED and not isinstance(error, VerifyFailed)
        try:
            await self._history.finish(progress, error=error, resumable=resumable)
        except PeersyncError as exc:
            log.warning("session %s: its end could not be recorded: %s", self.session, exc)
        await self._tell_source(progress, error)
        await self._workers.run(self._spool.remove)
        self._publish()
        self.ring.close()

    async def _tell_source(self, progress: Progress, error: PeersyncError | None) -> None:
        state = progress.state
        body = FinishRequest(
            state=state if state in ("done", "partly", "cancelled") else "failed",  # type: ignore[arg-type]
            progress=progress,
            error=str(error) if error else None,
        )
        try:
            await self._client.call("POST", f"/api/sync/backups/{self.session}/finish", body, Ok)
        except PeersyncError as exc:
            log.info("session %s: the source was not told of its end: %s", self.session, exc)

    # --- progress -----------------------------------------------------------------------
    async def _tick(self) -> None:
        recorded = reported = 0.0
        while True:
            now = time.monotonic()
            self._publish()
            if now - recorded >= RECORD_EVERY_S:
                recorded = now
                await self._quietly(self._history.update(self.progress()))
            if now - reported >= REPORT_EVERY_S and self._fetcher is not None:
                reported = now
                await self._quietly(
                    self._client.call(
                        "POST",
                        f"/api/sync/backups/{self.session}/progress",
                        ProgressReport(progress=self.progress()),
                        Ok,
                    )
                )
            await asyncio.sleep(TICK_S)

    def _publish(self) -> None:
        self.ring.publish("progress", self.progress())

    async def _quietly(self, call: object) -> None:
        """Progress that can't be told is told with the next; the work itself goes on."""
        try:
            await call  # type: ignore[misc]
        except PeersyncError as exc:
            log.debug("session %s: progress not told: %s", self.session, exc)


def _ref(schema: str, name: str) -> TableRef:
    return TableRef(schema=schema, name=name)


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
