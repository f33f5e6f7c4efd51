"""The jobs of this node as people see them, from wherever each is known.

Those that run here, those that a peer runs with rows from here, and those that have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobview import JobView, view_entry, view_given
from peersync.agent.target import TargetSession
from peersync.core.errors import BadRequest, NotFound, PeersyncError
from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord
from peersync.postgres.history import Entry, History
from peersync.transport.sse import EventRing

log = logging.getLogger("peersync.jobs")


@dataclass
class Running:
    """A session of this node that runs, or ended a short while ago."""

    session: TargetSession
    task: asyncio.Task[None]
    requested_by: str


class JobViews:
    """`running` is what `Jobs` keeps; the rest is asked of the databases."""

    def __init__(
        self, databases: Databases, backups: Backups, running: Mapping[str, Running]
    ) -> None:
        self._databases = databases
        self._backups = backups
        self._running = running

    def running(self) -> list[Progress]:
        return [r.session.progress() for r in self._running.values() if not r.session.state.final]

    def ring(self, job: str) -> EventRing | None:
        """The events of a job that runs, or ended a short while ago."""
        running = self._running.get(job)
        return running.session.ring if running else self._backups.ring(job)

    async def find(self, prefix: str) -> str:
        """The full id of a job from its beginning. NotFound, or BadRequest if it is unclear."""
        views = await self.list(200)
        matches = {view.id for view in views if view.id.startswith(prefix)}
        if len(matches) > 1:
            raise BadRequest(
                f"{prefix!r} could be {len(matches)} jobs", hint="Give more of the id."
            )
        if not prefix or not matches:
            raise NotFound(f"there is no job {prefix!r}", hint="See: peersync jobs list")
        return matches.pop()

    async def get(self, job: str) -> JobView:
        running = self._running.get(job)
        if running is not None:
            view = self._view_running(job, running)
            if not running.session.state.final:
                return view
            return _undone_since(view, await self._recorded(view))
        for database in self._databases:
            entry = await History(database).get(job)
            if entry is not None:
                return self._view_entry(entry)
        raise NotFound(f"there is no job {job!r}", hint="See: peersync jobs list")

    def _view_entry(self, entry: Entry) -> JobView:
        given = self._backups.progress(entry.session) if entry.role == "source" else None
        if given is None or entry.completed_at is not None:
            return view_entry(entry)
        return view_given(entry, given)

    async def list(
        self, limit: int, *, of: str | None = None, state: str | None = None
    ) -> list[JobView]:
        """Newest first; a database that can't be reached leaves out its history."""
        views = {job: self._view_running(job, r) for job, r in self._running.items()}
        for database in self._databases:
            if of not in (None, database.name):
                continue
            try:
                entries = await History(database).newest(limit, state)
            except PeersyncError as exc:
                log.warning("history of %s: %s", database.name, exc)
                continue
            for entry in entries:
                if entry.role == "target" and entry.session in views:
                    views[entry.session] = _undone_since(views[entry.session], entry)
                elif entry.role == "target" or entry.session not in views:
                    views.setdefault(entry.session, self._view_entry(entry))
        wanted = [
            view
            for view in views.values()
            if of in (None, view.database) and state in (None, view.state)
        ]
        return sorted(wanted, key=lambda v: v.started_at, reverse=True)[:limit]

    def _view_running(self, job: str, running: Running) -> JobView:
        session = running.session
        progress = session.progress()
        return JobView(
            id=job,
            kind="full-sync",
            role="target",
            action=session.plan.action,
            database=session.plan.database,
            peer=session.plan.source,
            state=progress.state,
            progress=progress,
            tables=session.results,
            seconds=session.seconds(),
            error=ErrorRecord.of(session.error) if session.error else None,
            resumable=session.resumable,
            undo=session.undo,
            chosen_tables=bool(session.options.tables or session.options.exclude_tables),
            requested_by=running.requested_by,
            started_at=progress.started_at,
            completed_at=progress.updated_at if session.state.final else None,
            cancelled_by=progress.cancelled_by,
        )

    async def _recorded(self, view: JobView) -> Entry | None:
        """None also where the database does not answer: what is in memory has to do."""
        try:
            return await History(self._databases.get(view.database)).get(view.id)
        except PeersyncError as exc:
            log.warning("history of %s: %s", view.database, exc)
            return None

    async def entry(self, job: str) -> Entry | None:
        """The durable record of a job."""
        for database in self._databases:
            if (entry := await History(database).get(job)) is not None:
                return entry
        return None


def _undone_since(view: JobView, entry: Entry | None) -> JobView:
    """A session that has ended knows nothing of what was undone later: the record does."""
    if entry is None or entry.undo is None:
        return view
    return msgspec.structs.replace(view, undo=entry.undo.state)
