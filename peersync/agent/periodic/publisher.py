"""One database's own part of periodic sync: gives its changes positions as they are committed.

Wakes when an application commits, publishes again while changes keep coming, and tells who
waits for news. It knows of no peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from peersync.agent.periodic.hub import Hub
from peersync.config.model import Periodic
from peersync.postgres.log.publish import Waker, publish

BUSY_S: Final = 0.02  # between two publishes while changes keep coming


class Publisher:
    """`run` for one database, until cancelled. Raises what the database raises."""

    def __init__(self, hub: Hub, config: Periodic) -> None:
        self._hub = hub
        self._config = config

    async def run(self, works: Callable[[], None]) -> None:
        """`works` is called whenever a round has gone well."""
        what = f"publishing the changes of {self._hub.name}"
        async with self._hub.database.connect("publish", what=what) as conn:
            await conn.execute("SET synchronous_commit = on")
            waker = Waker(conn)
            while True:
                published = await publish(conn)
                works()
                if published is not None:
                    await self._hub.tell(conn)
                    await asyncio.sleep(BUSY_S)
                elif self._config.wake_up:
                    await waker.sleep(self._config.interval_s)
                else:
                    await asyncio.sleep(self._config.interval_s)
