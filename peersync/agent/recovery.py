"""Takes up the full syncs that were running when the last agent died, or closes them.

For each database, as soon as it answers. What must not be taken up again (it was being
cancelled, its peer is gone, it died too often) is cleaned up and closed with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Protocol

import msgspec

from peersync.agent import leftovers
from peersync.agent.databases import Databases
from peersync.agent.periodic.joining import abandon_join
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import Cancelled, Locked, PeersyncError
from peersync.core.session import State
from peersync.postgres.history import Entry, History
from peersync.postgres.locks import Holder, lease, refuse_if_held
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.transport.peers import PeerBook
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.jobs")

MAX_RESUMES = 20
RECOVER_EVERY_S = 2.0
_KNOWN_S = 5.0


class Takes(Protocol):
    """What `Jobs` does for the recovery."""

    def runs(self, session: str) -> bool: ...
    def forget(self, session: str) -> None: ...
    async def take_up(self, database: Database, entry: Entry) -> None: ...


class Recovery:
    """`run` for one database; `known` waits until it is clear what runs there."""

    def __init__(
        self,
        jobs: Takes,
        config: Config,
        databases: Databases,
        book: PeerBook,
        spool_root: Path,
        workers: Workers,
    ) -> None:
        self._jobs = jobs
        self._config = config
        self._databases = databases
        self._book = book
        self._root = spool_root
        self._workers = workers
        self._running: dict[str, asyncio.Event] = {}
        self._cancelled: set[str] = set()

    async def known(self, database_name: str) -> None:
        """Raises Locked when it takes too long: whoever starts now would be in the way."""
        try:
            async with asyncio.timeout(_KNOWN_S):
                if (recovered := self._running.get(database_name)) is not None:
                    await recovered.wait()
        except TimeoutError:
            raise Locked(
                f"{database_name} is busy: an earlier full sync is being taken up again",
                hint="Watch it: peersync jobs list",
            ) from None

    async def cancel(self, entry: Entry, by: str) -> None:
        """Closes as cancelled, instead of taking it up, what waits for its database."""
        if entry.completed_at is not None or not self._is_ours(entry):
            return
        self._cancelled.add(entry.session)
        progress = leftovers.progress_of(entry)
        cancelling = msgspec.structs.replace(
            progress, state=State.CANCELLING.value, cancelled_by=by or None
        )
        await History(self._databases.get(entry.database)).update(cancelling)

    def note_cancelled(self, session: str) -> None:
        """It was cancelled while its database was away: closed, and not taken up."""
        self._cancelled.add(session)

    def refuse_cancelled(self, session: str) -> None:
        """Raises Locked for one that was cancelled on its way to be taken up."""
        if session in self._cancelled:
            raise Locked(f"session {session[:8]} is being cancelled")

    def _is_ours(self, entry: Entry) -> bool:
        return entry.plan is None or entry.plan.get("target") == self._config.node.name

    async def run(self, database_name: str) -> None:
        """Takes up what was running when the last agent died, as soon as the database answers.

        A session that another process runs at this moment is left to it.
        """
        recovered = self._running[database_name] = asyncio.Event()
        try:
            while True:
                try:
                    return await self._take_up_all(database_name)
                except PeersyncError as exc:
                    if not exc.retryable and not isinstance(exc, Locked):
                        log.warning("database %s can't be used: %s", database_name, exc)
                        return None
                    log.warning("database %s: %s; trying again", database_name, exc)
                    if isinstance(exc, Locked):
                        recovered.set()  # it is known what runs: who starts now is told the holder
                    await asyncio.sleep(RECOVER_EVERY_S)
        finally:
            recovered.set()
            self._running.pop(database_name, None)

    async def _take_up_all(self, database_name: str) -> None:
        database = await self._databases.ready(database_name)
        for entry in await History(database).unfinished("target"):
            if self._jobs.runs(entry.session):
                continue
            if not self._is_ours(entry):
                continue  # another node's; who starts a sync here takes over from it
            await refuse_if_held(database, LEASE)
            if (refusal := self._why_not(entry)) is not None:
                await self._close(database, entry, *refusal)
            else:
                log.info("session %s is taken up again", entry.session)
                await self._jobs.take_up(database, entry)

    def _why_not(self, entry: Entry) -> tuple[State, PeersyncError] | None:
        if entry.state == State.CANCELLING or entry.session in self._cancelled:
            return State.CANCELLED, Cancelled("cancelled; nothing was changed")
        reason = None
        if self._book.find(entry.peer_id) is None or entry.plan is None:
            reason = "its peer was removed"
        elif entry.resumed >= MAX_RESUMES:
            reason = "it died too often"
        if reason is None:
            return None
        return State.FAILED, PeersyncError(
            f"the agent stopped in the middle of it, and {reason}",
            hint="Nothing was changed. Start a new one when this is mended.",
        )

    async def _close(
        self, database: Database, entry: Entry, state: State, error: PeersyncError
    ) -> None:
        holder = Holder(
            self._config.node.name, os.getpid(), entry.session, "cleaning up a full sync"
        )
        async with lease(database, LEASE, holder):
            await leftovers.close(database, entry.session, state, error, self._workers)
            if entry.options.get("join"):
                await abandon_join(database)  # not where it has become a member after all
        self._jobs.forget(entry.session)
        await self._workers.run(Spool(self._root, entry.session).remove)
