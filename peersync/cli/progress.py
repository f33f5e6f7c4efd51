"""How the progress of a full sync looks: five lines on a terminal, one elsewhere, or JSON.

All of it is made from one record; what that does not know is shown as unknown, never as 0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Literal, Protocol, Self

from peersync.cli.output import (
    SCHEMA_VERSION,
    clean,
    count,
    duration,
    json_text,
    print_err,
    print_out,
    size,
)
from peersync.core.errors import BadRequest
from peersync.core.progress import Progress, StepProgress, StepState

Mode = Literal["auto", "bar", "plain", "json", "none"]
_BAR_WIDTH = 24
_EVERY_S = 10.0
_INTERVAL = "PEERSYNC_PROGRESS_INTERVAL"
_COUNTING = "counting…"
_ENDED = ("done", "partly", "failed", "cancelled")
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

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn meanwhile: somebody is asked a question."""


def interval_s(environ: Mapping[str, str]) -> float:
    """Seconds between two lines. BadRequest for a PEERSYNC_PROGRESS_INTERVAL that is none."""
    text = environ.get(_INTERVAL)
    if not text:
        return _EVERY_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise BadRequest(f"{_INTERVAL} is {text!r}", hint="Give a number of seconds, such as 2.5.")
    return seconds


def make_renderer(mode: Mode, *, interval_s: float, quiet: bool) -> Renderer:
    """`auto` is a bar on a terminal and a line every `interval_s` seconds anywhere else."""
    if mode == "auto":
        mode = "none" if quiet else "bar" if sys.stderr.isatty() else "plain"
    if mode == "bar":
        return _Bar()
    return _Lines(mode, interval_s)


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
            head = {"schema_version": SCHEMA_VERSION, "type": "progress"}
            print_out(json_text({**head, "progress": progress}))
            sys.stdout.flush()
        else:
            print_err(one_line(progress))

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()


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

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)


def screen(progress: Progress) -> list[str]:
    """The lines of the terminal's picture."""
    lines = [_step_line(number, step) for number, step in enumerate(progress.steps, start=1)]
    parts = [f" overall {_percent(progress)}"]
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
        return f"{head} {_COUNTING}   {amount}"
    filled = int(fraction * _BAR_WIDTH)
    bar = "█" * filled + " " * (_BAR_WIDTH - filled)
    return f"{head} ▕{bar}▏ {int(fraction * 100):3} %  {amount}"


def _percent(progress: Progress) -> str:
    """Rounded down: 100 % is only what is done."""
    if progress.percent is not None:
        return f"{int(progress.percent)} %"
    return "unknown" if progress.state in _ENDED else _COUNTING


def _amount(step: StepProgress) -> str:
    def show(value: int) -> str:
        return size(value) if step.unit == "bytes" else f"{count(value)} {step.unit}"

    if step.state is StepState.RUNNING and step.total:
        return f"{show(step.done)} of {show(max(step.total, step.done))}"
    return show(step.done)


def one_line(progress: Progress) -> str:
    """ "shop from server-a: 4/5 restore, 61 %, 38.0 MiB/s, about 16 s left"."""
    parts = [f"{progress.step_number}/5 {progress.step.value}"]
    parts.append(_percent(progress))
    if progress.rate_bytes_s:
        parts.append(f"{size(progress.rate_bytes_s)}/s")
    if progress.eta_s is not None and progress.state == "running":
        parts.append(f"about {duration(progress.eta_s)} left")
    if progress.state not in ("running", "planned"):
        parts = [progress.state, *parts[1:2]]
    if progress.waiting_for:
        parts.append(f"waiting: {clean(progress.waiting_for)}")
    return f"{progress.database} from {progress.source}: " + ", ".join(parts)
