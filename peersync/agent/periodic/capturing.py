"""Keeps the capture of a database to its tables: new ones, altered ones, those that were busy.

Whoever is about to claim that everything was sent looks first: a row of a table that is not
captured yet is in no log.

To make triggers, a table is locked, and whoever writes it queues behind who waits for that lock.
So the lock is asked for a moment only: often by who waits for an answer, else in growing pauses.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import asyncpg

from peersync.agent.periodic.hub import Hub
from peersync.postgres.log.capture import LOCKED, TableState, catalog_stamp, enrol
from peersync.postgres.log.members import read_replica

LOCK_S: Final = 0.1  # for so long the writers of a table may wait
CAPTURE_S: Final = 2.0  # of who waits for an answer
AGAIN_S: Final = 0.3  # between two tries meanwhile
RETRY_S: Final = 1.0  # of tables that somebody held, at first
RETRY_MAX_S: Final = 10.0
RETRY_REFUSED_S: Final = 10.0


async def capture_tables(hub: Hub, conn: asyncpg.Connection, *, patience_s: float = 0) -> None:
    """Captures what is new or has changed since the last look; cheap where nothing has.

    Tables that somebody holds are tried again for `patience_s`, and then by a later call.
    """
    until = time.monotonic() + patience_s
    async with hub.capturing:
        if await read_replica(conn) is None:  # it has left the group while this waited
            return
        stamp = await catalog_stamp(conn)
        urgent = patience_s > 0 and hub.capture_busy > 0
        if stamp == hub.stamp and time.monotonic() < hub.capture_at and not urgent:
            return
        refused = await _look(hub, conn)
        while _busy(refused) and time.monotonic() + AGAIN_S < until:
            await asyncio.sleep(AGAIN_S)
            stamp = await catalog_stamp(conn)
            refused = await _look(hub, conn)
        hub.stamp = stamp  # not a later one: a table made meanwhile would never be looked at
        if _busy(refused):
            pause = min(RETRY_S * 2**hub.capture_busy, RETRY_MAX_S)
            hub.capture_busy = min(hub.capture_busy + 1, 10)
            hub.capture_at = time.monotonic() + pause
        else:
            hub.capture_busy = 0
            hub.capture_at = time.monotonic() + RETRY_REFUSED_S if refused else float("inf")


async def _look(hub: Hub, conn: asyncpg.Connection) -> list[TableState]:
    states = await enrol(conn, hub.patterns, lock_timeout_s=LOCK_S)
    return [state for state in states if state.state == "refused"]


def _busy(refused: list[TableState]) -> bool:
    return any(state.reason == LOCKED for state in refused)
