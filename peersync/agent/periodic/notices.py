"""What waits for a person, said in the log of the agent when it changes.

Parked tables by name; changes in quarantine and open conflicts by number, not one by one. Each of
the three is said at most once a minute, so a flood of refused rows makes no flood of lines.
"""

from __future__ import annotations

import logging
from typing import Final

import asyncpg

from peersync.core.words import counted
from peersync.postgres.sqlfiles import queries

log = logging.getLogger("peersync.periodic")

_SQL: Final = queries("links")
LOOK_S: Final = 5.0
SAID_S: Final = 60.0


class Notices:
    """Of one database. `look` as often as one likes; it paces itself."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._looked_at = -LOOK_S
        self._said_at: dict[str, float] = {}
        self._parked: frozenset[str] = frozenset()
        self._numbers = {"quarantine": 0, "conflicts": 0}

    async def look(self, conn: asyncpg.Connection, now: float) -> None:
        """`now` is of a monotonic clock, in seconds."""
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        row = await conn.fetchrow(_SQL["for_a_person"])
        self.tell_parked(frozenset(row["parked"]), now)
        self.tell_number("quarantine", row["quarantined"], now)
        self.tell_number("conflicts", row["open"], now)

    def tell_parked(self, tables: frozenset[str], now: float) -> None:
        if tables == self._parked or not self._may_say("parked", now):
            return
        for table in sorted(tables - self._parked):
            log.warning(
                "%s: incoming changes of %s wait, the table here does not fit: "
                "peersync tables list",
                self._database,
                table,
            )
        for table in sorted(self._parked - tables):
            log.info("%s: %s takes changes again", self._database, table)
        self._parked = tables

    def tell_number(self, what: str, number: int, now: float) -> None:
        before = self._numbers[what]
        if number == before or not self._may_say(what, now):
            return
        words = {
            "quarantine": f"{counted(number, 'change')} in quarantine",
            "conflicts": f"{counted(number, 'conflict')} to be decided",
        }[what]
        level = logging.WARNING if number > before else logging.INFO
        log.log(
            level,
            "%s: %s, %d before: peersync %s list",
            self._database,
            words,
            before,
            what,
        )
        self._numbers[what] = number

    def _may_say(self, what: str, now: float) -> bool:
        if now - self._said_at.get(what, now - SAID_S) < SAID_S:
            return False
        self._said_at[what] = now
        return True
