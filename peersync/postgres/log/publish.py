"""Gives committed changes their place in this database's order, and waits for the next ones.

What a place is, and why it is given afterwards, stands in sql/functions/publish.sql. Here
are its callers: the publisher, which also sleeps without missing a commit, and whoever
announces something to the group. When to publish, beat or announce is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg
import msgspec

from peersync.core.errors import NotFound
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("publish")
_CHANNEL: Final = "peersync"
_LOOK_AGAIN_S: Final = 0.02  # while a writer is at work, which will not notify
_LOOK_AT_LEAST_S: Final = 0.25  # it may stay open for hours
_GROWTH: Final = 1.5

Announcement = Literal["b", "j", "l", "e", "c", "w"]  # as core.order.change has them


@dataclass(frozen=True)
class Published:
    """How many transactions got a place, and the highest place and time of this database."""

    count: int
    position: int
    hlc: int


async def publish(conn: asyncpg.Connection) -> Published | None:
    """Publishes what is committed. None when that is nothing, or no part is taken now.

    Waits for another publisher. Inside the caller's transaction nobody else publishes until
    it ends, and changes that it makes itself are published by a later call. In REPEATABLE
    READ the caller holds `publish_lock` since before its transaction.
    """
    row = await conn.fetchrow(_SQL["publish"])
    if not row["published"]:
        return None
    return Published(row["published"], row["position"], row["hlc"])


async def beat(conn: asyncpg.Connection) -> int:
    """Publishes a transaction without changes, for the sake of what it says was seen."""
    return await announce(conn, "b")


async def announce(
    conn: asyncpg.Connection, kind: Announcement, info: dict[str, Any] | None = None
) -> int:
    """Tells the group something, after what is pending; its position.

    Part of the caller's transaction, where there is one: nobody else publishes until its
    end. There it comes before the caller writes peersync.replica or its own member row, or
    two of them wait for each other. Raises NotFound where this database takes no part now.
    """
    text = None if info is None else msgspec.json.encode(info).decode()
    row = await conn.fetchrow(_SQL["announce"], kind, text)
    if row["position"] is None:
        raise NotFound(
            "this database takes no part in periodic sync now",
            hint="peersync status says why",
        )
    position: int = row["position"]
    return position


@asynccontextmanager
async def publish_lock(conn: asyncpg.Connection) -> AsyncIterator[None]:
    """Keeps every other publisher out, from before a transaction's snapshot until after it.

    A REPEATABLE READ transaction that publishes must be begun inside: one that waits for the
    lock after its first look fails with a serialization error.
    """
    await conn.execute(_SQL["lock"])
    try:
        yield
    finally:
        if not conn.is_closed():  # otherwise the lock went with the session
            await conn.execute(_SQL["unlock"])


class Waker:
    """Sleeps until there is something to publish. Needs a connection of its own.

    Writers notify only while somebody sleeps, which they see by an advisory lock. It can't
    be taken while a transaction is open that saw it free; until then this looks again and
    again. Where two-phase commit is possible it only ever looks: a transaction that has
    notified can't be prepared.
    """

    def __init__(self, conn: asyncpg.Connection) -> None:
        self._conn = conn
        self._called = asyncio.Event()
        self._listens = False
        self._prepared_possible = False

    async def sleep(self, max_s: float) -> bool:
        """Whether there is something to publish; False after `max_s` seconds without.

        A commit that comes while this falls asleep is seen. Raises what the driver raises
        when the connection is lost, at once.
        """
        await self._listen()
        pause_s = _LOOK_AGAIN_S
        try:
            async with asyncio.timeout(max_s):
                while not await self._doze(pause_s):
                    pause_s = min(pause_s * _GROWTH, _LOOK_AT_LEAST_S)
        except TimeoutError:
            return False
        return True

    async def _listen(self) -> None:
        if not self._listens:
            self._prepared_possible = await self._conn.fetchval(_SQL["prepared_possible"])
            self._conn.add_termination_listener(lambda _: self._called.set())
            await self._conn.add_listener(_CHANNEL, lambda *_: self._called.set())
            self._listens = True

    async def _doze(self, pause_s: float) -> bool:
        """Looks, and waits if there was nothing; whether there is something."""
        self._called.clear()
        asleep = not self._prepared_possible  # a cancelled attempt may have got the lock
        try:
            if asleep:
                asleep = await self._conn.fetchval(_SQL["fall_asleep"])
            if await self._pending():
                return True
            if not asleep:
                await asyncio.sleep(pause_s)
                return False
            await self._called.wait()
        finally:
            if asleep and not self._conn.is_closed():
                await self._conn.execute(_SQL["wake_up"])
        return await self._pending()

    async def _pending(self) -> bool:
        pending: bool = await self._conn.fetchval(_SQL["pending"])
        return pending
