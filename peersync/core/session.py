"""The states of a full sync and which may follow which, and the record of its steps.

    planned ─▶ running ─▶ done | partly | failed
                  └────▶ cancelling ─▶ cancelled | done | partly | failed

Cancelling can end in done: a cancel that comes while COMMIT is under way may be too late,
and only the database knows. Pure: time comes in as an argument, in monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from peersync.core.progress import (
    BEFORE_COMMIT,
    STEPS,
    STILL_S,
    Progress,
    RateMeter,
    Step,
    StepProgress,
    StepState,
    current_step,
    eta_seconds,
    overall_percent,
    seconds_between,
)
from peersync.core.tables import TablesProgress


class State(StrEnum):
    PLANNED = "planned"
    RUNNING = "running"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    PARTLY = "partly"
    DONE = "done"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset({State.CANCELLED, State.FAILED, State.PARTLY, State.DONE})
_ENDS = frozenset({State.FAILED, State.PARTLY, State.DONE})
_COMMITTED = frozenset({State.PARTLY, State.DONE})
_FOLLOWS: dict[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: _ENDS | {State.CANCELLING},
    State.CANCELLING: _ENDS | {State.CANCELLED},
    State.CANCELLED: frozenset(),
    State.FAILED: frozenset(),
    State.PARTLY: frozenset(),
    State.DONE: frozenset(),
}

_UNITS = {
    Step.BACKUP: "bytes",
    Step.TRANSFER: "bytes",
    Step.CONVERT: "bytes",
    Step.RESTORE: "bytes",
    Step.VERIFY: "tables",
}


def may_follow(state: State, following: State) -> bool:
    return following in _FOLLOWS[state]


@dataclass
class _StepRecord:
    state: StepState = StepState.WAITING
    done: int = 0
    total: int | None = None
    started_s: float | None = None
    ended_s: float | None = None

    def seconds(self, now_s: float) -> float:
        if self.started_s is None:
            return 0.0
        return (self.ended_s if self.ended_s is not None else now_s) - self.started_s


class SessionRecord:
    """What one full sync knows of itself. Changed by whoever runs it, read by `progress`."""

    def __init__(self, session: str, action: str, database: str, source: str, target: str) -> None:
        self.session, self.action, self.database = session, action, database
        self.source, self.target = source, target
        self.state = State.PLANNED
        self.raw_bytes = self.wire_bytes = self.saved_bytes = self.rows = self.resumed = 0
        self.rows_estimated: int | None = None
        self.waiting_for: str | None = None
        self.message: str | None = None
        self.notes: tuple[str, ...] = ()
        self.tables: TablesProgress | None = None
        self.cancelled_by: str | None = None
        self.started_at = ""
        self._ended_at: str | None = None
        self._steps = {step: _StepRecord() for step in STEPS}
        self._reset_meters()

    def _reset_meters(self) -> None:
        self._converted, self._restored = RateMeter(), RateMeter()  # raw bytes
        self._work = RateMeter()  # both together: what is left is counted in the same way
        self._moving = RateMeter()  # all that can be counted
        self._percent_base, self._shown_base = 0.0, 0.0  # where the shown percentage starts from
        self._last_percent = 0.0

    def become(self, state: State) -> None:
        """Changes the state. Raises ValueError for a change that cannot be."""
        if state is self.state:
            return
        if not may_follow(self.state, state):
            raise ValueError(f"a session that is {self.state} cannot become {state}")
        self.state = state

    def begin(self, step: Step, now_s: float) -> None:
        record = self._steps[step]
        if record.state is StepState.WAITING:
            record.state = StepState.RUNNING
            record.started_s = now_s

    def count(self, step: Step, done: int, total: int | None = None) -> None:
        """Sets how far a step is. It never goes backwards, except by `restart`.

        A step that waits has done nothing: a number for it is that of an earlier attempt.
        """
        record = self._steps[step]
        if record.state is not StepState.WAITING:
            record.done = max(record.done, done)
        record.total = total if total is not None else record.total

    def end(self, step: Step, now_s: float, state: StepState = StepState.DONE) -> None:
        record = self._steps[step]
        if record.state in (StepState.DONE, StepState.SKIPPED):
            return
        record.state = state
        if record.started_s is None:
            record.started_s = now_s
        record.ended_s = now_s

    def restart(self) -> None:
        """All steps begin again; what was transferred is counted anew as it is found.

        The size of the dump, as far as it was known, is an estimate for the next.
        """
        for step, record in self._steps.items():
            record.state, record.done = StepState.WAITING, 0
            record.started_s = record.ended_s = None
            record.total = record.total if step is Step.BACKUP else None
        self.saved_bytes = self.raw_bytes = self.rows = 0
        self._reset_meters()

    def fail_running(self, now_s: float) -> None:
        for step, record in self._steps.items():
            if record.state is StepState.RUNNING:
                self.end(step, now_s, StepState.FAILED)

    def seconds(self, now_s: float) -> dict[str, float]:
        """The wall time of each step; they overlap."""
        return {step.value: round(r.seconds(now_s), 3) for step, r in self._steps.items()}

    def progress(self, now_s: float, updated_at: str) -> Progress:
        """The record at this moment; once it has ended, at that moment."""
        if self.state.final:
            self._ended_at = updated_at = self._ended_at or updated_at
        steps = tuple(
            StepProgress(
                name=step,
                unit=_UNITS[step],
                state=record.state,
                done=record.done,
                total=self._total(step),
                seconds=round(record.seconds(now_s), 3),
            )
            for step, record in self._steps.items()
        )
        self._sample(now_s)
        rate = None if self.state.final else self._rate()
        step = current_step(steps)
        return Progress(
            session=self.session,
            action=self.action,
            database=self.database,
            source=self.source,
            target=self.target,
            state=self.state.value,
            step=step,
            step_number=STEPS.index(step) + 1,
            steps=steps,
            percent=self._percent(steps),
            raw_bytes=self.raw_bytes,
            wire_bytes=self.wire_bytes,
            saved_bytes=self.saved_bytes,
            rows=self.rows,
            rows_estimated=self.rows_estimated,
            rate_bytes_s=rate,
            eta_s=self._eta(now_s),
            waiting_for=self.waiting_for or self._stall(now_s),
            resumed=self.resumed,
            message=self.message or self._at_work(now_s),
            started_at=self.started_at,
            updated_at=updated_at,
            elapsed_s=seconds_between(self.started_at, updated_at),
            notes=self.notes,
            tables=None if self.state.final else self.tables,
            cancelled_by=self.cancelled_by,
        )

    def _total(self, step: Step) -> int | None:
        """A step's total. Rows are converted and restored as many as are dumped.

        Until the dump is complete its size is an estimate; one that is exceeded was wrong, and
        then nothing is known.
        """
        total, dump = self._steps[step].total, self._steps[Step.BACKUP]
        if step is Step.BACKUP or (total is None and step in (Step.CONVERT, Step.RESTORE)):
            wrong = dump.state is not StepState.DONE and dump.done > (dump.total or 0)
            return None if wrong else dump.total
        return total

    def _sample(self, now_s: float) -> None:
        converted, restored = self._steps[Step.CONVERT].done, self._steps[Step.RESTORE].done
        self._converted.sample(now_s, converted)
        self._restored.sample(now_s, restored)
        self._work.sample(now_s, converted + restored)
        self._moving.sample(now_s, sum(record.done for record in self._steps.values()))

    def _rate(self) -> float | None:
        """Raw bytes a second of the faster of two steps that handle the same bytes."""
        rates = (self._converted.per_second(), self._restored.per_second())
        return max((round(rate, 1) for rate in rates if rate is not None), default=None)

    def _eta(self, now_s: float) -> float | None:
        """None in the first seconds, and while nothing moves: an old rate says nothing."""
        restore, convert = self._total(Step.RESTORE), self._total(Step.CONVERT)
        if restore is None or convert is None or self.state is not State.RUNNING:
            return None
        if not self._work.sure or self._work.still_for(now_s) >= STILL_S:
            return None
        moved = self._steps[Step.RESTORE].done + self._steps[Step.CONVERT].done
        return eta_seconds(moved, restore + convert, self._work.per_second())

    def _percent(self, steps: tuple[StepProgress, ...]) -> float | None:
        """What is done; 100 when it has committed.

        When an estimate turns out to be too small, what was shown stays, and what is left to
        do is spread over the rest: it neither goes back nor stands still until it is true.
        """
        if self.state in _COMMITTED:
            return 100.0
        percent = overall_percent(steps)
        if percent is None:
            return None
        if percent < self._last_percent:
            self._percent_base, self._shown_base = percent, self._shown(self._last_percent)
        self._last_percent = percent
        return math.floor(self._shown(percent) * 10) / 10

    def _shown(self, percent: float) -> float:
        left = (percent - self._percent_base) / (BEFORE_COMMIT - self._percent_base or 1.0)
        return self._shown_base + left * (BEFORE_COMMIT - self._shown_base)

    def _silence(self, now_s: float) -> float | None:
        stalled = self._moving.stalled_for(now_s)
        return stalled if self.state is State.RUNNING else None

    def _stall(self, now_s: float) -> str | None:
        """Worth a word while bytes should arrive; later the database may work in silence."""
        stalled = self._silence(now_s)
        if stalled is None or self._steps[Step.TRANSFER].state is StepState.DONE:
            return None
        return f"no data for {stalled:.0f} s"

    def _at_work(self, now_s: float) -> str | None:
        """One statement over a large table can't be counted while it runs."""
        stalled = self._silence(now_s)
        if stalled is None or self._steps[Step.TRANSFER].state is not StepState.DONE:
            return None
        return f"no row to count for {stalled:.0f} s: the database is at work, or waits for a lock"
