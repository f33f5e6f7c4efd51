"""Keeps the capture of a database to its tables: new ones, altered ones, those that were busy.

Whoever is about to claim that everything was sent looks first: a row of a table that is not
captured yet is in no log.
"""

from __future__ import annotations

import time
from typing import Final

import asyncpg

from peersync.agent.periodic.hub import Hub
from peersync.postgres.log.capture import LOCKED, catalog_stamp, enrol

CAPTURE_LOCK_S: Final = 2.0  # of who waits for an answer
RETRY_S: Final = 1.0  # of tables that somebody held
RETRY_REFUSED_S: Final = 10.0


async def capture_tables(hub: Hub, conn: asyncpg.Connection, *, lock_timeout_s: float) -> None:
    """Captures what is new or has changed since the last look; cheap where nothing has."""
    async with hub.capturing:
        stamp = await catalog_stamp(conn)
        if stamp == hub.stamp and time.monotonic() < hub.capture_at:
            return
        states = await enrol(conn, hub.patterns, lock_timeout_s=lock_timeout_s)
        refused = [state for state in states if state.state == "refused"]
        hub.stamp = stamp  # not a later one: a table made meanwhile would never be looked at
        if any(state.reason == LOCKED for state in refused):
            hub.capture_at = time.monotonic() + RETRY_S
        else:
            hub.capture_at = time.monotonic() + RETRY_REFUSED_S if refused else float("inf")
