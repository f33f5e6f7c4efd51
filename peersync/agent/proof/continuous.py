"""Keeps the digests of verified tables up to date, a little at a time, while nothing else is done.

A verification asks for a table to be kept; this reads it once, then the blocks in which the log
says that something has changed, and each block again after some weeks. It is given a share of one
connection's time and rests for the remainder. What is kept, and why it can be trusted, is
`postgres.proof_lists`'s. It never stands in the way: its transactions are short, it locks
nothing but its own lists, and it stops while a verification or a full sync of the database runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import asyncpg

from peersync.agent.databases import Databases
from peersync.agent.proof.kept_state import KeptStates
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.pool import Database
from peersync.postgres.proof_lists import SQL
from peersync.postgres.proof_work import Worked, work

log = logging.getLogger("peersync.verify")

LOOK_S: Final = 2.0
FAILED_S: Final = 30.0
SCRUB_EVERY_S: Final = 600.0
PIECE_S: Final = 1.0  # of one transaction, about
FIRST_ROWS: Final = 20_000
MAX_ROWS: Final = 1_000_000
ASKED_DAYS: Final = 90.0  # a table that nobody has verified for so long is kept no more
LOCK_S: Final = 2.0
_SHORT: Final = f"SET LOCAL lock_timeout = '{LOCK_S:g}s'"
_OF_THE_TABLE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,  # no right to read it, too
    asyncpg.ProgramLimitExceededError,
)


class Continuous:
    """`run` until cancelled. `busy`: whether a database has something better to do now."""

    def __init__(self, config: Config, databases: Databases, busy: Callable[[str], bool]) -> None:
        self._config = config.verify
        self._databases = databases
        self._busy = busy
        budget = self._config.continuous_budget
        self.states = KeptStates(databases.names() if budget else (), budget)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name in self._databases.names():
                group.create_task(self._keep(name), name=f"kept-{name}")

    async def _keep(self, name: str) -> None:
        """One database, for ever; where it is switched off, what was kept is dropped."""
        while True:
            try:
                database = await self._databases.ready(name)
                if not self._config.continuous_budget:
                    async with database.acquire("dropping kept digests") as conn:
                        await conn.execute(SQL["forget_all"])
                    return
                await self._wait_for_lists(database)
                await Worker(database, self._config.continuous_budget, self._config.scrub_days,
                              lambda: self._busy(name), self.states).run()  # fmt: skip
            except (PeersyncError, *TRANSLATED) as error:
                self.states.failed(name, error)
                level = logging.DEBUG if getattr(error, "retryable", True) else logging.WARNING
                log.log(level, "keeping digests of %s: %s", name, error)
                await asyncio.sleep(FAILED_S)

    async def _wait_for_lists(self, database: Database) -> None:
        """Most databases have none: no connection is kept for them."""
        while True:
            async with database.acquire("looking for kept digests") as conn:
                await self.states.look(conn, database.name)
                if await conn.fetchval(SQL["any"]):
                    return
            await asyncio.sleep(LOOK_S)


class Worker:
    """The lists of one database, on a connection of its own."""

    def __init__(
        self,
        database: Database,
        budget: float,
        scrub_days: float,
        busy: Callable[[], bool],
        states: KeptStates | None = None,
    ) -> None:
        self._database = database
        self._rest = 100 / budget - 1
        self._days = scrub_days
        self._busy = busy
        self._states = states or KeptStates((), budget)
        self._rows = FIRST_ROWS
        self._scrubbed_at = time.monotonic()

    async def run(self) -> None:
        """Until no list is left."""
        async with self._database.connect(
            "proof", what="keeping digests", lock_timeout_s=LOCK_S
        ) as conn:
            while await conn.fetchval(SQL["any"]):
                if not self._busy() and await conn.fetchval(SQL["try_work"]):
                    try:
                        await self._round(conn)
                    finally:
                        if not conn.is_closed():
                            await conn.execute(SQL["end_work"])
                await self._states.look(conn, self._database.name)
                await asyncio.sleep(LOOK_S)

    async def _round(self, conn: asyncpg.Connection) -> None:
        await self._arm(conn)
        touched = await self._advance(conn)
        scrub = time.monotonic() - self._scrubbed_at >= SCRUB_EVERY_S
        for row in await conn.fetch(SQL["lists"]):
            more = row["unread"] or scrub or touched is None or row["tbl"] in touched
            while more and not self._busy():
                more = await self._piece(conn, row["list"], self._days if scrub else None)
                await self._states.look(conn, self._database.name)
        if scrub:
            self._scrubbed_at = time.monotonic()
            await conn.execute(SQL["forget_old"], ASKED_DAYS)
        await conn.execute(SQL["forget_marks"])

    async def _arm(self, conn: asyncpg.Connection) -> None:
        """New lists count once whoever was applying when they came has ended."""
        lists = await conn.fetchval(SQL["unarmed"])
        if lists:
            with suppress(asyncpg.LockNotAvailableError):  # next time
                async with conn.transaction():
                    await conn.execute(_SHORT)
                    await conn.execute(SQL["let_applies_end"])
                    await conn.execute(SQL["arm"], lists)

    async def _advance(self, conn: asyncpg.Connection) -> list[int] | None:
        """Lists of tables that nobody has written are up to date; the numbers of the others.

        None: any could have been written.
        """
        async with conn.transaction(isolation="repeatable_read"):
            touched: list[int] | None = await conn.fetchval(SQL["touched"])
            if touched is not None:
                await conn.execute(SQL["advance_quiet"], touched)
        return touched

    async def _piece(self, conn: asyncpg.Connection, number: int, days: float | None) -> bool:
        """Whether there is more to do for this list. Rests as long as the budget wants it."""
        began = time.monotonic()
        try:
            done = await work(conn, number, rows=self._rows, scrub_days=days)
        except asyncpg.LockNotAvailableError:  # altered, or locked: next time
            return False
        except _OF_THE_TABLE as error:  # others are not kept waiting for it
            log.warning("%s: no digests are kept of a table: %s", self._database.name, error)
            await conn.execute(SQL["forget"], number)
            return False
        spent = time.monotonic() - began
        self._fit(done, spent)
        await self._states.read(conn, self._database.name, done, spent)
        if done.unseen:
            log.warning(
                "%s: rows of %s were changed, and no trigger of peersync has seen it; "
                "its digests are made anew: peersync verify --fresh says where it differs",
                self._database.name,
                done.table,
            )
        await asyncio.sleep(spent * self._rest)
        return done.more

    def _fit(self, done: Worked, spent: float) -> None:
        """As many rows as take about a second."""
        if done.more and done.rows:
            fitting = int(done.rows * PIECE_S / max(spent, 0.001))
            self._rows = max(1_000, min(MAX_ROWS, fitting, 4 * self._rows))
