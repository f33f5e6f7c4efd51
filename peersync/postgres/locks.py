"""Keeps two full syncs of one database apart, and finds out who overslept.

The advisory lock belongs to a connection and goes with it. A process that is stopped for
two minutes may lose that connection and not know; the fence number, which every new
holder raises, is what its commit then fails on. Whoever gets the lock first ends what is
left of the last holder in PostgreSQL: a killed process's statement runs on there, and
would hold its rows and tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from peersync.core.errors import DatabaseError, Locked, PermissionMissing
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

log = logging.getLogger("peersync.locks")

LOOK_EVERY_S = 2.0
_PATIENCE_S = 10.0  # for the statements of the last holder, which have been told to end


class Holder(msgspec.Struct, frozen=True):
    """Who has the lease, in words for the one who is refused."""

    node: str
    pid: int
    job: str
    what: str

    def words(self, since: str) -> str:
        return f"{self.what} (job {self.job}, node {self.node}, pid {self.pid}, since {since})"


class Lease:
    """A lease that is held. `fence` is what the final transaction compares."""

    def __init__(self, database: Database, name: str, holder: Holder, connection: Any) -> None:
        self.fence = 0
        self._database = database
        self._name = name
        self._holder = holder
        self._connection = connection

    async def take(self) -> None:
        sql = queries("leases")
        if not await self._connection.fetchval(sql["try_lock"], self._name):
            raise await _refusal(self._connection, self._database.name, self._name)
        row = await self._connection.fetchrow(sql["holder"], self._name)
        if row is not None:
            last = msgspec.json.decode(row["holder"], type=Holder)
            await end_leftovers(self._connection, last.job)
        mine = msgspec.json.encode(self._holder).decode()
        try:
            self.fence = await self._connection.fetchval(sql["take_lease"], self._name, mine)
        except Locked:
            raise await _refusal(self._connection, self._database.name, self._name) from None

    async def keep(self) -> None:
        """Runs while the lease is held; a connection that was lost is replaced.

        Raises Locked when another holder has come meanwhile: what runs under this lease
        must end.
        """
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                row = await self._connection.fetchrow(queries("leases")["holder"], self._name)
            except Exception as exc:
                if not self._connection.is_closed():
                    raise
                log.warning("the connection of a lease was lost: %s", exc)
                await self._again()
            else:
                self._check(row)

    async def _again(self) -> None:
        """Takes the lock on a new connection, unless somebody else became the holder."""
        async with self._database.connect(
            f"lease/{self._holder.job[:8]}", what="taking the lease again"
        ) as connection:
            if not await connection.fetchval(queries("leases")["try_lock"], self._name):
                raise await _refusal(connection, self._database.name, self._name)
            self._check(await connection.fetchrow(queries("leases")["holder"], self._name))
            self._connection = connection
            log.info("the lease is held again")
            await self.keep()

    def _check(self, row: Any) -> None:
        if row is None or row["fence"] != self.fence:
            raise Locked(
                "another full sync has taken over this database while this one was asleep",
                hint="Nothing was changed by this one. See: peersync jobs list",
            )


@asynccontextmanager
async def lease(database: Database, name: str, holder: Holder) -> AsyncIterator[Lease]:
    """Holds the named lease while the block runs.

    Raises Locked, naming the holder, when another process has it.
    """
    async with database.connect(
        f"lease/{holder.job[:8]}", what="taking the lease", lock_timeout_s=_PATIENCE_S
    ) as connection:
        held = Lease(database, name, holder, connection)
        await held.take()
        yield held


async def refuse_if_held(database: Database, name: str) -> None:
    """Raises Locked, naming the holder, if somebody has the lease at this moment."""
    sql = queries("leases")
    async with database.acquire("looking at the lease") as connection:
        if not await connection.fetchval(sql["try_lock"], name):
            raise await _refusal(connection, database.name, name)
        await connection.fetchval(sql["unlock"], name)


async def end_leftovers(connection: Any, job: str) -> None:
    """Ends the statements that a job's dead process left running in this database."""
    try:
        ended = await connection.fetch(queries("leases")["end_leftovers"], job[:8])
    except (DatabaseError, PermissionMissing) as exc:
        log.warning("what job %s left in PostgreSQL could not be ended: %s", job[:8], exc)
        return
    for row in ended:
        log.warning("ended what job %s had left: %s", job[:8], row["application_name"])


async def _refusal(connection: Any, database: str, name: str) -> Locked:
    row = await connection.fetchrow(queries("leases")["holder"], name)
    if row is None:
        return Locked(f"another process is syncing {database}", hint="Try again in a moment.")
    holder = msgspec.json.decode(row["holder"], type=Holder)
    since = f"{row['since']:%Y-%m-%d %H:%M:%S} UTC"
    return Locked(
        f"{database} is busy: {holder.words(since)}",
        hint=f"Watch it: peersync jobs watch {holder.job}\n"
        f"or stop it: peersync jobs cancel {holder.job}",
        holder=msgspec.to_builtins(holder) | {"since": since},
    )
