"""Gives way on the source: a dump must not hold up the application that uses the database.

A statement that wants a table for itself (ALTER TABLE, TRUNCATE, DROP) waits for the dump, and
every later reader of that table waits behind it. So the dump lets go after a second, lets the
statement pass, and begins again: chunks with the same content are not sent twice. It does so
only for whoever waits for the dump alone, and only some times: a database that is altered all
the time is dumped at last, with the statements waiting as they do beside any pg_dump.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from peersync.core.errors import DatabaseUnreachable, Locked, PeersyncError
from peersync.postgres.lockqueue import Queue, look
from peersync.postgres.pool import Database

log = logging.getLogger("peersync.source")

LOOK_EVERY_S = 0.5
PATIENCE_S = 1.0  # so long readers may be held up
TIMES = 5  # for one run of a backup
PAUSE_S = 2.0  # after giving way, so that the other statements of a migration pass, too


class GiveWay:
    """For one backup. `kind` is that of its connections; `say` is told what it waits for."""

    def __init__(self, database: Database, kind: str, say: Callable[[str | None], None]) -> None:
        self.times = 0
        self._database = database
        self._kind = kind
        self._say = say
        self._waited_for: str | None = None

    def pause_s(self, times_before: int) -> float | None:
        """How long to stay away after an attempt; None when it did not end by giving way."""
        return PAUSE_S * self.times if self.times > times_before else None

    async def watch(self) -> None:
        """Runs beside an attempt, until it is cancelled.

        Raises DatabaseUnreachable, to begin again, or Locked, when that is to no avail. Both
        name who is in the way.
        """
        self._waited_for = None
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                async with self._database.acquire("looking for who waits") as connection:
                    queue = await look(connection, f"peersync/{self._kind}")
            except PeersyncError as exc:
                log.debug("%s: %s", self._kind, exc)
                continue
            self._tell(queue)
            self._judge(queue)

    def _tell(self, queue: Queue) -> None:
        words = queue.before_us[0].words() if queue.before_us else None
        if words == self._waited_for:
            return
        self._waited_for = words
        if words is not None:
            log.warning("%s waits for %s", self._kind, words)
        self._say(words)

    def _judge(self, queue: Queue) -> None:
        behind = [other for other in queue.behind_us if other.waited_s >= PATIENCE_S]
        if not behind:
            return
        words = behind[0].words()
        if self.times < TIMES:
            self.times += 1
            raise DatabaseUnreachable(f"the dump gave way to {words}")
        if queue.before_us:  # it waits for the dump, and the dump for it
            raise Locked(
                f"the dump gave way {TIMES} times, and now waits for {words}",
                hint="Start the sync again when no tables are being altered.",
            )
