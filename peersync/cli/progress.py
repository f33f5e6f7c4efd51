"""How the progress of a full sync looks: five lines on a terminal, one elsewhere, or JSON.

All of it is made from one record; what that does not know is shown as unknown, never as 0.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Literal, Protocol, Self

from peersync.cli.output import (
    SCHEMA_VERSION,
    count,
    duration,
    fitting,
    flat,
    has_utf8,
    json_text,
    print_err,
    print_out,
    size,
)
from peersync.core.errors import BadRequest
from peersync.core.progress import Progress, StepProgress, StepState

Mode = Literal["auto", "bar", "plain", "json", "none"]
_BAR_WIDTH = 24
_WIDTH = 72  # that five lines with everything need
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

        console = self._live.console
        text = fitting("\n".join(screen(progress, console.width)), console.file)
        overflow: Literal["ellipsis", "crop"] = "ellipsis" if has_utf8(console.file) else "crop"
        self._live.update(Text(text, no_wrap=True, overflow=overflow))

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)


def screen(progress: Progress, width: int = 200) -> list[str]:
    """The lines of the terminal's picture, for so many columns."""
    lines = [_step_line(number, step, width) for number, step in enumerate(progress.steps, start=1)]
    parts = [f"overall {_percent(progress)}"]
    if progress.elapsed_s is not None and progress.elapsed_s >= 1:
        parts.append(duration(round(progress.elapsed_s)))
    parts += _speed(progress)
    if progress.rows:
        parts.append(f"{count(progress.rows)} rows")
    if progress.resumed:
        parts.append(f"resumed {progress.resumed}×, {size(progress.saved_bytes)} not sent again")
    if progress.state not in ("running", "planned"):
        parts.append(progress.state)
    lines += _joined(parts, width)
    for words in _words(progress):
        first, *more = textwrap.wrap(words, max(width - 3, 20))
        lines += [f" {first}", *(f"   {line}" for line in more)]
    return lines


def _joined(parts: list[str], width: int) -> list[str]:
    """Broken between the parts, where they do not fit in one line."""
    lines = [" " + parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]} · {part}"
        if len(longer) < width:
            lines[-1] = longer
        else:
            lines.append(" " + part)
    return lines


def _speed(progress: Progress) -> list[str]:
    """Nothing while it waits: the rate of the last seconds is not what comes now."""
    if progress.waiting_for:
        return []
    parts = []
    if progress.rate_bytes_s:
        parts.append(f"{size(progress.rate_bytes_s)}/s")
    if progress.eta_s is not None and progress.eta_s >= 1 and progress.state == "running":
        parts.append(f"about {duration(round(progress.eta_s))} left")
    return parts


def _words(progress: Progress) -> list[str]:
    words = [f"waiting: {flat(progress.waiting_for)}"] if progress.waiting_for else []
    return words + ([flat(progress.message)] if progress.message else [])


def _step_line(number: int, step: StepProgress, width: int) -> str:
    head = f" {number} {step.name.value:<9}"
    if step.state in (StepState.WAITING, StepState.SKIPPED):
        return f"{head} {_MARKS[step.state]}"
    amount = _amount(step, short=width < _WIDTH)
    if step.state is not StepState.RUNNING:
        if not step.seconds and not step.done:  # it ended before its agent was restarted
            return f"{head} {_MARKS[step.state]}"
        return f"{head} {_MARKS[step.state]} {duration(step.seconds):>10}   {amount}"
    fraction = step.fraction
    if fraction is None or not step.done:
        return f"{head} {_COUNTING}" + (f"   {amount}" if step.done else "")
    length = min(max(width - 34, 4), _BAR_WIDTH)
    filled = int(fraction * length)
    bar = "█" * filled + " " * (length - filled)
    return f"{head} ▕{bar}▏ {int(fraction * 100):3} %  {amount}"


def _percent(progress: Progress) -> str:
    """Rounded down: 100 % is only what is done."""
    if progress.percent is not None:
        return f"{int(progress.percent)} %"
    return "unknown" if progress.state in _ENDED else _COUNTING


def _amount(step: StepProgress, *, short: bool = False) -> str:
    def show(value: int) -> str:
        if step.unit == "bytes":
            return size(value)
        return f"{count(value)} {step.unit.removesuffix('s') if value == 1 else step.unit}"

    if step.state is StepState.RUNNING and step.total and not short:
        return f"{show(step.done)} of {show(max(step.total, step.done))}"
    return show(step.done)


def one_line(progress: Progress, *, giving: bool = False) -> str:
    """ "shop from server-a: 4/5 restore, 61 %, 38.0 MiB/s, about 16 s left"; or "shop to …"."""
    percent = _percent(progress)
    if progress.state in _ENDED:
        parts = [progress.state, percent]
        if progress.state not in ("done", "partly"):
            known = progress.percent is not None
            parts = [f"{progress.state} at {percent}" if known else progress.state]
    elif progress.state == "cancelling":
        parts = [progress.state]
    else:
        parts = [f"{progress.step_number}/5 {progress.step.value}", percent, *_speed(progress)]
    if progress.resumed:
        parts.append(f"resumed {progress.resumed}×")
    side = f"to {progress.target}" if giving else f"from {progress.source}"
    return f"{progress.database} {side}: " + ", ".join([*parts, *_words(progress)])
