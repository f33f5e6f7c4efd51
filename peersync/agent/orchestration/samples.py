"""Writes down each minute what came from each peer, and makes the minutes hours and days.

Owns what was counted and is not yet written, and the few facts about links that are read from
the database once a minute, so that /metrics needs no query. Counting is the pullers'. A minute
in which nothing came and the link was in step leaves no row: its few bytes on the wire go with
the next. A database that does not answer keeps what was counted waiting, and no other database.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from peersync.agent.databases import Databases
from peersync.agent.periodic.hub import LAGS_KEPT, Counts, Hub
from peersync.agent.periodic.links import Local, read_local
from peersync.agent.periodic.loop import Periodic
from peersync.core.errors import PeersyncError, PeerUnreachable
from peersync.postgres.samples import (
    DAY_S,
    HOUR_S,
    MINUTE_S,
    Sample,
    add_samples,
    log_bytes,
    roll_up,
)

log = logging.getLogger("peersync.samples")

KEEP_MINUTES: Final = timedelta(days=2)
KEEP_HOURS: Final = timedelta(days=60)
LEAST_BEHIND_S: Final = 1.0  # a shorter while is that of every change on its way
FLUSH_S: Final = 3.0
ROLL_S: Final = 3600.0
_COUNTED: Final = (
    "transactions", "changes", "raw_bytes", "wire_bytes", "conflicts", "quarantined", "errors",
)  # fmt: skip


@dataclass
class _Written:
    """How far the counts of a link are in the database, and lags that are not."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    behind_s: float = 0.0
    lags: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=LAGS_KEPT))

    def copy(self) -> _Written:
        return _Written({**self.counts}, self.behind_s, self.lags.copy())


@dataclass(frozen=True)
class Facts:
    """What a database said of its links, at most a minute ago."""

    local: Local
    log_bytes: int


class LinkSamples:
    """`run` until cancelled, beside the loop that counts. `facts` and `newest` are for metrics."""

    def __init__(self, databases: Databases, periodic: Periodic) -> None:
        self.facts: dict[str, Facts] = {}
        self.newest: dict[tuple[str, str], Sample] = {}  # by database and peer's id
        self._databases = databases
        self._periodic = periodic
        self._written: dict[tuple[str, str], _Written] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for hub in self._periodic.hubs.values():
                group.create_task(self._keep(hub), name=f"samples-{hub.name}")

    async def _keep(self, hub: Hub) -> None:
        """One database, for ever; how long it takes to answer is its own affair."""
        rolled_at = -ROLL_S
        try:
            while True:
                roll = time.monotonic() - rolled_at >= ROLL_S
                if await self._tried(hub, roll=roll) and roll:
                    rolled_at = time.monotonic()
                await asyncio.sleep(MINUTE_S - time.time() % MINUTE_S)
        finally:  # what the last minute had; a server that is gone must not hold the agent up
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._tried(hub, roll=False)

    async def _tried(self, hub: Hub, *, roll: bool) -> bool:
        try:
            await self.look(hub, datetime.now(UTC), roll=roll)
        except PeersyncError as error:
            log.debug("%s; it is counted later", error)
            return False
        return True

    async def look(self, hub: Hub, now: datetime, *, roll: bool = False) -> None:
        """Writes what one database has not got yet. Raises what it says instead."""
        database = await self._databases.ready(hub.name)
        due = self._due(hub, now)
        async with database.acquire("counting what the links did") as conn:
            local = await read_local(conn)
            if local is None:
                self.facts.pop(hub.name, None)
            else:
                self.facts[hub.name] = Facts(local, await log_bytes(conn))
            if due:
                await self._write(conn, hub, due)
            if roll:
                await roll_up(conn, spans(now))

    def _due(self, hub: Hub, now: datetime) -> list[Sample]:
        at = datetime.fromtimestamp((now.timestamp() - 1) // MINUTE_S * MINUTE_S, UTC)
        found = []
        for node_id, counts in hub.counts.items():
            if node_id not in hub.links:
                counts.caught_up()  # a link that is paused or gone is behind nobody
            sample = self._sample(hub.name, node_id, counts, at)
            if _tells(sample):
                found.append(sample)
        return found

    def _sample(self, database: str, node_id: str, counts: Counts, at: datetime) -> Sample:
        written = self._written.setdefault((database, node_id), _Written())
        written.lags.extend(counts.lags)
        counts.lags.clear()
        grown = {name: getattr(counts, name) - written.counts[name] for name in _COUNTED}
        return Sample(
            peer_id=node_id,
            peer_name=counts.peer,
            at=at,
            lag_p50_s=quantile(written.lags, 0.5),
            lag_p95_s=quantile(written.lags, 0.95),
            behind_s=round(counts.behind_s + counts.behind_now_s - written.behind_s, 3),
            **grown,
        )

    async def _write(self, conn: asyncpg.Connection, hub: Hub, due: list[Sample]) -> None:
        """Counted as written before it is: a cancelled statement may have been committed."""
        before = {s.peer_id: self._written[hub.name, s.peer_id].copy() for s in due}
        self._note(hub, due)
        try:
            await add_samples(conn, due)
        except Exception:
            self._written.update(((hub.name, peer), old) for peer, old in before.items())
            raise

    def _note(self, hub: Hub, samples: Sequence[Sample]) -> None:
        for sample in samples:
            key = (hub.name, sample.peer_id)
            written = self._written[key]
            for name in _COUNTED:
                written.counts[name] += getattr(sample, name)
            written.behind_s += sample.behind_s
            written.lags.clear()
            self.newest[key] = sample


def quantile(weighted: Sequence[tuple[float, float]], part: float) -> float | None:
    """Of (value, weight): the value that `part` of all weight does not exceed."""
    limit = part * sum(weight for _, weight in weighted)
    reached = 0.0
    for value, weight in sorted(weighted):
        reached += weight
        if reached >= limit:
            return round(value, 3)
    return None


def spans(now: datetime) -> list[tuple[int, int, datetime]]:
    """What is rolled up: (shorter, longer, rows that began before)."""
    return [
        (MINUTE_S, HOUR_S, _floor(now - KEEP_MINUTES, HOUR_S)),
        (HOUR_S, DAY_S, _floor(now - KEEP_HOURS, DAY_S)),
    ]


def state_of(hub: Hub, node_id: str, facts: Facts | None, *, patience_s: float) -> str:
    """The state of a link in the words of `peersync status`, from memory: the peer is not asked."""
    link, counts = hub.links.get(node_id), hub.counts[node_id]
    if link is None:
        return "paused" if facts and node_id in facts.local.paused else "failed"
    if link.trouble.error is not None:
        error = link.trouble.error
        if error.data.get("reason") == "paused":
            return "paused"
        return "unreachable" if isinstance(error, PeerUnreachable) else "failed"
    if link.contact_at is None:
        return "syncing"
    if facts and (facts.local.parked or any(facts.local.waiting.get(link.origin, ()))):
        return "conflict"
    behind_s = counts.behind_now_s
    return "in sync" if not behind_s else "behind" if behind_s > patience_s else "syncing"


def _tells(sample: Sample) -> bool:
    happened = sample.changes or sample.conflicts or sample.quarantined or sample.errors
    return bool(happened) or sample.behind_s >= LEAST_BEHIND_S


def _floor(then: datetime, span_s: int) -> datetime:
    return datetime.fromtimestamp(then.timestamp() // span_s * span_s, UTC)
