"""How one peer is brought up to date: a proof that both sides have everything, or a full sync.

Owns which way it is where there is no baseline, and when there is no way that would not
overwrite what somebody wants to keep: then it says which command to type. It records nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from peersync.agent.jobs import Jobs
from peersync.agent.jobview import JobView
from peersync.agent.periodic.answers import LinkProof
from peersync.agent.periodic.barrier import Barrier
from peersync.agent.periodic.hub import Hub, in_group
from peersync.agent.periodic.links import START_S, Local, linked, read_local
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.positions import Positions
from peersync.config.orchestration import SyncWay
from peersync.core.errors import (
    Cancelled,
    PeersyncError,
    PeerUnreachable,
    root_error,
)
from peersync.core.results import ErrorRecord
from peersync.postgres.complete import PeerEnd
from peersync.transport.peers import Peer
from peersync.wire.messages import Options, SyncType

LOOK_S: Final = 2.0  # whether the peer is there, while something is proved
JOB_S: Final = 0.5
STUCK: Final = 3  # failures in a row of a link that no retry mends
_ENDED: Final = frozenset({"done", "partly", "failed", "cancelled"})

Probe = Callable[[Peer], Awaitable[None]]
Told = Callable[[str], Awaitable[None]]


class Ways:
    """`probe` raises where a peer can't be reached."""

    def __init__(self, jobs: Jobs, periodic: Periodic, positions: Positions, probe: Probe) -> None:
        self._jobs = jobs
        self._periodic = periodic
        self._positions = positions
        self._probe = probe

    async def choose(self, database: str, wanted: SyncWay) -> SyncWay:
        """What is done where `wanted` is set: a database that is no member has no baseline."""
        if wanted != "periodic":
            return wanted
        return "periodic" if await self._local(self._periodic.hub(database)) else "full-pull"

    async def reach(self, peer: Peer) -> None:
        """Raises PeerUnreachable, or what the peer refuses with."""
        await self._probe(peer)

    # --- periodic ---------------------------------------------------------------------------
    async def prove(self, database: str, peer: Peer, timeout_s: float, retries: int) -> PeerEnd:
        """Both sides have what the other had committed when this began."""
        hub = self._periodic.hub(database)
        origin = _origin(database, await self._running(hub), peer)
        before = _counters(hub, peer)
        proof = await self._proof(hub, peer, timeout_s, retries)
        rows, raw, wire = (
            max(now - then, 0) for now, then in zip(_counters(hub, peer), before, strict=True)
        )
        end = PeerEnd(status=_STATUS[proof.result], rows=rows, raw_bytes=raw, wire_bytes=wire)
        return await self._told(hub, origin, proof, end)

    async def _proof(self, hub: Hub, peer: Peer, timeout_s: float, retries: int) -> LinkProof:
        try:
            async with asyncio.TaskGroup() as group:
                name = f"complete-watch-{peer.name}"
                watch = group.create_task(self._watch(hub, peer, retries), name=name)
                proofs = await Barrier(hub, self._positions).run(
                    [peer], wait=True, timeout_s=timeout_s
                )
                watch.cancel()
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors
        if not proofs:
            raise _not_together(hub.name, peer)
        return proofs[0]

    async def _watch(self, hub: Hub, peer: Peer, retries: int) -> None:
        """A proof is tried again until its time is over: here is who gives up before."""
        missed = 0
        while True:
            await asyncio.sleep(LOOK_S)
            link = hub.links.get(peer.node_id)
            trouble = link.trouble if link is not None else None
            if trouble and trouble.error and trouble.count >= STUCK and not trouble.error.retryable:
                raise trouble.error
            try:
                await self._probe(peer)
            except PeersyncError:
                missed += 1
                if missed > retries:
                    raise
            else:
                missed = 0

    async def _told(self, hub: Hub, origin: int, proof: LinkProof, end: PeerEnd) -> PeerEnd:
        if end.status == "skipped":
            hint = f": {proof.hint}" if proof.hint else ""
            return replace(end, reason=f"{proof.problem or 'it is paused'}{hint}")
        if end.status == "error":
            code = PeerUnreachable.code if proof.result == "timeout" else PeersyncError.code
            words = proof.problem or "it was not proved"
            return replace(end, error=ErrorRecord(code, words, None, proof.hint))
        local = await self._local(hub)
        if local is not None:
            ours = in_group(local.vector, local.members)
            theirs = in_group(hub.proved.get(origin, {}), local.members)
            end = replace(end, positions={"ours": ours, "theirs": theirs})
        return replace(end, reason=proof.problem)

    async def _running(self, hub: Hub) -> Local:
        """The database as a member whose periodic sync runs. Raises where it does not."""
        deadline = time.monotonic() + START_S
        while True:
            local = await self._local(hub)
            if local is None:
                raise PeersyncError(f"{hub.name} takes part in periodic sync no more")
            if local.replica.state != "active":
                raise _stopped(hub.name, local)
            if local.running:
                return local
            if time.monotonic() > deadline:
                raise PeersyncError(
                    f"no process runs the periodic sync of {hub.name}",
                    hint="see the log of the agent, and: peersync config show periodic",
                )
            await asyncio.sleep(JOB_S)

    async def _local(self, hub: Hub) -> Local | None:
        async with hub.database.acquire(f"reading the members of {hub.name}") as conn:
            return await read_local(conn)

    # --- full -------------------------------------------------------------------------------
    async def copy(
        self, way: SyncWay, database: str, peer: Peer, *, by: str, sync_type: SyncType, told: Told
    ) -> PeerEnd:
        """A full sync, with the options of `peersync sync safe`. `told` its id when it runs."""
        start = self._jobs.start if way == "full-pull" else self._jobs.pushes.start
        started = await start(peer.name, database, Options(), by=by, sync_type=sync_type)
        assert started.job is not None
        await told(started.job)
        return _of_job(await self._end_of(started.job))

    async def came(self, job: str) -> PeerEnd:
        """What came of a full sync that was stopped, when it has."""
        return _of_job(await self._end_of(job))

    async def _end_of(self, job: str) -> JobView:
        while True:
            view = await self._jobs.views.get(job)
            if view.state in _ENDED:
                return view
            await asyncio.sleep(JOB_S)

    async def stop(self, job: str, by: str) -> None:
        """`by`: who is kept as the one that has cancelled it."""
        await self._jobs.cancel(job, by)


