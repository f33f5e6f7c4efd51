"""Serves the log to peers: who asks is a member, waits for news, and gets one frame of it.

Owns who may ask and how many are served at a time. What is in a frame is decided by
`postgres.log.feed`. The asker's vector is kept as what it has applied: it says so itself, of
itself, over its own certificate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import asyncpg

from peersync.agent.periodic.capturing import CAPTURE_S, capture_tables
from peersync.agent.periodic.hub import Hub, covers, hold, read_backlog
from peersync.agent.periodic.links import read_local, to_give
from peersync.agent.periodic.marks import Marks
from peersync.agent.periodic.messages import PositionReply, PositionRequest
from peersync.agent.workers import Workers
from peersync.core.errors import Denied, NotFound, PeersyncError, PeerUnreachable
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import (
    Replica,
    Vector,
    read_members,
    read_replica,
    read_vector,
)
from peersync.postgres.log.membership import forgotten
from peersync.postgres.log.publish import publish
from peersync.postgres.sqlfiles import queries
from peersync.transport.peers import Peer
from peersync.wire.feed import FeedRequest

_SQL: Final = queries("links")
FRAMES_AT_A_TIME: Final = 4  # of one database; more wait their turn

Begin = Callable[[], Awaitable[Callable[[bytes], Awaitable[None]]]]


class Feeds:
    """What peers may ask of one database."""

    def __init__(self, hub: Hub, marks: Marks, workers: Workers) -> None:
        self._hub = hub
        self._marks = marks
        self._workers = workers
        self._stopping = False
        self._slots = asyncio.Semaphore(FRAMES_AT_A_TIME)

    def stop(self) -> None:
        """Who waits for news is told to come again later."""
        self._stopping = True
        self._hub.news.tell()

    async def changes(self, peer: Peer, asked: FeedRequest, begin: Begin, *, ahead: bool) -> None:
        """Sends one frame; `begin` gives where to write once there is something to say.

        `ahead`: the vector is what the asker will have, not what it has; then it proves nothing.
        """
        deadline = time.monotonic() + asked.wait_s
        while True:
            seen = self._hub.news.count
            self._refuse_when_stopping()
            async with self._slots:
                left = deadline - time.monotonic()
                if await self._try(peer, asked, begin, ahead=ahead, last=left <= 0):
                    return
            if not await self._hub.news.wait(seen, left):
                deadline = 0.0  # answered empty, with the vector of now

    async def position(self, peer: Peer, asked: PositionRequest) -> PositionReply:
        """Publishes, then says how far this database is; waits for `want` as long as asked."""
        deadline = time.monotonic() + asked.wait_s
        seen = self._hub.news.count
        reply = await self._position(peer, asked)
        waited = not covers(reply.vector, asked.want)
        while not covers(await self._vector(), asked.want):
            self._refuse_when_stopping()
            left = deadline - time.monotonic()
            if left <= 0:
                break
            await self._hub.news.wait(seen, left)
            seen = self._hub.news.count
        return await self._position(peer, asked) if waited else reply

    async def _vector(self) -> Vector:
        async with self._hub.database.acquire(f"reading how far {self._hub.name} is") as conn:
            return await read_vector(conn)

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise PeerUnreachable("the agent is stopping")

    async def _try(
        self, peer: Peer, asked: FeedRequest, begin: Begin, *, ahead: bool, last: bool
    ) -> bool:
        """Whether an answer went out."""
        hub = self._hub
        async with hub.database.acquire(f"reading the log of {hub.name}") as conn:
            replica = await self._admit(conn, peer, asked)
            if not ahead:
                hub.prove(asked.origin, asked.vector)
            vector = await read_vector(conn)
            if replica.direction == "give":  # of others it has no more than their words
                vector = {replica.origin: vector.get(replica.origin, 0)}
            if not last and not _has_news(vector, asked.vector, asked.origin):
                return False
            feed = await open_feed(conn, asked)
            try:
                own = feed.head.vector.get(replica.origin, 0)
                await self._marks.note(hub.name, replica.origin, own)
                await feed.send(await begin(), in_thread=self._workers.run)
            finally:
                await feed.close()
        return True

    async def _position(self, peer: Peer, asked: PositionRequest) -> PositionReply:
        hub = self._hub
        async with hub.database.acquire(f"publishing the changes of {hub.name}") as conn:
            await self._admit(conn, peer, asked)
            hub.prove(asked.origin, asked.vector)
            if asked.settle:
                await capture_tables(hub, conn, patience_s=CAPTURE_S)
            await conn.execute("SET synchronous_commit = on")
            if await publish(conn) is not None:
                hub.news.tell()
            local = await read_local(conn)
            if local is None:
                raise not_synced(hub.name, peer.name)
            mine = to_give(local, asked.origin)
            backlog = await read_backlog(conn, mine, asked.vector)
            replica = local.replica
            await self._marks.note(hub.name, replica.origin, replica.position)
        return PositionReply(
            group=replica.group_id,
            origin=replica.origin,
            vector=local.vector,
            unix_time=time.time(),
            hlc=replica.hlc,
            pending_transactions=backlog.transactions,
            pending_changes=backlog.changes,
            pending_bytes=backlog.size_bytes,
            oldest=backlog.oldest,
            quarantined=sum(q for q, _ in local.waiting.values()),
            parked=local.parked,
            uncaptured=local.uncaptured,
            left_out=local.left_out,
        )

    async def _admit(
        self, conn: asyncpg.Connection, peer: Peer, asked: FeedRequest | PositionRequest
    ) -> Replica:
        """This database as it is now, if the peer may ask it. Denied says why not."""
        peer.require("pull", self._hub.name)
        replica = await read_replica(conn)
        if replica is None:
            raise not_synced(self._hub.name, peer.name)
        members = await read_members(conn)
        own = next((m.node_name for m in members if m.origin == replica.origin), "PEER")
        if replica.state != "active":  # of one that is coming back, what it had counts as gone
            raise Denied(
                f"{self._hub.name} is {replica.state} on this node: {replica.reason}",
                hint=f"on {own}: peersync status",
            )
        if asked.group != replica.group_id:
            raise Denied(
                f"{self._hub.name} belongs to another group here",
                hint=f"on {peer.name}: peersync leave --database {self._hub.name},"
                f" then: peersync merge {own} --database {self._hub.name}",
            )
        member = next((m for m in members if m.origin == asked.origin), None)
        if member is None or member.node_id != peer.node_id:
            raise Denied(
                f"{peer.name} is not a member of {self._hub.name} yet, as far as is known here",
                detail=f"asked as origin {asked.origin}",
                hint="it becomes one when its sponsor's news have arrived here",
                reason="not-a-member",
                expired=forgotten(members),
            )
        if not member.counts:
            raise Denied(
                f"{peer.name} has {member.state} the group of {self._hub.name}"
                if member.state == "left"
                else f"{peer.name} was expired from the group of {self._hub.name}",
                hint=f"on {peer.name}: peersync "
                + ("join" if member.state == "left" else "rebaseline")
                + f" {own} --database {self._hub.name}",
                reason=member.state,
            )
        if peer.node_id in {r["node_id"] for r in await conn.fetch(_SQL["paused"])}:
            raise Denied(
                f"the link of {self._hub.name} to {peer.name} is paused on the other side",
                hint=f"on {own}: peersync sync resume {peer.name} --database {self._hub.name}",
                reason="paused",
            )
        theirs = asked.vector.get(replica.origin, 0)
        if theirs > replica.position:
            reason = await hold(conn, peer.name, theirs, replica)
            self._hub.recheck.tell()
            raise Denied(f"{self._hub.name} is held on this node: {reason}")
        return replica


def not_synced(database: str, asker: str) -> PeersyncError:
    return NotFound(
        f"{database} takes part in no periodic sync here",
        hint=f"on that server: peersync join {asker} --database {database}",
    )


def _has_news(vector: Mapping[int, int], theirs: Mapping[int, int], asker: int) -> bool:
    return any(p > theirs.get(o, 0) for o, p in vector.items() if o != asker)
