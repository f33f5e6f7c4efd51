"""Starts what is due, once, whatever happened meanwhile: a crash, a long sleep, another agent.

One task for each schedule, so it never overlaps itself. What is due is written down before it
begins: a crash in the middle is not tried again until the next time. It knows nothing of what it
starts: that comes in as `Entry.do`, as do the clock, the sleep and chance.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

import msgspec

from peersync.agent.orchestration.entries import Asked, Entry, Outcome, ScheduleView, tried
from peersync.agent.orchestration.schedule_state import ScheduleFile, State
from peersync.core.errors import BadRequest, Locked, NotFound, PeersyncError, root_error
from peersync.core.schedule import Budget
from peersync.core.words import counted

log = logging.getLogger("peersync.schedule")

LOOK_S: Final = 60.0  # the clock may be set, and the file changed by another process
LATE_S: Final = 120.0  # later than that it was missed
AHEAD_S: Final = 60.0  # a last turn that lies further in the future is that of a wrong clock
FOREVER_S: Final = 366 * 86_400.0


Sleep = Callable[[asyncio.Event, float], Awaitable[None]]
InThread = Callable[..., Awaitable[Any]]


async def sleep_until_woken(event: asyncio.Event, seconds: float) -> None:
    """Ends when the event is set, or when the time is over."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Scheduler:
    """`run` keeps all of them; the other methods are for people."""

    def __init__(
        self,
        entries: Sequence[Entry],
        file: ScheduleFile,
        zone: tzinfo,
        *,
        budget: Budget,
        in_thread: InThread,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Sleep = sleep_until_woken,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._file = file
        self._zone = zone
        self._budget = budget
        self._in_thread = in_thread
        self._clock = now
        self._sleep = sleep
        self._chance = chance
        self._woken = {entry.name: asyncio.Event() for entry in entries}
        self._asked: dict[str, str] = {}
        self._running: dict[str, float] = {}
        self._jitter: dict[str, tuple[float, float]] = {}  # of the time that is due
        self._states: dict[str, State] = {}
        self._said: set[str] = set()

    # --- for people -------------------------------------------------------------------------
    async def views(self) -> list[ScheduleView]:
        self._states |= await self._in_thread(self._file.read)
        return [self._view(entry) for entry in self._entries.values()]

    def troubles(self) -> tuple[str, ...]:
        """Sentences for `peersync status`."""
        return self._file.troubles()

    async def pause(self, name: str, *, paused: bool, by: str) -> ScheduleView:
        """What runs goes on. BadRequest where the configuration holds it back."""
        entry = self._get(name)
        if entry.paused and not paused:
            raise BadRequest(
                f"{entry.name} is paused by the configuration",
                hint="Take paused = true out of it and restart the agent.",
            )
        now = self._clock().timestamp()

        def change(state: State | None) -> State:
            state = self._seen(entry, state)
            if state.paused_by and not paused:  # what was due meanwhile was not wanted
                state = msgspec.structs.replace(state, due=now)
            return msgspec.structs.replace(state, paused_by=by if paused else None)

        await self._keep_state(entry, change)
        self._woken[entry.name].set()
        return self._view(entry)

    async def start(self, name: str, *, by: str) -> ScheduleView:
        """Now, paused or not. Raises Locked where it is running."""
        entry = self._get(name)
        if entry.name in self._running:
            raise Locked(
                f"{entry.name} is running already, since {self._iso(self._running[entry.name])}",
                hint="See how it is: peersync schedule list",
            )
        self._asked[entry.name] = by
        self._running[entry.name] = self._clock().timestamp()
        self._woken[entry.name].set()
        return self._view(entry)

    def _get(self, name: str) -> Entry:
        """A set's schedule is found by the set's name, too."""
        entry = self._entries.get(name) or self._entries.get(f"set.{name}")
        if entry is None:
            raise NotFound(
                f"there is no schedule {name!r}",
                detail=f"there are: {', '.join(self._entries) or 'none'}",
                hint="Add a [[schedule]] to the configuration and restart the agent.",
            )
        return entry

    # --- the work ---------------------------------------------------------------------------
    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for entry in self._entries.values():
                    group.create_task(self._keep(entry), name=f"schedule-{entry.name}")
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors

    async def _keep(self, entry: Entry) -> None:
        """One schedule, for ever. A state that can't be written holds it back, aloud."""
        woken = self._woken[entry.name]
        while True:
            woken.clear()
            try:
                pause_s = await self._step(entry)
            except (PeersyncError, OSError) as error:
                self._say(entry.name, f"it can't be started: {error}")
                self._running.pop(entry.name, None)
                pause_s = LOOK_S
            if pause_s > 0:
                await self._sleep(woken, min(pause_s, LOOK_S))

    async def _step(self, entry: Entry) -> float:
        """Runs it if it is time. Gives the seconds until the next look."""
        by = self._asked.get(entry.name)
        wait_s = 0.0 if by is not None else await self._wait_s(entry)
        if wait_s > 0:
            return wait_s
        release = await self._in_thread(self._file.hold, entry.name)
        if release is None:
            self._asked.pop(entry.name, None)
            self._running.pop(entry.name, None)
            self._say(entry.name, "it is due, and running already; it is not begun twice")
            return LOOK_S
        self._said.discard(entry.name)
        try:
            due = await self._take(entry, forced=by is not None)
            if due is not None:
                since = entry.when.opens(due) if by is None else None
                await self._run(entry, due, Asked(by or f"schedule {entry.name}", since))
        finally:
            self._asked.pop(entry.name, None)
            self._running.pop(entry.name, None)
            release()
        return 0.0

    async def _wait_s(self, entry: Entry) -> float:
        """Until it may begin, by its chance; what a dead agent left is closed on the way."""
        state = await self._keep_state(entry, lambda state: self._seen(entry, state))
        if state.open and entry.name not in self._running:
            await self._close_if_dead(entry)
        if entry.paused or state.paused_by:
            return FOREVER_S
        now = self._now()
        turn = entry.when.turn(
            self._last(state), now, catch_up=entry.catch_up, late_s=LATE_S + entry.jitter_s
        )
        if turn.missed is not None:
            await self._let_go(entry, turn.missed, now)
        due = turn.due.timestamp()
        if self._jitter.get(entry.name, (0.0, 0.0))[0] != due:
            self._jitter[entry.name] = (due, self._chance() * entry.jitter_s)
        return due + self._jitter[entry.name][1] - now.timestamp()

    async def _keep_state(self, entry: Entry, change: Callable[[State | None], State]) -> State:
        state: State = await self._in_thread(self._file.change, entry.name, change)
        self._states[entry.name] = state
        return state

    def _seen(self, entry: Entry, state: State | None) -> State:
        """The state as it counts now.

        Where the configuration has changed its hour or taken its pause away, and where the clock
        had been ahead, the turns count from now on.
        """
        now, at, held = self._clock().timestamp(), entry.when.text, entry.paused
        if state is None:
            return State(since=now, at=at, held=held)
        moved = state.at not in (None, at) or (state.held and not held)
        ahead = max(state.since, state.due or 0.0) > now + AHEAD_S
        if ahead:
            log.warning("%s: its last turn lies in the future; it counts from now on", entry.name)
        if moved or ahead:
            state = msgspec.structs.replace(state, since=min(state.since, now), due=now)
        return msgspec.structs.replace(state, at=at, held=held)

    async def _close_if_dead(self, entry: Entry) -> None:
        release = await self._in_thread(self._file.hold, entry.name)
        if release is None:
            return
        try:
            log.warning("%s was interrupted: the agent ended while it ran", entry.name)
            ended = self._clock().timestamp()
            await self._change(entry, result="interrupted", ended=ended, open=False)
        finally:
            release()

    async def _let_go(self, entry: Entry, missed: datetime, now: datetime) -> None:
        log.warning("%s was due %s and is not made up for", entry.name, missed)
        await self._change(entry, due=now.timestamp(), missed=missed.timestamp())

    async def _take(self, entry: Entry, *, forced: bool) -> datetime | None:
        """Writes down that this time is taken. None: another agent has taken it."""
        now, taken = self._now(), list[datetime]()

        def change(state: State | None) -> State:
            state = self._seen(entry, state)
            last = self._last(state)
            turn = entry.when.turn(last, now, catch_up=True, late_s=0)
            if not (turn.run or forced):
                return state
            taken.append(turn.due if turn.run else now)
            due = turn.due.timestamp() if turn.run else state.due
            return msgspec.structs.replace(state, due=due, started=now.timestamp(), open=True)

        await self._keep_state(entry, change)
        return taken[0] if taken else None

    async def _run(self, entry: Entry, due: datetime, asked: Asked) -> None:
        self._running[entry.name] = self._clock().timestamp()
        log.info("%s begins: %s", entry.name, entry.what)
        until, failures = entry.when.after(due).timestamp(), 0
        while True:
            outcome = await tried(entry, asked)
            if outcome.result not in ("error", "partial"):
                break
            failures += 1
            left_s = until - self._clock().timestamp()
            pause_s = self._budget.pause_s(failures, left_s, self._chance(), outcome.retry_after_s)
            if not outcome.retry or pause_s is None:
                break
            log.warning("%s: %s; again in %.0f s", entry.name, outcome.message, pause_s)
            asked = replace(asked, again=outcome.again)
            await self._sleep(asyncio.Event(), pause_s)
            if self._states[entry.name].paused_by:
                break
        await self._ended(entry, outcome, failures)

    async def _ended(self, entry: Entry, outcome: Outcome, failures: int) -> None:
        failed, skipped = outcome.result in ("error", "partial"), outcome.result == "skipped"
        before = self._states[entry.name].errors
        errors = before + max(failures, 1) if failed else before if skipped else 0
        recovered = 0 if failed or skipped else before + failures
        if failed:
            log.error("%s: %s (%s)", entry.name, outcome.message, counted(errors, "error"))
        elif recovered:
            log.info("%s recovered after %s", entry.name, counted(recovered, "error"))
        else:
            log.info("%s: %s", entry.name, outcome.message or outcome.result)
        now = self._now()
        state = await self._change(
            entry, ended=now.timestamp(), result=outcome.result, message=outcome.message,
            errors=errors, recovered_after=recovered, open=False,
        )  # fmt: skip
        if entry.when.missed(self._last(state), now):
            over = entry.when.after(self._last(state))
            log.warning("%s was still running when it was due again at %s", entry.name, over)
            await self._change(entry, due=now.timestamp(), missed=over.timestamp())

    async def _change(self, entry: Entry, **fields: Any) -> State:
        return await self._keep_state(
            entry, lambda state: msgspec.structs.replace(self._seen(entry, state), **fields)
        )

    # --- small things -----------------------------------------------------------------------
    def _now(self) -> datetime:
        return self._clock().astimezone(self._zone)

    def _last(self, state: State) -> datetime:
        return datetime.fromtimestamp(state.since if state.due is None else state.due, self._zone)

    def _say(self, name: str, words: str) -> None:
        """Once, until it goes well."""
        if name not in self._said:
            self._said.add(name)
            log.warning("%s: %s", name, words)

    @staticmethod
    def _iso(at: float) -> str:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")

    def _view(self, entry: Entry) -> ScheduleView:
        now = self._now()
        state = self._states.get(entry.name) or State(since=now.timestamp())
        paused_by = "configuration" if entry.paused else state.paused_by
        following = entry.when.after(self._last(state)).timestamp()
        if following < now.timestamp():
            following = now.timestamp()
        running = self._running.get(entry.name)
        ended = state.ended if state.started is not None and not state.open else None
        return ScheduleView(
            name=entry.name,
            what=entry.what,
            at=entry.when.text,
            next=None if paused_by else self._iso(following),
            last=self._iso(state.started) if state.started is not None else None,
            seconds=round(max(ended - (state.started or 0.0), 0.0), 3)
            if ended is not None
            else None,
            result=state.result,
            message=state.message,
            errors=state.errors,
            recovered_after=state.recovered_after,
            missed=self._iso(state.missed) if state.missed is not None else None,
            paused_by=paused_by,
            running_since=self._iso(running) if running is not None else None,
        )
