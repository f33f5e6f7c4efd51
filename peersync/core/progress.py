"""One progress record, from which every rendering is made.

The terminal's bar, the line every ten seconds, the JSON line, the HTTP answer,
the event stream and systemd's STATUS= all show this record and nothing else.
What is not known is None, never zero. The steps alone never make 100 %: only the
session knows that it has committed.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from enum import StrEnum

import msgspec

from peersync.core.tables import TablesProgress

SCHEMA_VERSION = 1
RATE_WINDOW_S = 20.0
STALL_S = 10.0
STILL_S = 1.0
SURE_S = 3.0  # a shorter look gives no rate to build on
ETA_LIMIT_S = 24 * 3600.0
BEFORE_COMMIT = 99.0  # percent; whoever rounds it does not come to 100


class Step(StrEnum):
    """The five steps of a full sync. They overlap; the number is the order of their ends."""

    BACKUP = "backup"
    TRANSFER = "transfer"
    CONVERT = "convert"
    RESTORE = "restore"
    VERIFY = "verify"


STEPS = tuple(Step)

# Shares of the whole in measured runs on two cores, loopback. A table that is new here is
# converted and restored in one go; rows for one that was here are staged first (convert), and
# merging them takes from two thirds of that time (nothing differs) to three times (all does).
_WEIGHTS = {
    Step.BACKUP: 10,
    Step.TRANSFER: 10,
    Step.CONVERT: 30,
    Step.RESTORE: 40,
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
    the last 20 seconds; `eta_s` in seconds. `elapsed_s` counts from the session's beginning,
    through every resume; the seconds of the steps, since it was last taken up. `notes` say what
    was passed over beside the tables. `tables`: how far each is, while it runs. `cancelled_by`: who
    has asked it to stop.
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
    elapsed_s: float | None = None
    notes: tuple[str, ...] = ()
    tables: TablesProgress | None = None
    cancelled_by: str | None = None


class RateMeter:
    """The rate over the last 20 seconds, from samples of a counter that only grows."""

    def __init__(self, window_s: float = RATE_WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()
        self._moved_at: float | None = None
        self._moves = 0

    def sample(self, now_s: float, value: int) -> None:
        """Takes the counter's value at a monotonic time in seconds."""
        if not self._samples:
            self._moved_at = now_s
        elif value != self._samples[-1][1]:
            self._moved_at, self._moves = now_s, self._moves + 1
            if self._moves == 1:  # the time before it began is no part of its rate
                self._samples = deque([self._samples[-1]])
        self._samples.append((now_s, value))
        while len(self._samples) > 2 and self._samples[1][0] <= now_s - self._window_s:
            self._samples.popleft()

    def per_second(self) -> float | None:
        """Units a second, or None before there is anything to divide."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else None

    @property
    def sure(self) -> bool:
        """Whether it has seen enough for a guess at what comes: 3 s, and more than one step."""
        span_s = self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0
        return span_s >= SURE_S and self._moves >= 2

    def still_for(self, now_s: float) -> float:
        """Seconds since the counter last moved."""
        return now_s - self._moved_at if self._moved_at is not None else 0.0

    def stalled_for(self, now_s: float) -> float | None:
        """The same, once that is worth a word."""
        still = self.still_for(now_s)
        return still if still >= STALL_S else None


def overall_percent(steps: tuple[StepProgress, ...]) -> float | None:
    """The weighted share of the five steps that is done, in percent.

    None before anything was counted, and while no step that was begun knows its total: unknown
    is not zero. A running step without a total counts for nothing, so this never promises more
    than is done. At most `BEFORE_COMMIT`.
    """
    ended = (StepState.DONE, StepState.SKIPPED)
    if not any(step.done or step.state in ended for step in steps):
        return None
    begun = [step for step in steps if step.state in (StepState.RUNNING, StepState.FAILED)]
    if begun and all(step.fraction is None for step in begun):
        return None
    known = sum(_WEIGHTS[step.name] * (step.fraction or 0.0) for step in steps)
    return min(known, BEFORE_COMMIT)


def current_step(steps: tuple[StepProgress, ...]) -> Step:
    """The step that holds up the others: the first that is not done."""
    for step in steps:
        if step.state not in (StepState.DONE, StepState.SKIPPED):
            return step.name
    return STEPS[-1]


def eta_seconds(done: int, total: int | None, rate: float | None) -> float | None:
    """Seconds left at this rate; None where that is not known or would be nonsense.

    When all that can be counted is counted, what is left is work without a number.
    """
    if total is None or done >= total or not rate or rate <= 0:
        return None
    left = round((total - done) / rate, 1)
    return left if 0 < left <= ETA_LIMIT_S else None


def seconds_between(started_at: str, at: str) -> float | None:
    """Between two times in ISO 8601; None where one is missing, or the clock was set back."""
    try:
        seconds = (datetime.fromisoformat(at) - datetime.fromisoformat(started_at)).total_seconds()
    except (ValueError, TypeError):
        return None
    return round(seconds, 3) if seconds >= 0 else None
