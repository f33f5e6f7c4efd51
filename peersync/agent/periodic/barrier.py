"""`sync now --wait`: proves that two sides have what each had when it was asked.

Here everything committed is published, the peer publishes and tells its vector; then both wait
until each has applied the other's. What both have applied includes what arrived and could not
be written: quarantine and parked tables make a proof "partly". Nothing here moves changes: the
pullers do, on both sides.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from peersync.agent.periodic.answers import LinkProof, Result
from peersync.agent.periodic.capturing import CAPTURE_S, capture_tables
from peersync.agent.periodic.hub import Hub, covers, in_group
from peersync.agent.periodic.links import Local, direction_of, linked, read_local
from peersync.agent.periodic.messages import PositionReply
from peersync.agent.periodic.positions import Positions
from peersync.core.errors import PeersyncError
from peersync.core.words import counted
from peersync.postgres.log.members import Member, Vector, read_vector
from peersync.postgres.log.publish import publish
from peersync.transport.peers import Peer

LOOK_S: Final = 1.0  # at least so often where nothing tells that something came
WAIT_S: Final = 20.0
RETRY_S: Final = 1.0


class Barrier:
    """One database. The proofs come in the order of the peers."""

    def __init__(self, hub: Hub, positions: Positions) -> None:
        self._hub = hub
        self._positions = positions

    async def run(self, peers: list[Peer], *, wait: bool, timeout_s: float) -> list[LinkProof]:
        """Publishes, wakes the pullers, and with `wait` proves each link of these peers."""
        hub = self._hub
        async with hub.database.acquire(f"publishing the changes of {hub.name}") as conn:
            if wait:
                await capture_tables(hub, conn, patience_s=CAPTURE_S)
            await conn.execute("SET synchronous_commit = on")
            if await publish(conn) is not None:
                hub.news.tell()
            local = await read_local(conn)
        if local is None:
            return []
        pairs = [(p, m) for p, m in linked(local, peers) if m.counts]
        for peer, _ in pairs:
            if (link := hub.links.get(peer.node_id)) is not None:
                link.poke.tell()
        async with asyncio.TaskGroup() as group:
            proofs = [
                group.create_task(
                    self._link(local, peer, member, wait=wait, timeout_s=timeout_s),
                    name=f"barrier-{hub.name}-{peer.name}",
                )
                for peer, member in pairs
            ]
        return [proof.result() for proof in proofs]

    async def _link(
        self, local: Local, peer: Peer, member: Member, *, wait: bool, timeout_s: float
    ) -> LinkProof:
        began = time.monotonic()

        def proof(result: Result, problem: str | None = None, hint: str | None = None) -> LinkProof:
            seconds = round(time.monotonic() - began, 3)
            return LinkProof(
                database=self._hub.name, peer=peer.name, result=result, seconds=seconds,
                problem=problem, hint=hint, direction=direction_of(local, member),
            )  # fmt: skip

        if peer.node_id in local.paused:
            return proof("paused", hint=f"peersync sync resume {peer.name}")
        if not wait:
            return proof("asked")
        progress = _Progress()
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._prove(local, peer, member, progress)
        except TimeoutError:
            error = progress.error
            words = error.message if error else f"after {timeout_s:g} s {progress.words}"
            return proof("timeout", words, error.hint if error else None)
        except PeersyncError as error:
            paused = error.data.get("reason") == "paused"  # on the other side
            return proof("paused" if paused else "failed", error.message, error.hint)
        problem = await self._unwritten(peer, member, reply)
        return proof("partly" if problem else "proved", problem)

    async def _prove(
        self, local: Local, peer: Peer, member: Member, progress: _Progress
    ) -> PositionReply:
        ours = _rows_of(local.vector, local, local.replica.origin, local.replica.direction)
        if member.direction == "give":
            ours = {}
        goal: Vector | None = None
        while True:
            try:
                first = goal is None
                reply = await self._positions.ask(
                    self._hub,
                    peer,
                    local,
                    want={} if first else ours,
                    wait_s=0 if first else WAIT_S,
                    settle=first,
                )
            except PeersyncError as error:
                if not (error.retryable or error.data.get("peer_retryable")):
                    raise
                progress.error = error
                await asyncio.sleep(RETRY_S)
                continue
            progress.error = None
            if goal is None:
                goal = _rows_of(reply.vector, local, member.origin, member.direction)
                goal = {} if local.replica.direction == "give" else goal
            progress.words = f"{peer.name} had not applied everything from here"
            if covers(reply.vector, ours):
                break
        progress.words = f"not everything from {peer.name} was applied here"
        await self._reach(goal)
        return reply

    async def _reach(self, goal: Vector) -> None:
        """Waits until this database has applied all of `goal`."""
        hub = self._hub
        while True:
            seen = hub.news.count
            async with hub.database.acquire(f"reading how far {hub.name} is") as conn:
                if covers(await read_vector(conn), goal):
                    return
            await hub.news.wait(seen, LOOK_S)

    async def _unwritten(self, peer: Peer, member: Member, reply: PositionReply) -> str | None:
        """What has arrived on either side and is not in its tables."""
        async with self._hub.database.acquire("looking at the quarantine") as conn:
            local = await read_local(conn)
        assert local is not None
        here = sum(q for q, _ in local.waiting.values())
        words = [
            f"{where} {counted(rows, 'change')} in quarantine, {counted(tables, 'table')} parked"
            for where, rows, tables in (
                ("here", here, local.parked),
                (f"on {peer.name}", reply.quarantined, reply.parked),
            )
            if rows or tables
        ]
        direction = direction_of(local, member)
        words += [
            f"{where} {counted(number, 'table')} whose changes are not captured"
            for where, number, silent in (
                ("here", local.uncaptured, "receive"),
                (f"on {peer.name}", reply.uncaptured, "give"),
            )
            if number and direction not in (silent, "none")
        ]
        return "; ".join(words) or None


def _rows_of(vector: Vector, local: Local, origin: int, direction: str) -> Vector:
    """Of a node's vector what it has rows of to give: see `oneway`."""
    found = in_group(vector, local.members)
    if direction == "both":
        return found
    return {o: p for o, p in found.items() if (o == origin) == (direction == "give")}


class _Progress:
    """Why it is not proved yet, for the sentence of a timeout."""

    def __init__(self) -> None:
        self.words = "no answer had come"
        self.error: PeersyncError | None = None
