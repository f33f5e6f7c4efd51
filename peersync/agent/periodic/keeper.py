"""What a database's periodic sync does now and then: capture, heartbeats, parked tables, pruning.

Each has its own pace and none is urgent, so they share one connection and take turns. It knows
of no peers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

import asyncpg

from peersync.agent.periodic.capturing import capture_tables
from peersync.agent.periodic.expiring import answer, waits_for_words
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.notices import Notices
from peersync.config.model import Periodic
from peersync.core.order.membership import majority
from peersync.core.order.stability import heartbeat_due
from peersync.postgres.log.apply import Applier
from peersync.postgres.log.members import Replica, read_members, read_replica
from peersync.postgres.log.membership import say_word
from peersync.postgres.log.oneway import tell_direction
from peersync.postgres.log.parking import parked_tables
from peersync.postgres.log.prune import expired_candidates, log_size, prune
from peersync.postgres.log.publish import beat

log = logging.getLogger("peersync.periodic")

LOOK_S: Final = 1.0
PRUNE_S: Final = 60.0
DAY_S: Final = 86_400
MIB: Final = 1 << 20
UNBOUNDED: Final = 1 << 62


class Keeper:
    """`run` for one database, until cancelled."""

    def __init__(self, hub: Hub, config: Periodic) -> None:
        self._hub = hub
        self._config = config
        self._beat_at = 0.0
        self._position: int | None = None  # of this database, when it was last told of
        self._pruned_at = time.monotonic()
        self._notices = Notices(hub.name)

    async def run(self, works: Callable[[], None]) -> None:
        """`works` is called whenever a round has gone well."""
        what = f"keeping the log of {self._hub.name}"
        async with self._hub.database.connect("keep", what=what) as conn:
            while True:
                replica = await read_replica(conn)
                if replica is not None and replica.state == "active":
                    if replica.position != self._position:  # also said by a join, or a person
                        self._position = replica.position
                        await self._hub.tell(conn)
                    await self._round(conn, replica, time.monotonic())
                works()
                await asyncio.sleep(LOOK_S)

    async def _round(self, conn: asyncpg.Connection, replica: Replica, now: float) -> None:
        await capture_tables(self._hub, conn)
        await tell_direction(conn, replica)  # the next round wakes who waits
        await answer(self._hub, conn, replica)
        if now - self._beat_at >= self._config.beat_s and await self._beat_is_due(conn, replica):
            await beat(conn)
            self._beat_at = now
            await self._hub.tell(conn)
        if any(table.misfit is None for table in await parked_tables(conn)):
            await self._resume(conn, replica)
        await self._notices.look(conn, now)
        if now - self._pruned_at >= PRUNE_S:
            self._pruned_at = now
            await prune(conn)
            await self.look_who_is_late(conn, replica)

    async def look_who_is_late(self, conn: asyncpg.Connection, replica: Replica) -> None:
        """For whom changes are kept longer, or more of them, than is wanted (R12)."""
        late = expired_candidates(
            await log_size(conn),
            max_age_s=self._config.retention_d * DAY_S,
            max_bytes=self._config.retention_mib * MIB or UNBOUNDED,
        )
        self._hub.late = {waiting.origin: waiting.age_s for waiting in late}
        members = {m.origin: m for m in await read_members(conn) if m.counts}
        heard = members.keys() - self._hub.late.keys()
        if not late or not majority(heard, members):
            return  # the others may have as good a reason to expire us: a person decides
        for waiting in late:
            member = members.get(waiting.origin)
            if member is None or waits_for_words(member, replica.origin):
                continue
            log.warning(
                "%s: %s has been away too long; the others are asked whether they miss it, too",
                self._hub.name,
                waiting.node_name,
            )
            async with conn.transaction():
                await say_word(conn, waiting.origin, asks=True)
        await self._hub.tell(conn)

    async def _resume(self, conn: asyncpg.Connection, replica: Replica) -> None:
        """Changes of tables that fit by now are applied."""
        lock_s = self._config.lock_timeout_s
        async with Applier(self._hub.database, replica.origin, lock_timeout_s=lock_s) as applier:
            if await applier.resume_parked():
                await self._hub.tell(conn)

    async def _beat_is_due(self, conn: asyncpg.Connection, replica: Replica) -> bool:
        """Whether somebody's changes were applied since this database last said what it has.

        The log does not keep what nobody else needs, so what was heard is remembered; a new
        process counts all that is applied as news, which costs one heartbeat.
        """
        members = await read_members(conn)
        heard = self._hub.heard
        for m in members:
            if m.counts and m.origin != replica.origin:
                heard.setdefault(m.origin, m.applied)
        told = next((m.seen for m in members if m.origin == replica.origin), {})
        return heartbeat_due(heard, told)
