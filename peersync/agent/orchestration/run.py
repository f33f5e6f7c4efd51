"""One complete sync at work: its peers in order, so many at a time, each with its own end.

What goes wrong with one peer, a bug too, is the end of that peer and of no other. Only the
database of this node itself can end a run: there is nothing to sync then. Whoever is at work in
it is waited for; the time of a peer begins when it has its turn.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import nullcontext, suppress
from typing import Any, Final

import msgspec

from peersync.agent.orchestration.line import Line, Patience
from peersync.agent.orchestration.outcome import CompleteRequest, PeerStatus, cost_of
from peersync.agent.orchestration.turns import Turn
from peersync.agent.orchestration.ways import Ways
from peersync.agent.periodic.restart import explained
from peersync.config.orchestration import Complete
from peersync.core.errors import Locked, PeersyncError, PeerUnreachable
from peersync.core.results import ErrorRecord
from peersync.core.schedule import Budget
from peersync.postgres.complete import Completes, PeerEnd, PeerTurn
from peersync.postgres.pool import Database

log = logging.getLogger("peersync.complete")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
NOTED: Final = 30  # tries to record what came of a peer
CAME_S: Final = 5.0  # for what a full sync that was stopped says of itself
PASSED_OVER: Final = "passed-over"


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
        line: Line,
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
        self._line = line
        self.left = any(turn.planned.after_errors for turn in turns)
        self._statuses = {
            place: _first_status(turn.planned.reason) for place, turn in enumerate(turns, 1)
        }
        self._jobs: dict[int, str] = {}  # by place: the full sync that runs for the peer

    @property
    def turned(self) -> list[PeerTurn]:
        """The peers in order, for the record."""
        return [_turned(turn) for turn in self.turns]

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
        try:
            end = await self._in_turn(place, turn)
        except Locked as error:
            self.left = True
            end = PeerEnd(status="skipped", reason=error.message, error=ErrorRecord.of(error))
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

    async def _in_turn(self, place: int, turn: Turn) -> PeerEnd:
        """Raises Locked where others were at work in the database for too long."""
        timeout_s, name = self._settings.timeout_s, self.database.name
        who = f"complete sync {self.id[:8]} with {turn.peer.name}"

        async def waits(words: str) -> None:
            await self.records.peer_waits(self.id, place, words)

        patience = Patience(timeout_s, who, waits)
        copies_here = turn.planned.way == "full-pull"
        async with self._line.turn(name, who, patience) if copies_here else nullcontext():
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    return await self._tried(place, turn, limit, patience)
            except TimeoutError:
                return await self._too_long(place, turn)

    async def _too_long(self, place: int, turn: Turn) -> PeerEnd:
        """What was copied is given up, and was paid for."""
        words = f"{turn.peer.name} was not done within {self._settings.timeout_s:g} s"
        job = self._jobs.get(place)
        if job is None:
            return _failed(PeerUnreachable(words, hint="peersync lag, and: complete.timeout_s"))
        await self._stop_job(place)
        hint = f"peersync jobs show {job[:8]}; complete.timeout_s gives it more time"
        end = _failed(PeersyncError(words, hint=hint))
        with suppress(PeersyncError, TimeoutError):
            async with asyncio.timeout(CAME_S):
                came = await self._ways.came(job)
            end = msgspec.structs.replace(end, raw_bytes=came.raw_bytes, wire_bytes=came.wire_bytes)
        return end

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
            await self._ways.stop(job, self.cancelled_by or "a complete sync that has ended")
        except PeersyncError as error:
            log.warning("job %s could not be cancelled: %s", job[:8], error.message)

    async def _tried(
        self, place: int, turn: Turn, limit: asyncio.Timeout, patience: Patience
    ) -> PeerEnd:
        """Again after what can pass, as often as is set, ever later. Raises Locked, too."""
        budget = Budget(self._settings.retries, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
        tries = 0
        while True:
            tries += 1
            try:
                await self.records.peer_began(self.id, place, tries)
                self._statuses[place] = "running"
                return await self._once(place, turn)
            except Locked as error:
                limit.reschedule(None)  # its time begins when it is its turn
                await patience.wait(error)
                limit.reschedule(_now_s() + self._settings.timeout_s)
                tries -= 1
            except PeersyncError as error:
                left_s = (limit.when() or 0.0) - _now_s()
                asked_s = error.data.get("retry_after_s")
                pause_s = budget.pause_s(tries, left_s, random.random(), asked_s)  # noqa: S311
                passes = error.retryable or error.data.get("peer_retryable")
                if pause_s is None or not passes:
                    raise
                await asyncio.sleep(pause_s)

    async def _once(self, place: int, turn: Turn) -> PeerEnd:
        peer, database, way = turn.peer, self.database.name, turn.planned.way
        await self._ways.reach(peer)
        if way == "periodic":
            patience_s = (
                self._settings.timeout_s * 0.98
            )  # its own words at the end say more than ours
            return await self._ways.prove(database, peer, patience_s, self._settings.retries)
        by, sync_type = self.wanted.requested_by, self.wanted.sync_type

        async def told(job: str) -> None:
            self._jobs[place] = job
            await self.records.peer_session(self.id, place, job)

        end = await self._ways.copy(way, database, peer, by=by, sync_type=sync_type, told=told)
        del self._jobs[place]
        if end.error is not None and end.error.code == Locked.code:  # another was quicker
            raise Locked(end.error.message, detail=end.error.detail, hint=end.error.hint)
        return end


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _turned(turn: Turn) -> PeerTurn:
    planned, error = turn.planned, None
    if planned.after_errors and planned.reason is not None:
        error = ErrorRecord(PASSED_OVER, planned.reason, None, f"--peers {turn.peer.name}")
    return PeerTurn(turn.peer.node_id, turn.peer.name, planned.way, planned.reason, error)


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
