"""Takes a full sync from a peer: one session from its plan to its end, whatever happens.

A session is a chain of attempts. Each attempt takes the lease, clears away what an earlier
one left, and either commits everything or nothing. What may be tried again (a database that
restarts, a source that had to dump anew, a damaged chunk) is tried again from the chunks
that are here. Whether an attempt committed is never inferred from an exception: the
database is asked (`footprint`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from peersync.agent.attempt import Attempt
from peersync.agent.footprint import Footprint
from peersync.agent.leftovers import take_over
from peersync.agent.periodic.joining import abandon_join, prepare_join
from peersync.agent.plan import Plan
from peersync.agent.reports import Reports
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.backoff import Backoff
from peersync.core.errors import (
    Cancelled,
    DatabaseUnreachable,
    PeersyncError,
    RowsChanged,
    root_error,
)
from peersync.core.names import TableName
from peersync.core.progress import Progress, Step
from peersync.core.results import TableResult
from peersync.core.retries import Retries, may_be_resumed
from peersync.core.session import SessionRecord, State
from peersync.postgres.history import Entry, History
from peersync.postgres.pool import Database
from peersync.transport.client import PeerClient
from peersync.transport.sse import EventRing
from peersync.wire.messages import JoinRequest, Options
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.target")

_CHANGED = "what was compared was changed here meanwhile, or other rows came than asked for"


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
        node_id: str,
        earlier: Entry | None = None,
    ) -> None:
        """`earlier` is the record of a session that is taken up again."""
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
        self._node_id = node_id
        self._record = SessionRecord(session, plan.action, plan.database, plan.source, plan.target)
        self._record.resumed = earlier.resumed + 1 if earlier else 0
        self._record.wire_bytes = earlier.wire_bytes if earlier else 0
        self._record.rows_estimated = plan.rows
        self._record.started_at = earlier.started_at if earlier else _utc()
        self._record.count(Step.BACKUP, 0, plan.size_bytes or None)
        self._current: Attempt | None = None
        self._footprint = Footprint(plan, session, database, workers, self._take_committed)
        self._whole: dict[TableName, str] = {}  # tables that are not compared any more, and why
        self._leaving = False
        self.cancel_asked = False
        self._reason: PeersyncError | None = None
        self.resumable = False
        self.undo: str | None = None  # whether what it changed can be put back
        self.recorded = True  # False: the database could not be told how it ended
        self._reports = Reports(
            session, self.progress, ring=ring, history=self._history, client=client
        )

    # --- for those who watch ------------------------------------------------------------
    @property
    def state(self) -> State:
        return self._record.state

    def progress(self) -> Progress:
        if self._current is not None:
            self._current.count()
        return self._record.progress(time.monotonic(), _utc())

    def seconds(self) -> dict[str, float]:
        return self._record.seconds(time.monotonic())

    def cancelling(self, by: str = "") -> None:
        """Says at once that a cancel has been heard; the task's cancellation does the work."""
        if self._record.state is State.RUNNING:
            self.cancel_asked = True
            self._record.cancelled_by = by or None
            self._record.become(State.CANCELLING)
            self._reports.publish()

    def forbid(self, reason: PeersyncError) -> None:
        """Says why the coming cancellation is a failure."""
        self._reason = reason

    def leave(self) -> None:
        """The agent is about to stop: the coming cancellation is not the end of the session."""
        self._leaving = True

    # --- the session --------------------------------------------------------------------
    async def run(self) -> None:
        """Ends in a final state, whatever happens. Raises only for a bug, after recording it."""
        self._record.become(State.RUNNING)
        try:
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._reports.run(), name=f"tell-{self.session[:8]}")
                await self._attempts()
                telling.cancel()
        except BaseExceptionGroup as group_error:
            await self._close_with(root_error(group_error))
        except BaseException as exc:
            await self._close_with(exc)
        else:
            await self._end(self._success(), None)

    async def _close_with(self, cause: BaseException) -> None:
        """A cancel that comes while it cleans up begins that anew, and leaves nothing half done."""
        while True:
            try:
                await self._end_with(cause)
            except asyncio.CancelledError as again:
                task = asyncio.current_task()
                if self._leaving or self.state.final or not (task and task.cancelling()):
                    raise
                self._uncancel(cause)
                cause = again
                continue
            if not self.state.final:  # the agent stops
                raise cause
            return self._uncancel(cause)

    def _uncancel(self, cause: BaseException) -> None:
        """It was the session that was cancelled, and not whoever runs it."""
        task = asyncio.current_task()
        assert task is not None
        if isinstance(cause, asyncio.CancelledError):
            task.uncancel()

    async def follow_up(self) -> None:
        """What is left to do once the session has ended, and nobody here waits for any more."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_end(), name=f"tell-end-{self.session[:8]}")
            if self._current is not None and self.state in (State.DONE, State.PARTLY):
                await self._current.gather_statistics()

    async def _tell_end(self) -> None:
        if not (self.recorded or self.resumable):
            return  # whether it has committed is not known: who finds out tells it
        await self._reports.end(
            self.error, self.results, resumable=self.resumable, patience=self._backoff()
        )

    @property
    def _unchanged(self) -> str:
        if self.options.per_table:
            return "the tables that were done by then stay as they are now"
        return "nothing was changed"

    def _success(self) -> State:
        return (
            State.DONE
            if all(r.result == "done" for r in self.results) and not (self.plan.blocked)
            else State.PARTLY
        )

    @property
    def _told_to_stop(self) -> bool:
        """Not Task.cancelling(): before Python 3.13 a task that fails in a group adds to it."""
        stopped = self._leaving or self._reason is not None
        return stopped or self._record.state is State.CANCELLING

    async def _attempts(self) -> None:
        retries = Retries(self._backoff)
        while True:
            began, last = time.monotonic(), self._current
            try:
                return await self._attempt()
            except BaseExceptionGroup as group_error:
                error = root_error(group_error)
            except PeersyncError as exc:
                error = exc
            if self._told_to_stop:
                raise asyncio.CancelledError from error  # what failed meanwhile does not undo it
            if isinstance(error, RowsChanged):
                self._compare_no_more(error)
            pause = retries.pause_s(error, began, time.monotonic())
            if pause is None:
                raise error
            log.warning("session %s: %s; trying again", self.session, error)
            if self._current is not last:  # else the database was not even back
                self._record.resumed += 1
            self._record.restart()
            self._record.waiting_for = f"{error}; trying again"
            await asyncio.sleep(pause)

    def _compare_no_more(self, error: RowsChanged) -> None:
        """Takes tables whole that are written to meanwhile; the second time, all of them."""
        changed = {TableName(*name) for name in error.data["tables"]}
        again = bool(self._whole)
        for table in self.plan.wanted():
            if table.way == "delta" and (again or table.table in changed):
                self._whole.setdefault(table.table, _CHANGED)

    def _backoff(self) -> Backoff:
        network = self._config.network
        return Backoff(maximum_s=network.retry_max_s, total_s=network.retry_for_s)

    async def _attempt(self) -> None:
        async with self._footprint.hold("a full sync") as held:
            if not await self._footprint.committed():
                await self._footprint.refuse_if_closed()
                await take_over(self._database, self.session, self._workers)
                await self._footprint.clear()
                self._record.waiting_for = None
                join = await self._prepare_join()
                await self._workers.run(self._spool.create)
                self._current = Attempt(
                    self._record,
                    self.plan,
                    self.options,
                    client=self._client,
                    database=self._database,
                    spool=self._spool,
                    workers=self._workers,
                    config=self._config,
                    join=join,
                    whole=self._whole,
                )
                try:
                    self.results = await self._current.run(
                        held.fence, replica_role=self._replica_role
                    )
                except BaseException:
                    self._stop_reading()
                    raise
            await self._footprint.clear()

    async def _prepare_join(self) -> JoinRequest | None:
        if not self.options.join:
            return None
        return await prepare_join(
            self._database,
            self._config,
            node_id=self._node_id,
            name=self.plan.target,
            anew=self.options.anew,
            direction=self.options.direction,
        )

    def _stop_reading(self) -> None:
        if self._current is not None:
            self._current.stop_reading()

    # --- the end ------------------------------------------------------------------------
    def _take_committed(self, entry: Entry) -> None:
        """The database says that the session has committed: it has what became of the tables."""
        self.results = entry.tables
        record, now = self._record, time.monotonic()
        record.rows = record.rows or sum(table.source for table in entry.tables)
        record.raw_bytes = record.raw_bytes or entry.raw_bytes
        for step in Step:
            record.end(step, now)

    def _wait_for(self, what: str) -> None:
        self._record.waiting_for = what
        self._reports.publish()

    async def _end_with(self, cause: BaseException) -> None:
        """Cleans up after a failure or a cancel, asks the database, and closes the record."""
        self._stop_reading()
        if isinstance(cause, asyncio.CancelledError):
            if self._leaving:
                return self.ring.close()
            cause = self._reason or Cancelled(f"cancelled; {self._unchanged}")
            if isinstance(cause, Cancelled):
                self._record.become(State.CANCELLING)
                await self._reports.record()  # a crash from here on must not take it up again
        self._record.fail_running(time.monotonic())
        committed = await self._footprint.ask_and_clear(self._backoff(), self._wait_for)
        self.recorded = not self._footprint.taken_over
        if committed:
            return await self._end(self._success(), None)
        if committed is None:
            cause = DatabaseUnreachable(
                f"{self._database.name} does not answer any more; whether the sync has "
                "committed is looked up as soon as it does",
                detail=str(cause),
                hint="Is PostgreSQL running? Then: peersync jobs show " + self.session[:8],
            )
        elif isinstance(cause, Cancelled) and self._reason is None:
            self._record.become(State.CANCELLING)
            return await self._end(State.CANCELLED, cause)
        elif not isinstance(cause, PeersyncError):
            log.error("session %s: internal error", self.session, exc_info=cause)
            cause = PeersyncError(
                f"internal error in session {self.session[:8]}: {self._unchanged}",
                hint="The agent's log has the details under this id.",
            )
        return await self._end(State.FAILED, cause)

    async def _end(self, state: State, error: PeersyncError | None) -> None:
        self.error = error
        self._record.waiting_for = None
        if error is not None and (left := self._footprint.leftovers):
            error.detail = "\n".join([error.detail or "", "left behind:", *left]).strip()
        self._record.become(state)
        resumable = state is State.FAILED and may_be_resumed(error)
        self.resumable = resumable and self._config.full_sync.keep_spool_h > 0
        if self.recorded:
            await self._record_end(error)
        if self.options.join and state in (State.FAILED, State.CANCELLED) and not self.resumable:
            await abandon_join(self._database)
        # what is kept is kept from now on, however long ago the last chunk came
        await self._workers.run(self._spool.rest if self.resumable else self._spool.remove)
        self._reports.publish()
        self.ring.close()

    async def _record_end(self, error: PeersyncError | None) -> None:
        """Who took this session over has closed its record, and then nothing of it goes on."""
        try:
            closed = await self._history.finish(
                self.progress(), error=error, resumable=self.resumable
            )
            self.resumable = self.resumable and closed
            entry = await self._history.get(self.session)
            if entry is not None:  # of one transaction a table, some may have committed
                self.undo = entry.undo.state if entry.undo else None
                self.results = self.results or entry.tables
        except PeersyncError as exc:
            log.warning("session %s: its end could not be recorded: %s", self.session, exc)
            self.recorded = False


def _utc() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
