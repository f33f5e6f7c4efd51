"""The states of a full sync and which may follow which, and the record of its steps.

    planned ─▶ running ─▶ done | partly | failed
                  └────▶ cancelling ─▶ cancelled | done | partly | failed

Cancelling can end in done: a cancel that comes while COMMIT is under way may be too late,
and only the database knows. Pure: time comes in as an argument, in monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peersync.core.progress import (
    STEPS,
    Progress,
    RateMeter,
    Step,
    StepProgress,
    StepState,
    current_step,
    eta_seconds,
    overall_percent,
)


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
        self.started_at = ""
        self._steps = {step: _StepRecord() for step in STEPS}
        self._reset_meters()

    def _reset_meters(self) -> None:
        self._converted, self._restored = RateMeter(), RateMeter()  # raw bytes
        self._work = RateMeter()  # both together: what is left is counted in the same way
        self._arriving = RateMeter()
        self._shown_percent: float | None = None

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
        """Sets how far a step is. It never goes backwards, except by `restart`."""
        record = self._steps[step]
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
        """All steps begin again; what was transferred is counted anew as it is found."""
        for record in self._steps.values():
            record.state, record.done = StepState.WAITING, 0
            record.started_s = record.ended_s = None
        self.saved_bytes = 0
        self._reset_meters()

    def fail_running(self, now_s: float) -> None:
        for step, record in self._steps.items():
            if record.state is StepState.RUNNING:
                self.end(step, now_s, StepState.FAILED)

    def seconds(self, now_s: float) -> dict[str, float]:
        """The wall time of each step; they overlap."""
        return {step.value: round(r.seconds(now_s), 3) for step, r in self._steps.items()}

    def progress(self, now_s: float, updated_at: str) -> Progress:
        """The record at this moment."""
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
        restore, convert = self._steps[Step.RESTORE], self._steps[Step.CONVERT]
        moved = restore.done + convert.done
        self._sample(now_s)
        rate = None if self.state.final else self._rate()
        work = None if self.state.final else self._work.per_second()
        total = (self._total(Step.RESTORE) or 0) + (self._total(Step.CONVERT) or 0)
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
            eta_s=eta_seconds(moved, total or None, work),
            waiting_for=self.waiting_for or self._stall(now_s),
            resumed=self.resumed,
            message=self.message,
            started_at=self.started_at,
            updated_at=updated_at,
        )

    def _total(self, step: Step) -> int | None:
        """A step's total. Rows are converted and restored as many as are dumped."""
        total = self._steps[step].total
        if total is None and step in (Step.CONVERT, Step.RESTORE):
            return self._steps[Step.BACKUP].total
        return total

    def _sample(self, now_s: float) -> None:
        converted, restored = self._steps[Step.CONVERT].done, self._steps[Step.RESTORE].done
        arrived = self._steps[Step.BACKUP].done + self._steps[Step.TRANSFER].done
        self._converted.sample(now_s, converted)
        self._restored.sample(now_s, restored)
        self._work.sample(now_s, converted + restored)
        self._arriving.sample(now_s, arrived + converted + restored)

    def _rate(self) -> float | None:
        """Raw bytes a second of the faster of two steps that handle the same bytes."""
        rates = (self._converted.per_second(), self._restored.per_second())
        return max((rate for rate in rates if rate is not None), default=None)

    def _percent(self, steps: tuple[StepProgress, ...]) -> float | None:
        """What is done; it does not go back when an estimate turns out to be too small."""
        if self.state is State.DONE:
            return 100.0
        percent = overall_percent(steps)
        if percent is not None:
            self._shown_percent = percent = max(percent, self._shown_percent or 0.0)
        return percent

    def _stall(self, now_s: float) -> str | None:
        """Worth a word while bytes should arrive; later the database may work in silence."""
        stalled = self._arriving.stalled_for(now_s)
        transfer = self._steps[Step.TRANSFER].state
        if stalled is None or self.state is not State.RUNNING or transfer is StepState.DONE:
            return None
        return f"no data for {stalled:.0f} s"
