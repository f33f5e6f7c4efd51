"""One link: takes what a peer has and this database has not, frame by frame, and applies it.

Where a link stands is read from the database after every frame, never remembered or inferred
from an exception. A frame that was asked for ahead is used only if it begins where the database
really is. Pauses and retries belong to `restart`; this raises, saying why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final

from peersync.agent.periodic.fetch import Fetch
from peersync.agent.periodic.hub import Hub, Link, covers, hold
from peersync.agent.periodic.voided import hold_if_void
from peersync.config.model import Config
from peersync.core.errors import (
    Denied,
    PeerFailed,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
    ResyncRequired,
)
from peersync.core.order.plan import Reason
from peersync.core.order.vector import merge
from peersync.postgres.log.apply import Applied, Applier
from peersync.postgres.log.members import (
    Replica,
    Vector,
    read_replica,
    read_vector,
)
from peersync.transport.client import PeerClient
from peersync.wire.feed import FeedHead, FeedRequest

log = logging.getLogger("peersync.periodic")

MAX_WAIT_S: Final = 30.0
STALLED_S: Final = 1.0
MAX_STALLS: Final = 20
OFFSETS: Final = 64  # so many of the newest are looked at for what the clocks differ by


class Puller:
    """`run` until cancelled, or until something goes wrong."""

    def __init__(
        self,
        hub: Hub,
        link: Link,
        config: Config,
        client: Callable[[], PeerClient],
    ) -> None:
        """`client` gives the peer's, or raises."""
        self._hub = hub
        self._link = link
        self._config = config
        self._client = client
        self._stalls = 0
        self._offsets: deque[float] = deque(maxlen=OFFSETS)

    async def run(self) -> None:
        try:
            await self._run()
        except Exception:
            self._link.counts.errors += 1
            self._link.counts.fell_behind()
            raise

    async def _run(self) -> None:
        if self._link.contact_at is None:
            self._link.counts.fell_behind()  # until the peer has said what it has
        replica, vector = await self._standing()
        lock_s = self._config.periodic.lock_timeout_s
        applier = Applier(self._hub.database, replica.origin, lock_timeout_s=lock_s)
        async with applier, asyncio.TaskGroup() as group:
            # the first is answered at once: it proves that whatever was wrong is over
            fetch = self._ask(group, replica, vector, wait=False)
            while True:
                fetch = await self._take(group, applier, replica, fetch)

    def _ask(
        self,
        group: asyncio.TaskGroup,
        replica: Replica,
        vector: Vector,
        *,
        wait: bool = True,
        ahead: bool = False,
    ) -> Fetch:
        wait_s = min(self._config.periodic.interval_s, MAX_WAIT_S)
        asked = FeedRequest(
            database=self._hub.name,
            group=replica.group_id,
            origin=replica.origin,
            vector=vector,
            wait_s=wait_s if wait else 0,
            rows=replica.direction != "give",  # as of the origin that the answer is applied under
        )
        read_s = self._config.network.read_timeout_s
        counts = self._link.counts
        fetch = Fetch(self._client(), asked, counts, ahead=ahead, read_timeout_s=read_s)
        fetch.task = group.create_task(
            fetch.run(), name=f"fetch-{self._hub.name}-{self._link.peer}"
        )
        return fetch

    async def _take(
        self, group: asyncio.TaskGroup, applier: Applier, replica: Replica, fetch: Fetch
    ) -> Fetch:
        """Applies one frame while the next is on its way, which it returns."""
        try:
            head = await fetch.head()
        except PeerFailed as error:
            raise self._named(error) from error
        except Denied as error:
            await hold_if_void(self._hub, self._link.peer, error)
            raise
        self._check(replica, head, fetch.arrived_at)
        if head.vector.get(replica.origin, 0) > fetch.vector.get(replica.origin, 0):
            await self._refuse_older_self(head)
        ahead: Fetch | None = None
        if head.more:
            after = merge(fetch.vector, {t.origin: t.position for t in head.transactions})
            ahead = self._ask(group, replica, after, wait=False, ahead=True)
        vector = await self._apply(applier, head, fetch)
        fetch.cancel()  # of a frame that another link has applied meanwhile, rows are still to come
        self._link.trouble.over()
        if covers(vector, head.vector):
            self._link.counts.caught_up()
        else:
            self._link.counts.fell_behind()
        if ahead is not None and covers(vector, ahead.vector):
            return ahead
        if ahead is not None:
            ahead.cancel()
        return self._ask(group, replica, vector)

    async def _apply(self, applier: Applier, head: FeedHead, fetch: Fetch) -> Vector:
        """How far the database is afterwards."""
        if not head.transactions:
            async for _ in fetch.rows():
                raise ProtocolError(f"{self._link.peer} sent rows of no transaction")
            return (await self._standing())[1]
        link = self._link
        link.applying = True
        try:
            applied = await applier.apply(head, fetch.rows())
        finally:
            link.applying = False
        self._count(head, applied)
        self._hub.note_heard(head, applied.vector)
        await self._tell()
        await self._look_at_stop(applied)
        return applied.vector

    def _count(self, head: FeedHead, applied: Applied) -> None:
        """The first and the last transaction of a frame stand for the lag of all of it."""
        counts = self._link.counts
        counts.transactions += applied.transactions
        counts.changes += applied.changes
        counts.conflicts += applied.conflicts
        counts.quarantined += applied.quarantined
        if not applied.changes:
            return
        now = time.time()
        ours = self._link.origin
        first = next(t for t in head.transactions if t.kind == "d")
        last = next(t for t in reversed(head.transactions) if t.kind == "d")
        for t in (first, last):
            then = _unix_time(t.at)
            if then is not None and t.position <= applied.vector.get(t.origin, 0):
                # A head is under way for a while, so the largest difference is the nearest one.
                ahead_s = max(self._offsets) if t.origin == ours else 0.0
                lag_s = max(now - then + ahead_s, 0.0)
                counts.lags.append((lag_s, applied.transactions / 2))

    async def _look_at_stop(self, applied: Applied) -> None:
        """A frame that could not even begin: its past comes by another link, or never."""
        stop = applied.stopped
        if stop is None or applied.transactions:
            self._stalls = 0
            return
        hub, self._stalls = self._hub, self._stalls + 1
        if stop.reason in (Reason.GAP, Reason.UNSEEN) and self._stalls <= MAX_STALLS:
            await hub.news.wait(hub.news.count, STALLED_S)
            return
        raise PeersyncError(f"{self._link.peer} sends what can't be applied here: {stop.sentence}")

    def _named(self, error: PeerFailed) -> PeersyncError:
        """A peer's failure that means something else here than that it failed."""
        if error.data.get("peer_code") == PeerUnreachable.code:
            return PeerUnreachable(error.message, detail=error.detail)
        if error.data.get("peer_code") != ResyncRequired.code:
            return error
        name, peer = self._hub.name, self._link.peer
        return ResyncRequired(
            f"expired: {peer} does not have the changes any more that {name} lacks",
            detail=error.message,
            hint=f"peersync rebaseline {peer} --database {name}",
            floors=error.data.get("floors", {}),
        )

    async def _tell(self) -> None:
        """What was applied may be news to others: relayed changes, and how far this one is."""
        if not self._hub.announces:
            self._hub.news.tell()
            return
        async with self._hub.database.acquire("telling what was applied") as conn:
            await self._hub.tell(conn)

    def _check(self, replica: Replica, head: FeedHead, arrived_at: float) -> None:
        """Raises when the frame is not of this link, or must not be applied."""
        link, limit_s = self._link, self._config.periodic.max_clock_offset_s
        if head.group != replica.group_id or head.origin != link.origin:
            raise ProtocolError(f"{link.peer} answers as another member than it is known as here")
        offset_s = head.unix_time - arrived_at
        link.contact_at, link.offset_s = time.time(), round(offset_s, 3)
        self._offsets.append(offset_s)
        if abs(offset_s) > limit_s:
            way = "ahead of" if offset_s > 0 else "behind"
            raise PeersyncError(
                f"held: the clock of {link.peer} is {abs(offset_s):.0f} s {way} this one,"
                f" more than periodic.max_clock_offset_s = {limit_s:g}",
                hint="set the clocks of both servers by NTP: timedatectl set-ntp true",
            )

    async def _standing(self) -> tuple[Replica, Vector]:
        """This database as a member, and how far it is. Raises when it may not go on."""
        hub = self._hub
        async with hub.database.acquire(f"reading how far {hub.name} is") as conn:
            replica, vector = await read_replica(conn), await read_vector(conn)
        if replica is None or replica.state != "active":
            hub.recheck.tell()
            raise PeersyncError(f"{hub.name} takes no part in periodic sync now")
        return replica, vector

    async def _refuse_older_self(self, head: FeedHead) -> None:
        """Holds this database when the peer knows more of it than it does (R13)."""
        replica, _ = await self._standing()
        theirs = head.vector.get(replica.origin, 0)
        if theirs <= replica.position:
            return
        async with self._hub.database.acquire(f"holding {self._hub.name}") as conn:
            reason = await hold(conn, self._link.peer, theirs, replica)
        self._hub.recheck.tell()
        raise PeersyncError(f"{self._hub.name} is held: {reason}")


def _unix_time(text: str) -> float | None:
    """Of PostgreSQL's text in UTC. What can't be read is not counted: it is only statistics."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
