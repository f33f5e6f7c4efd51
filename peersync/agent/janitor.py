"""Sweeps what ended sessions and vanished peers left: spools, open records, old undo journals.

Records of runs and links go when they are older than [statistics] keep_d.

Runs at the start and every hour. What belongs to a session that runs, rests or will be
taken up again is not touched before `keep_spool_h` have passed since it was last used. A source
that was away when a session ended, and its target restarted meanwhile, is told of it here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.periodic.joining import abandon_join
from peersync.agent.undo import Undo
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.postgres.history import Entry, History
from peersync.postgres.pool import Database
from peersync.postgres.samples import forget
from peersync.wire.spool import Spool, sessions

log = logging.getLogger("peersync.janitor")

EVERY_S = 3600.0
LOOK_EVERY_S = 60.0  # for backups that nobody has asked about, and sources that were away
_ENDED = 50  # so many of the newest sessions of a database
_TELL_S = 10.0


class Janitor:
    """`run` for ever; `sweep` once."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        backups: Backups,
        jobs: Jobs,
        undo: Undo,
        workers: Workers,
        *,
        given: Path,
        taken: Path,
    ) -> None:
        self._config = config
        self._databases = databases
        self._backups = backups
        self._jobs = jobs
        self._undo = undo
        self._workers = workers
        self._given, self._taken = given, taken
        self._untold: dict[str, Entry] = {}
        self._told: set[str] = set()

    @property
    def _keep_s(self) -> float:
        return self._config.full_sync.keep_spool_h * 3600

    @property
    def _open_s(self) -> float:
        """How long a target may be silent that did not say how its session ended."""
        return max(self._keep_s, self._config.network.retry_for_s)

    async def run(self) -> None:
        swept: float | None = None
        while True:
            now = time.monotonic()
            for session in self._backups.forgotten(self._keep_s):
                await self._backups.drop(session)
            try:
                if swept is None or now - swept >= EVERY_S:
                    swept = now
                    await self.sweep()
                await self._find_ended()  # also what was closed for an agent that had died
            except PeersyncError as exc:
                log.warning("%s; trying again later", exc)
            await self._tell_ends()
            await asyncio.sleep(LOOK_EVERY_S)

    async def sweep(self) -> None:
        """Raises what a database says that can't be asked: then its spools are kept."""
        for database in self._databases:
            for entry in await History(await self._databases.ready(database.name)).unfinished(
                "source"
            ):
                await self._close_source(History(database), entry)
        await self._undo.expire()
        await self._sweep_spools(self._given, self._is_given)
        await self._sweep_spools(self._taken, self._is_taken)
        for database in self._databases:
            await self._forget_old(database)

    async def _close_source(self, history: History, entry: Entry) -> None:
        """A record whose target never came back, or whose end could not be recorded."""
        if entry.session in self._backups or _age_s(entry.updated_at) < self._open_s:
            return
        progress = entry.progress or Progress(
            session=entry.session,
            action=entry.action,
            database=entry.database,
            source=self._config.node.name,
            target=entry.peer,
            state="failed",
        )
        error = PeersyncError(f"{entry.peer} never came back for it")
        await history.finish(msgspec.structs.replace(progress, state="failed"), error=error)
        log.warning("backup %s: %s", entry.session, error)

    async def _forget_old(self, database: Database) -> None:
        before = datetime.now(UTC) - timedelta(days=self._config.statistics.keep_d)
        cleared = await History(database).clear(keep_latest=True, before=before)
        for session in cleared.sessions:
            self._jobs.forget(session)
        async with database.acquire("forgetting old records") as conn:
            await forget(conn, before)

    async def _find_ended(self) -> None:
        """The sessions of this node that ended for good, and whose source may not know it."""
        name = self._config.node.name
        self._untold = {
            entry.session: entry
            for database in self._databases
            for entry in await History(database).newest(_ENDED)
            if entry.role == "target" and entry.completed_at and not entry.resumable
            if entry.plan is not None and entry.plan.get("target") == name
            if entry.session not in self._told and _age_s(entry.completed_at) < self._open_s
        }

    async def _tell_ends(self) -> None:
        away: set[str] = set()
        for session, entry in list(self._untold.items()):
            if entry.peer_id in away:
                continue
            try:
                async with asyncio.timeout(_TELL_S):
                    await self._jobs.tell_end(entry)
            except (PeersyncError, TimeoutError) as exc:
                if not isinstance(exc, PeersyncError) or exc.retryable:
                    away.add(entry.peer_id)
                    continue
            del self._untold[session]
            self._told.add(session)

    async def _sweep_spools(
        self, root: Path, wanted: Callable[[str, bool], Awaitable[bool]]
    ) -> None:
        for session in await self._workers.run(sessions, root):
            spool = Spool(root, session)
            old = time.time() - await self._workers.run(spool.used_at) >= self._keep_s
            if await wanted(session, old):
                continue
            log.info("the spool of session %s is removed", session)
            await self._workers.run(spool.remove)

    async def _is_given(self, session: str, old: bool) -> bool:
        if session in self._backups:
            return True
        entry = await self._find(session)
        if entry is not None and entry.completed_at is None:
            return True  # its target will come: `_close_source` has closed the others
        ended = entry is not None and entry.state in ("done", "partly", "cancelled")
        return not ended and not old

    async def _is_taken(self, session: str, old: bool) -> bool:
        if self._jobs.is_running(session):
            return True
        entry = await self._find(session)
        if entry is None:
            return False
        if entry.completed_at is None:
            return True  # it will be taken up
        if entry.resumable and not old:
            return True
        if entry.resumable:
            for database in self._databases:
                await History(database).not_resumable(session)
            if entry.options.get("join"):
                await self._abandon_join(entry)
        return False

    async def _abandon_join(self, entry: Entry) -> None:
        """What nobody takes up any more catches no changes for ever."""
        database = self._databases.get(entry.database)
        if not await History(database).unfinished("target"):
            await abandon_join(database)

    async def _find(self, session: str) -> Entry | None:
        for database in self._databases:
            entry = await History(database).get(session)
            if entry is not None:
                return entry
        return None


def _age_s(time_text: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time_text)).total_seconds()
