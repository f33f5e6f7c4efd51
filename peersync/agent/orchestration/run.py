"""One complete sync at work: its peers in order, so many at a time, each with its own end.

What goes wrong with one peer, a bug too, is the end of that peer and of no other. Only the
database of this node itself can end a run: there is nothing to sync then.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import nullcontext
from typing import Any, Final

import msgspec

from peersync.agent.orchestration.outcome import CompleteRequest, PeerStatus, cost_of
from peersync.agent.orchestration.turns import Turn
from peersync.agent.orchestration.ways import Ways
from peersync.agent.periodic.restart import explained
from peersync.config.orchestration import Complete
from peersync.core.errors import DatabaseUnreachable, PeersyncError, PeerUnreachable
from peersync.core.results import ErrorRecord
from peersync.core.schedule import Budget
from peersync.postgres.complete import Completes, PeerEnd, PeerTurn
from peersync.postgres.pool import Database

log = logging.getLogger("peersync.complete")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
NOTED: Final = 5  # tries to record what came of a peer


class Run:
    """`work` it. `cancelled_by`: who has asked for its end. `recorded`: its record is there."""

    def __init__(
        self,
        complete: str,
        database: Database,
        wanted: CompleteRequest,
        turns: list[Turn],
        parallel: int,
        settings: Complete,
        ways: Ways,
    ) -> None:
        self.id = complete
        self.database = database
        self.wanted = wanted
        self.turns = turns
        self.parallel = parallel
        self.records = Completes(database)
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.recorded = False
        self.cancelled_by: str | None = None
        self.task: asyncio.Task[None] | None = None
        self._settings = settings
        self._ways = ways
        self._pulling = asyncio.Lock()  # a database takes one full sync at a time
        self._statuses = {
            place: _first_status(turn.planned.reason) for place, turn in enumerate(turns, 1)
        }
        self._jobs: dict[int, str] = {}  # by place: the full sync that runs for the peer

    @property
    def turned(self) -> list[PeerTurn]:
        """The peers in order, for the record."""
        return [
            PeerTurn(t.peer.node_id, t.peer.name, t.planned.way, t.planned.reason)
            for t in self.turns
        ]

    @property
    def statuses(self) -> list[PeerStatus]:
        return list(self._statuses.values())

    async def work(self) -> None:
        """Every peer has its end when this returns. Raises where this database is gone."""
        slots = asyncio.Semaphore(self.parallel)
        async with asyncio.TaskGroup() as group:
            for place, turn in enumerate(self.turns, 1):
                if turn.planned.reason is not None:
                    continue
                await slots.acquire()
                name = f"complete-{self.id[:8]}-{turn.peer.name}"
                work = group.create_task(self._peer(place, turn), name=name)
                work.add_done_callback(lambda _: slots.release())

    async def stop_jobs(self) -> None:
        """The full syncs that it has started and that still run."""
        for place in list(self._jobs):
            await self._stop_job(place)

    async def _peer(self, place: int, turn: Turn) -> None:
        timeout_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                end = await self._tried(place, turn, timeout_s)
        except TimeoutError:
            await self._stop_job(place)
            words = f"{turn.peer.name} was not done within complete.timeout_s ({timeout_s:g} s)"
            end = _failed(PeerUnreachable(words, hint="peersync lag"))
        except PeersyncError as error:
            end = _failed(error)
        except Exception as error:
            end = _failed(explained(error, f"complete sync with {turn.peer.name}"))
        cost = cost_of(end.wire_bytes, turn.planned.price_per_gb)
        await self._note_end(place, msgspec.structs.replace(end, cost=cost))
        self._statuses[place] = end.status  # type: ignore[assignment]
        told = end.error.message if end.error else end.reason
        level = logging.WARNING if end.status == "error" else logging.INFO
        log.log(
            level, "%s with %s: %s%s",
            self.database.name, turn.peer.name, end.status, f": {told}" if told else "",
        )  # fmt: skip

    async def _note_end(self, place: int, end: PeerEnd) -> None:
        """A connection that is lost in this moment must not lose what was done."""
        for _ in range(NOTED - 1):
            try:
                return await self.records.peer_ended(self.id, place, end)
            except PeersyncError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(FIRST_PAUSE_S)
        return await self.records.peer_ended(self.id, place, end)

    async def _stop_job(self, place: int) -> None:
        """What was copied is given up. If the peer can't be told, it finds out by itself."""
        if (job := self._jobs.get(place)) is None:
            return
        try:
            await self._ways.stop(job)
        except PeersyncError as error:
            log.warning("job %s could not be cancelled: %s", job[:8], error.message)

    async def _tried(self, place: int, turn: Turn, timeout_s: float) -> PeerEnd:
        """Again where peer or database can't be reached, as often as is set, ever later."""
        budget = Budget(self._settings.retries, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
        deadline = time.monotonic() + timeout_s
        tries = 0
        while True:
            tries += 1
            await self.records.peer_began(self.id, place, tries)
            self._statuses[place] = "running"
            try:
                return await self._once(place, turn, timeout_s)
            except (PeerUnreachable, DatabaseUnreachable):
                left_s = deadline - time.monotonic()
                pause_s = budget.pause_s(tries, left_s, random.random())  # noqa: S311
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    async def _once(self, place: int, turn: Turn, timeout_s: float) -> PeerEnd:
        peer, database, way = turn.peer, self.database.name, turn.planned.way
        await self._ways.reach(peer)
        if way == "periodic":
            patience_s = timeout_s * 0.98  # its own words at the end say more than ours
            return await self._ways.prove(database, peer, patience_s, self._settings.retries)
        by, sync_type = self.wanted.requested_by, self.wanted.sync_type

        async def told(job: str) -> None:
            self._jobs[place] = job
            await self.records.peer_session(self.id, place, job)

        async with self._pulling if way == "full-pull" else nullcontext():
            end = await self._ways.copy(way, database, peer, by=by, sync_type=sync_type, told=told)
        del self._jobs[place]
        return end


def _first_status(reason: str | None) -> PeerStatus:
    return "waiting" if reason is None else "skipped"


def _failed(error: PeersyncError) -> PeerEnd:
    return PeerEnd(status="error", error=ErrorRecord.of(error))


def configuration_of(
    wanted: CompleteRequest, turns: list[Turn], parallel: int, settings: Complete, currency: str
) -> dict[str, Any]:
    """What a run was asked for, and what was set then, for its record."""
    return {
        "peers": wanted.peers,
        "parallel": parallel,
        "timeout_s": settings.timeout_s,
        "retries": settings.retries,
        "skip_after_errors": settings.skip_after_errors,
        "skip_for_s": settings.skip_for_s,
        "ways": {turn.peer.name: turn.planned.way for turn in turns},
        "price_per_gb": {turn.peer.name: turn.planned.price_per_gb for turn in turns},
        "currency": currency,
    }
