"""Bulk syncs: every database of this node brought up to date, one after the other.

Owns which databases are taken, their order, the one run at a time, and what becomes of it when
it is stopped. What is done for a database is a complete sync's affair (`CompleteSyncs`), which
has a record of its own: here is only what came of it. The failure of one database, even a bug,
never keeps the next from its turn.

Two runs at once would queue behind each other's databases, so the second is refused. One agent
runs on a node, and its memory says whether a run goes on: a record that says so and is not
that run was left by an agent that died.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from peersync.agent.endings import Endings
from peersync.agent.orchestration.bulk_outcome import (
    BulkDatabase,
    BulkPlan,
    BulkRequest,
    BulkView,
    PlannedDatabase,
    ended,
    idle,
    left,
    outcome,
    summed,
)
from peersync.agent.orchestration.bulk_records import BulkRecords
from peersync.agent.orchestration.complete import CompleteSyncs
from peersync.agent.orchestration.line import Patience
from peersync.agent.orchestration.outcome import CompleteRequest, CompleteView
from peersync.config.model import Config
from peersync.core.errors import Locked, NotFound, PeersyncError
from peersync.core.results import ErrorRecord
from peersync.wire.messages import SyncType

log = logging.getLogger("peersync.bulk")

Spawn = Callable[..., asyncio.Task[None]]
RECOVERED = 20  # of the newest; one at a time runs, so there is one at most
BY = "its bulk sync"
INTERNAL = ErrorRecord("failed", "internal error", hint="the agent's log has the traceback")


@dataclass
class _Run:
    view: BulkView
    since: datetime | None = None
    began: float = field(default_factory=time.monotonic)
    current: tuple[str, str] | None = None  # database and id of the complete sync that runs
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def change(self, place: int, **values: Any) -> None:
        databases = list(self.view.databases)
        databases[place] = msgspec.structs.replace(databases[place], **values)
        self.view = summed(self.view, tuple(databases), seconds=self.seconds)


class BulkSyncs:
    """Those of this node. `on_end` is called with each that has ended, from the event loop."""

    def __init__(
        self, config: Config, completes: CompleteSyncs, records: BulkRecords, spawn: Spawn
    ) -> None:
        self._config = config
        self._completes = completes
        self._records = records
        self._spawn = spawn
        self._run: _Run | None = None
        self._ended: BulkView | None = None  # the last one, in case its record has no place
        self.on_end: Endings[BulkView] = Endings()

    async def recover(self) -> None:
        """At the start: what a dead agent left running is interrupted."""
        for view in await asyncio.to_thread(self._records.newest, RECOVERED):
            if view.status == "running" and (seen := self._seen(view)).status != "running":
                log.warning("bulk sync %s was interrupted: %s", view.id[:8], seen.message)
                await self._keep(self._records.write, seen)
                self._tell(seen)

    async def start(self, wanted: BulkRequest, *, since: datetime | None = None) -> BulkView:
        """Recorded, and running. Locked names the run that goes on; NotFound an unknown name.

        `since`: a turn of that time is meant; a database that another agent began since then is
        skipped.
        """
        names = self._names(wanted)
        if self._run is not None:
            raise _locked(self._run.view)
        view = BulkView(
            id=uuid.uuid4().hex, node=self._config.node.name, status="running", success=False,
            message="", sync_type=wanted.sync_type, requested_by=wanted.requested_by,
            started_at=_now(), completed_at=None, duration_s=0.0, total=0, successful=0, failed=0,
            skipped=0, not_run=0, rows=0, wire_bytes=0, cost=0.0,
            currency=self._config.statistics.currency, databases=(),
        )  # fmt: skip
        databases = tuple(BulkDatabase(database=name) for name in names)
        run = self._run = _Run(summed(view, databases, seconds=0.0), since)
        try:
            await self._keep(self._records.begin, run.view)
            self._spawn(self._do(run), name=f"bulk-{view.id[:8]}")
        except BaseException:
            self._run = None
            raise
        return run.view

    async def wait(self, id: str) -> BulkView:  # noqa: A002
        """The run when it has ended."""
        run = self._run
        if run is None or run.view.id != id:
            return await self.get(id)
        await run.over.wait()
        return run.view

    async def cancel(self, id: str) -> BulkView:  # noqa: A002
        """Stops what runs now, and runs no more; harmless to repeat, and when it has ended."""
        view = await self.get(id)
        run = self._run
        if run is None or run.view.id != view.id:
            return view
        run.stop.set()
        if run.current is not None:
            await self._completes.cancel(*run.current, by=BY)
        return run.view

    async def get(self, id: str) -> BulkView:  # noqa: A002
        """By the beginning of its id. NotFound."""
        for view in (self._run.view if self._run is not None else None, self._ended):
            if view is not None and view.id == id:
                return view
        return self._seen(await asyncio.to_thread(self._records.get, id))

    async def history(self, limit: int) -> list[BulkView]:
        """Newest first."""
        return [self._seen(v) for v in await asyncio.to_thread(self._records.newest, limit)]

    async def plan(self, wanted: BulkRequest) -> BulkPlan:
        """What `start` would do now, with nothing changed."""
        planned = [await self._planned(name, wanted) for name in self._names(wanted)]
        states = [one.status for one in planned]
        return BulkPlan(
            total=len(planned),
            ready=states.count("ready"),
            skipped=states.count("skipped"),
            failed=states.count("error"),
            databases=planned,
        )

    # --- one run --------------------------------------------------------------------------
    async def _do(self, run: _Run) -> None:
        log.info("bulk sync %s: %d databases", run.view.id[:8], len(run.view.databases))
        try:
            for place in range(len(run.view.databases)):
                if run.stop.is_set():
                    break
                await self._one(run, place)
                await self._keep(self._records.write, run.view)
        finally:  # also when the agent stops
            run.view = ended(run.view, at=_now(), seconds=run.seconds)
            await self._keep(self._records.write, run.view)
            self._run, self._ended = None, run.view
            run.over.set()
            self._tell(run.view)

    async def _one(self, run: _Run, place: int) -> None:
        """Brings one database up to date; its failure ends here."""
        name = run.view.databases[place].database
        request = _request(name, run.view.sync_type, run.view.requested_by)
        began = time.monotonic()
        try:
            if (why := self._passed_over(name)) is None:
                plan = await self._completes.plan(request)
                if (trouble := left(plan)) is not None:
                    raise trouble
                why = idle(plan)
            if why is not None:
                run.change(place, status="skipped", reason=why)
                return
            run.change(place, status="running", peers=len(plan.wanted))
            await self._keep(self._records.write, run.view)
            view = await self._complete(run, place, request)
            if view is None:
                run.change(place, status="waiting")
            else:
                run.change(place, **outcome(view, stopped=run.stop.is_set()))
        except Locked as error:
            run.change(place, status="skipped", reason=error.message)
        except PeersyncError as error:
            self._failed(run, place, ErrorRecord.of(error), time.monotonic() - began)
        except Exception:  # a bug in one database's turn is aloud, and not the next one's affair
            log.exception("internal error in the bulk sync of %s; it goes on", name)
            self._failed(run, place, INTERNAL, time.monotonic() - began)

    async def _complete(
        self, run: _Run, place: int, request: CompleteRequest
    ) -> CompleteView | None:
        if (started := await self._started(run, request)) is None:
            return None
        run.change(place, complete_id=started.id, peers=started.peers_total)
        run.current = (request.database, started.id)
        try:
            await self._keep(self._records.write, run.view)
            if run.stop.is_set():  # before anybody could know the id
                await self._completes.cancel(request.database, started.id, by=BY)
            return await self._completes.wait(request.database, started.id)
        finally:
            run.current = None

    async def _started(self, run: _Run, request: CompleteRequest) -> CompleteView | None:
        """Whoever syncs the database is waited for. None: it was stopped meanwhile."""
        patience = Patience(self._config.complete.timeout_s, f"bulk sync of {request.database}")
        while not run.stop.is_set():
            try:
                return await self._completes.start(request, bulk=run.view.id, since=run.since)
            except Locked as error:
                if error.data.get("done"):
                    raise
                await patience.wait(error)
        return None

    def _failed(self, run: _Run, place: int, error: ErrorRecord, seconds: float) -> None:
        log.warning("bulk sync: %s: %s", run.view.databases[place].database, error.message)
        run.change(place, status="error", error=error, duration_s=round(seconds, 3))

    # --- which ----------------------------------------------------------------------------
    def _names(self, wanted: BulkRequest) -> list[str]:
        """In the order of the configuration, however they were named."""
        for name in wanted.databases:
            if name not in self._config.database:
                listed = ", ".join(self._config.database) or "none"
                raise NotFound(
                    f"this node has no database {name!r}",
                    detail=f"configured here: {listed}",
                    hint="name those of them that are meant, with commas between",
                )
        return [n for n in self._config.database if not wanted.databases or n in wanted.databases]

    def _passed_over(self, name: str) -> str | None:
        settings = self._config.database[name]
        if not settings.active:
            return "not active"
        return "a demo database" if settings.demo else None

    async def _planned(self, name: str, wanted: BulkRequest) -> PlannedDatabase:
        if (why := self._passed_over(name)) is not None:
            return PlannedDatabase(database=name, status="skipped", reason=why)
        try:
            plan = await self._completes.plan(_request(name, wanted.sync_type, wanted.requested_by))
        except PeersyncError as error:
            return PlannedDatabase(database=name, status="error", error=ErrorRecord.of(error))
        if (trouble := left(plan)) is not None:
            return PlannedDatabase(database=name, status="error", error=ErrorRecord.of(trouble))
        if (why := idle(plan)) is not None:
            return PlannedDatabase(database=name, status="skipped", reason=why)
        return PlannedDatabase(database=name, status="ready", peers=len(plan.wanted))

    # --- records --------------------------------------------------------------------------
    async def _keep(self, write: Callable[[BulkView], None], view: BulkView) -> None:
        """A full disk must not keep databases from their turn: then only memory has the run."""
        try:
            await asyncio.to_thread(write, view)
        except OSError as error:
            log.error("the record of bulk sync %s: %s", view.id[:8], error)  # noqa: TRY400

    def _seen(self, view: BulkView) -> BulkView:
        """A record as it is now: of the run that goes on, or of one that nobody runs."""
        if self._run is not None and self._run.view.id == view.id:
            return self._run.view
        if view.status != "running":
            return view
        return ended(view, at=view.completed_at, seconds=view.duration_s)

    def _tell(self, view: BulkView) -> None:
        log.info("bulk sync %s: %s", view.id[:8], view.message)
        self.on_end.tell(view)


def _request(database: str, sync_type: SyncType, by: str) -> CompleteRequest:
    return CompleteRequest(database=database, sync_type=sync_type, requested_by=by)


def _locked(view: BulkView) -> Locked:
    running = next((one for one in view.databases if one.status == "running"), None)
    at = f", now at {running.database}" if running else ""
    return Locked(
        f"bulk sync {view.id[:8]} runs already, since {view.started_at}{at}",
        detail=f"started by {view.requested_by} ({view.sync_type})",
        hint="wait until it has ended, or stop it with Ctrl-C where it was started",
        holder=view.id,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