_STATUS: Final = {
    "proved": "success", "partly": "partial", "paused": "skipped", "timeout": "error",
    "failed": "error",
}  # fmt: skip
_OF_STATE: Final = {"done": "success", "partly": "partial"}


def _origin(database: str, local: Local, peer: Peer) -> int:
    """Of the peer in the group. Raises where the two are not members together."""
    pairs = linked(local, [peer])
    if not pairs:
        raise _not_together(database, peer)
    member = pairs[0][1]
    if not member.counts:
        own = next(m.node_name for m in local.members if m.origin == local.replica.origin)
        raise PeersyncError(
            f"{peer.name} was expired: nothing is kept for it until it is taken in again",
            hint=f"on {peer.name}: peersync rebaseline {own} --database {database}",
        )
    return member.origin


def _not_together(database: str, peer: Peer) -> PeersyncError:
    """A full pull would bring rows into the whole group that nobody has asked for."""
    return PeersyncError(
        f"{peer.name} is no member of the group that keeps {database} in step",
        hint=f"on {peer.name}: peersync join PEER --database {database}, or set"
        f" peer.{peer.name}.sync or auto_sync",
    )


def _stopped(database: str, local: Local) -> PeersyncError:
    reason = f": {local.replica.reason}" if local.replica.reason else ""
    hint = f"peersync rebaseline PEER --database {database}"
    if local.replica.state == "joining":
        hint = "peersync jobs list"
    return PeersyncError(f"{database} is {local.replica.state} on this node{reason}", hint=hint)


def _counters(hub: Hub, peer: Peer) -> tuple[int, int, int]:
    """(changes, raw bytes, wire bytes) of the link since it began."""
    link = hub.links.get(peer.node_id)
    if link is None:
        return 0, 0, 0
    return link.changes, link.raw_bytes, link.wire_bytes


def _of_job(view: JobView) -> PeerEnd:
    progress, error, reason = view.progress, view.error, None
    status = _OF_STATE.get(view.state, "error")
    if status == "partial":
        reason = f"some tables or rows were left out: peersync jobs show {view.id[:8]}"
    elif view.state == "cancelled":
        error = error or ErrorRecord(Cancelled.code, "its full sync was cancelled")
    elif status == "error" and error is None:
        error = ErrorRecord(
            "failed", "its full sync failed", None, f"peersync jobs show {view.id[:8]}"
        )
    return PeerEnd(
        status=status,
        reason=reason,
        error=error if status == "error" else None,
        rows=progress.rows if progress else 0,
        raw_bytes=progress.raw_bytes if progress else 0,
        wire_bytes=progress.wire_bytes if progress else 0,
    )
