"""One progress record, from which every rendering is made.

The terminal's bar, the line every ten seconds, the JSON line, the HTTP answer,
the event stream and systemd's STATUS= all show this record and nothing else.
What is not known is None, never zero, and the whole reaches 100 % only when the
last step, verify, is done.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

import msgspec

SCHEMA_VERSION = 1
RATE_WINDOW_S = 20.0
STALL_S = 10.0
ETA_LIMIT_S = 24 * 3600.0


class Step(StrEnum):
    """The five steps of a full sync. They overlap; the number is the order of their ends."""

    BACKUP = "backup"
    TRANSFER = "transfer"
    CONVERT = "convert"
    RESTORE = "restore"
    VERIFY = "verify"


STEPS = tuple(Step)

# Shares of the whole in measured runs on two cores, loopback: the restore is the slow one.
_WEIGHTS = {
    Step.BACKUP: 10,
    Step.TRANSFER: 10,
    Step.CONVERT: 20,
    Step.RESTORE: 50,
    Step.VERIFY: 10,
}


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class StepProgress(msgspec.Struct, frozen=True, omit_defaults=False):
    """How far one step is. `done` and `total` count `unit`: bytes, rows or tables.

    Until the dump is complete `total` is the plan's estimate, where there is one.
    """

    name: Step
    unit: str
    state: StepState = StepState.WAITING
    done: int = 0
    total: int | None = None
    seconds: float = 0.0

    @property
    def fraction(self) -> float | None:
        """Between 0 and 1, or None while the total is not known."""
        if self.state in (StepState.DONE, StepState.SKIPPED):
            return 1.0
        if self.state is StepState.WAITING:
            return 0.0
        if not self.total:
            return None
        return min(self.done / self.total, 0.999)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one full sync at one moment.

    `raw_bytes` counts the uncompressed dump, `wire_bytes` what crossed the network,
    `saved_bytes` what a resume found already here. `rate` is in raw bytes a second over
    the last 20 seconds; `eta_s` in seconds.
    """

    schema_version: int = SCHEMA_VERSION
    session: str
    action: str
    database: str
    source: str
    target: str
    state: str
    step: Step = Step.BACKUP
    step_number: int = 1
    steps: tuple[StepProgress, ...] = ()
    percent: float | None = None
    raw_bytes: int = 0
    wire_bytes: int = 0
    saved_bytes: int = 0
    rows: int = 0
    rows_estimated: int | None = None
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    waiting_for: str | None = None
    resumed: int = 0
    message: str | None = None
    started_at: str = ""
    updated_at: str = ""


class RateMeter:
    """The rate over the last 20 seconds, from samples of a counter that only grows."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._moved_at: float | None = None

    def sample(self, now_s: float, value: int) -> None:
        """Takes the counter's value at a monotonic time in seconds."""
        if not self._samples or value != self._samples[-1][1]:
            self._moved_at = now_s
        self._samples.append((now_s, value))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()

    def per_second(self) -> float | None:
        """Units a second, or None before there is anything to divide."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None

    def stalled_for(self, now_s: float) -> float | None:
        """Seconds since the counter last moved, once that is worth a word."""
        if self._moved_at is None or now_s - self._moved_at < STALL_S:
            return None
        return now_s - self._moved_at


def overall_percent(steps: tuple[StepProgress, ...]) -> float | None:
    """The weighted share of the five steps that is done, in percent.

    None before anything has begun, and while no step that runs knows its total: unknown is
    not zero. A running step without a total counts for nothing, so this never promises more
    than is done.
    """
    if all(step.state is StepState.WAITING for step in steps):
        return None
    running = [step for step in steps if step.state is StepState.RUNNING]
    if running and all(step.fraction is None for step in running):
        return None
    known = sum(_WEIGHTS[step.name] * (step.fraction or 0.0) for step in steps)
    everything_done = all(s.state in (StepState.DONE, StepState.SKIPPED) for s in steps)
    return 100.0 if everything_done else min(known, 99.9)


def current_step(steps: tuple[StepProgress, ...]) -> Step:
    """The step that holds up the others: the first that is not done."""
    for step in steps:
        if step.state not in (StepState.DONE, StepState.SKIPPED):
            return step.name
    return STEPS[-1]


def eta_seconds(done: int, total: int | None, rate: float | None) -> float | None:
    """Seconds left at this rate; None where that is not known or would be nonsense."""
    if total is None or not rate or rate <= 0:
        return None
    left = max(total - done, 0) / rate
    return left if left <= ETA_LIMIT_S else None
