"""Keeps two full syncs of one database apart, and finds out who overslept.

The advisory lock belongs to a connection and goes with it. A process that is stopped for
two minutes may lose that connection and not know; the fence number, which every new
holder raises, is what its commit then fails on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from peersync.core.errors import Locked
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries


class Holder(msgspec.Struct, frozen=True):
    """Who has the lease, in words for the one who is refused."""

    node: str
    pid: int
    job: str
    what: str

    def words(self, since: str) -> str:
        return f"{self.what} (job {self.job}, node {self.node}, pid {self.pid}, since {since})"


@asynccontextmanager
async def lease(database: Database, name: str, holder: Holder) -> AsyncIterator[int]:
    """Holds the named lease while the block runs; gives the fence number.

    Raises Locked, naming the holder, when another process has it.
    """
    sql = queries("leases")
    async with database.connect(f"lease/{holder.job[:8]}", what="taking the lease") as connection:
        if not await connection.fetchval(sql["try_lock"], name):
            raise await _refusal(connection, database.name, name)
        mine = msgspec.json.encode(holder).decode()
        yield await connection.fetchval(sql["take_lease"], name, mine)


async def refuse_if_held(database: Database, name: str) -> None:
    """Raises Locked, naming the holder, if somebody has the lease at this moment."""
    sql = queries("leases")
    async with database.acquire("looking at the lease") as connection:
        if not await connection.fetchval(sql["try_lock"], name):
            raise await _refusal(connection, database.name, name)
        await connection.fetchval(sql["unlock"], name)


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
