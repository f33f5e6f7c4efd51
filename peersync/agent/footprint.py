"""What the database has of one full sync: its record, its lease, and what its attempts left there.

An exception never says that a transaction did not happen: here the database is asked, and waited
for. What becomes of the session by the answer is decided in `target`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from peersync.agent.leftovers import clean_up
from peersync.agent.plan import Plan
from peersync.agent.workers import Workers
from peersync.core.backoff import Backoff
from peersync.core.errors import Locked, PeersyncError
from peersync.postgres.history import Entry, History
from peersync.postgres.locks import Holder, Lease, lease
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE

log = logging.getLogger("peersync.target")


class Footprint:
    """`on_committed` is called with the record whenever it says that the session has committed."""

    def __init__(
        self,
        plan: Plan,
        session: str,
        database: Database,
        workers: Workers,
        on_committed: Callable[[Entry], None],
    ) -> None:
        self.leftovers: list[str] = []  # what could not be dropped the last time, and why
        self.taken_over = False  # this session is run elsewhere by now: its record is not ours
        self._plan = plan
        self._session = session
        self._database = database
        self._history = History(database)
        self._workers = workers
        self._on_committed = on_committed

    def hold(self, what: str) -> AbstractAsyncContextManager[Lease]:
        """The database's lease, held for `what`. Locked when somebody else holds it."""
        holder = Holder(
            node=self._plan.target,
            pid=os.getpid(),
            job=self._session,
            what=f"{what} from {self._plan.source}",
        )
        return lease(self._database, LEASE, holder)

    async def committed(self) -> bool:
        entry = await self._history.get(self._session)
        if entry is None or entry.committed_at is None:
            return False
        self._on_committed(entry)
        return True

    async def refuse_if_closed(self) -> None:
        """Raises Locked where the record is gone or has an end already."""
        entry = await self._history.get(self._session)
        if entry is None or entry.completed_at is not None:
            raise Locked(
                "another full sync came while this one was away, and closed it",
                hint="Nothing was changed by this one. See: peersync jobs list",
            )

    async def clear(self) -> None:
        """Drops staging tables, and what was created unless it is committed."""
        entry = await self._history.get(self._session)
        open_ = entry is not None and entry.committed_at is None and entry.completed_at is None
        created = entry.created_objects if entry and open_ else []
        self.leftovers = await clean_up(self._session, created, self._database, self._workers)
        for left in self.leftovers:
            log.error("session %s could not drop %s", self._session, left)

    async def ask_and_clear(self, backoff: Backoff, wait_for: Callable[[str], None]) -> bool | None:
        """Whether the session has committed, and nothing else of it is left; None: not known.

        `wait_for` is told, in words, what is waited for.
        """
        while True:
            try:
                async with self.hold("cleaning up a full sync"):
                    committed = await self.committed()
                    await self.clear()
                    return committed
            except Locked as exc:
                return await self._ask_beside(exc)
            except PeersyncError as exc:
                pause = backoff.next_pause(time.monotonic()) if exc.retryable else None
                if pause is None:
                    log.exception("session %s: cleaning up", self._session)
                    return None
                wait_for(f"{exc.message}; trying again")
                await asyncio.sleep(pause)

    async def _ask_beside(self, locked: Locked) -> bool | None:
        """Another holder has come: it has dropped what we had created and closed our record."""
        log.warning("session %s: %s", self._session, locked)
        holder = locked.data.get("holder") or {}
        self.taken_over = holder.get("job") == self._session
        try:
            committed = await self.committed()
            if not self.taken_over:
                await clean_up(self._session, [], self._database, self._workers)
        except PeersyncError as exc:
            log.warning("session %s: cleaning up: %s", self._session, exc)
            return None
        return committed
