"""How the progress of a full sync looks: five lines on a terminal, one elsewhere, or JSON.

All of it is made from one record; what that does not know is shown as unknown, never as 0.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Literal, Protocol, Self

from peersync.cli.output import clean, count, duration, json_text, print_err, print_out, size
from peersync.core.progress import Progress, StepProgress, StepState

Mode = Literal["auto", "bar", "plain", "json", "none"]
_BAR_WIDTH = 24
_EVERY_S = 10.0
_MARKS = {
    StepState.WAITING: "–",
    StepState.DONE: "✔",
    StepState.FAILED: "✘",
    StepState.SKIPPED: "skipped",
}


class Renderer(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, progress: Progress) -> None: ...


def make_renderer(mode: Mode, *, interval_s: float | None, quiet: bool) -> Renderer:
    """`auto` is a bar on a terminal and a line every ten seconds anywhere else."""
    if mode == "auto":
        mode = "none" if quiet else "bar" if sys.stderr.isatty() else "plain"
    if mode == "bar":
        return _Bar()
    return _Lines(mode, _EVERY_S if interval_s is None else interval_s)


class _Lines:
    """A line now and then, when the step changes, and at the end."""

    def __init__(self, mode: Mode, interval_s: float) -> None:
        self._mode = mode
        self._interval_s = interval_s
        self._shown_at = -interval_s
        self._last: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, progress: Progress) -> None:
        if self._mode == "none":
            return
        now = time.monotonic()
        key = (progress.state, progress.step.value)
        if key == self._last and now - self._shown_at < self._interval_s:
            return
        self._last, self._shown_at = key, now
        if self._mode == "json":
            print_out(json_text({"type": "progress", "progress": progress}))
            sys.stdout.flush()
        else:
            print_err(one_line(progress))


class _Bar:
    """Five lines that are drawn again in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True, highlight=False),
            refresh_per_second=8,
            transient=False,
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, progress: Progress) -> None:
        from rich.text import Text

        self._live.update(Text("\n".join(screen(progress)), no_wrap=True, overflow="ellipsis"))


def screen(progress: Progress) -> list[str]:
    """The lines of the terminal's picture."""
    lines = [_step_line(number, step) for number, step in enumerate(progress.steps, start=1)]
    percent = "unknown" if progress.percent is None else f"{progress.percent:.0f} %"
    parts = [f" overall {percent}"]
    if progress.rate_bytes_s:
        parts.append(f"{size(progress.rate_bytes_s)}/s")
    if progress.eta_s is not None and progress.state == "running":
        parts.append(f"about {duration(progress.eta_s)} left")
    if progress.rows:
        parts.append(f"{count(progress.rows)} rows")
    if progress.resumed:
        parts.append(f"resumed {progress.resumed}×, {size(progress.saved_bytes)} not sent again")
    if progress.state not in ("running", "planned"):
        parts.append(progress.state)
    lines.append(" · ".join(parts))
    if progress.waiting_for:
        lines.append(f" waiting: {clean(progress.waiting_for)}")
    return lines


def _step_line(number: int, step: StepProgress) -> str:
    head = f" {number} {step.name.value:<9}"
    if step.state in (StepState.WAITING, StepState.SKIPPED):
        return f"{head} {_MARKS[step.state]}"
    amount = _amount(step)
    if step.state is not StepState.RUNNING:
        return f"{head} {_MARKS[step.state]} {duration(step.seconds):>10}   {amount}"
    fraction = step.fraction
    if fraction is None:
        return f"{head} counting…   {amount}"
    filled = int(fraction * _BAR_WIDTH)
    bar = "█" * filled + " " * (_BAR_WIDTH - filled)
    return f"{head} ▕{bar}▏ {fraction * 100:3.0f} %  {amount}"


def _amount(step: StepProgress) -> str:
    def show(value: int) -> str:
        return size(value) if step.unit == "bytes" else f"{count(value)} {step.unit}"

    if step.state is StepState.RUNNING and step.total:
        return f"{show(step.done)} of {show(max(step.total, step.done))}"
    return show(step.done)


def one_line(progress: Progress) -> str:
    """ "shop from server-a: 4/5 restore, 61 %, 38.0 MiB/s, about 16 s left"."""
    parts = [f"{progress.step_number}/5 {progress.step.value}"]
    parts.append("unknown %" if progress.percent is None else f"{progress.percent:.0f} %")
    if progress.rate_bytes_s:
        parts.append(f"{size(progress.rate_bytes_s)}/s")
    if progress.eta_s is not None and progress.state == "running":
        parts.append(f"about {duration(progress.eta_s)} left")
    if progress.state not in ("running", "planned"):
        parts = [progress.state, *parts[1:2]]
    if progress.waiting_for:
        parts.append(f"waiting: {clean(progress.waiting_for)}")
    return f"{progress.database} from {progress.source}: " + ", ".join(parts)
