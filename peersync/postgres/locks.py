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
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from peersync.core.errors import DatabaseUnreachable, Locked, PermissionMissing, root_error
from peersync.postgres.errors import translated
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

log = logging.getLogger("peersync.locks")

LOOK_EVERY_S = 2.0
_PATIENCE_S = 10.0  # for the statements of the last holder, which have been told to end
_RECONNECT_S = 20.0  # for a server that starts again
_AGAIN_S = 0.5
_OWN_GHOST_S = 5.0  # for a connection of the same job that the server has not seen ending yet


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

    def __init__(self, database: Database, name: str, holder: Holder) -> None:
        self.fence = 0
        self._database = database
        self._name = name
        self._holder = holder

    async def take(self, connection: Any) -> None:
        """Becomes the holder. Raises Locked, naming who is."""
        await self._lock(connection)
        row = await connection.fetchrow(queries("leases")["holder"], self._name)
        if row is not None:
            await end_leftovers(connection, _holder(row).job)
        mine = msgspec.json.encode(self._holder).decode()
        try:
            with translated("taking the lease"):
                # a crash of the server must not give the same fence out twice
                await connection.execute("SET synchronous_commit = on")
                self.fence = await connection.fetchval(
                    queries("leases")["take_lease"], self._name, mine
                )
        except Locked:  # the last holder's transaction does not end
            raise await _refusal(connection, self._database.name, self._name) from None

    async def _lock(self, connection: Any) -> None:
        """The advisory lock. A connection of this very job that is just ending is waited for."""
        deadline = asyncio.get_running_loop().time() + _OWN_GHOST_S
        while not await connection.fetchval(queries("leases")["try_lock"], self._name):
            row = await connection.fetchrow(queries("leases")["holder"], self._name)
            mine = row is not None and _holder(row).job == self._holder.job
            if not mine or asyncio.get_running_loop().time() > deadline:
                raise await _refusal(connection, self._database.name, self._name)
            await asyncio.sleep(0.1)

    async def keep(self, connection: Any) -> None:
        """Runs while the lease is held; a connection that was lost is replaced.

        Raises Locked when another holder has come meanwhile, and DatabaseUnreachable when
        there is no connection to be had for some time, in which a server may start again: what
        runs under this lease must end then.
        """
        loop = asyncio.get_running_loop()
        await self._look_until_lost(connection)
        lost_at = loop.time()
        log.warning("job %s: the connection of its lease was lost", self._holder.job)
        while True:
            try:
                async with self._database.connect(
                    f"lease/{self._holder.job[:8]}", what="taking the lease again"
                ) as replacement:
                    with translated("taking the lease again"):
                        await self._lock(replacement)
                    await self._look_until_lost(replacement)
                    lost_at = loop.time()
                    log.warning("job %s: the connection of its lease was lost", self._holder.job)
            except DatabaseUnreachable:
                if loop.time() - lost_at > _RECONNECT_S:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _look_until_lost(self, connection: Any) -> None:
        while True:
            try:
                with translated("looking at the lease"):
                    row = await connection.fetchrow(queries("leases")["holder"], self._name)
            except DatabaseUnreachable:
                return
            if row is None or row["fence"] != self.fence:
                raise Locked(
                    "another full sync has taken over this database while this one was asleep",
                    hint="Nothing was changed by this one. See: peersync jobs list",
                )
            await asyncio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def lease(database: Database, name: str, holder: Holder) -> AsyncIterator[Lease]:
    """Holds the named lease while the block runs, and ends the block when it is lost.

    Raises Locked, naming the holder, when another process has it or has taken it over.
    """
    async with database.connect(
        f"lease/{holder.job[:8]}", what="taking the lease", lock_timeout_s=_PATIENCE_S
    ) as connection:
        held = Lease(database, name, holder)
        await held.take(connection)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(held.keep(connection), name=f"lease-{holder.job[:8]}")
                yield held
                keeper.cancel()
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors


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
        with translated("ending what is left"):
            ended = await connection.fetch(queries("leases")["end_leftovers"], job[:8])
    except PermissionMissing as exc:
        log.warning("what job %s left in PostgreSQL could not be ended: %s", job, exc)
        return
    for row in ended:
        log.warning("job %s had left %s running in PostgreSQL", job, row["application_name"])


async def _refusal(connection: Any, database: str, name: str) -> Locked:
    row = await connection.fetchrow(queries("leases")["holder"], name)
    if row is None:
        return Locked(f"another process is syncing {database}", hint="Try again in a moment.")
    holder = _holder(row)
    since = f"{row['since']:%Y-%m-%d %H:%M:%S} UTC"
    return Locked(
        f"{database} is busy: {holder.words(since)}",
        hint="It takes moments: try again."
        if holder.what.startswith("undoing")
        else f"Watch it: peersync jobs watch {holder.job}\n"
        f"or stop it: peersync jobs cancel {holder.job}",
        holder=msgspec.to_builtins(holder) | {"since": since},
    )


def _holder(row: Any) -> Holder:
    return msgspec.json.decode(row["holder"], type=Holder)
