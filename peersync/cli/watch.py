"""Follows a job of the agent to its end, says how it ended, and what Ctrl-C means.

The job belongs to the agent: if this window goes away it goes on, and if the agent is
restarted in the middle this waits for it and looks again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import click
import msgspec

from peersync.agent.jobview import JobView
from peersync.cli.context import Context
from peersync.cli.names import job_path, user_name
from peersync.cli.output import (
    clean,
    count,
    duration,
    indented,
    print_err,
    print_out,
    print_table,
    size,
)
from peersync.cli.progress import Mode, Renderer, interval_s, make_renderer
from peersync.core.errors import AgentNotRunning, NotFound, PeersyncError, error_class, root_error
from peersync.core.progress import Progress, seconds_between
from peersync.core.results import TableResult
from peersync.core.words import counted
from peersync.transport.local import AgentClient

FINAL = frozenset({"done", "partly", "failed", "cancelled"})
EXIT = {"done": 0, "partly": 3, "cancelled": 130}
_WAIT_FOR_AGENT_S = 60.0
_PAUSE_S = 0.5
_LATE_S = 2.0  # who comes later to a job is not told its past


class Detached(Exception):
    """The user chose to leave the job alone."""


async def follow(ctx: Context, agent: AgentClient, job: str, mode: Mode) -> JobView:
    """Shows the job's progress until it ends. Raises Detached when the user leaves it."""
    renderer = make_renderer(mode, interval_s=interval_s(ctx.environ), quiet=ctx.quiet or ctx.json)
    interrupts = _Interrupts()
    with interrupts, renderer:
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_watch(agent, job, renderer), name="watch")
                heeding = group.create_task(
                    _heed(ctx, agent, job, interrupts, renderer, watching), name="interrupts"
                )
                watching.add_done_callback(lambda _ended: heeding.cancel())
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors
    if watching.cancelled():
        raise Detached
    return watching.result()


async def _watch(agent: AgentClient, job: str, renderer: Renderer) -> JobView:
    last_event: str | None = None
    missing_since: float | None = None
    loop = asyncio.get_running_loop()
    view: JobView | None = None
    since = ""
    with suppress(AgentNotRunning):
        view = await agent.get(f"/api/admin/jobs/{job}", JobView)
        since = _show_now(renderer, view)
    while view is None or view.state not in FINAL:
        try:
            async for event in agent.events(f"/api/admin/jobs/{job}/events", after=last_event):
                last_event, missing_since = event.id, None
                if event.event == "progress":
                    progress = msgspec.json.decode(event.data, type=Progress)
                    if progress.updated_at >= since:
                        since = ""
                        renderer.show(progress)
        except NotFound:
            pass  # it has ended, or the agent takes it up again in a moment
        except AgentNotRunning:
            last_event = None
            missing_since = missing_since or loop.time()
            if loop.time() - missing_since > _WAIT_FOR_AGENT_S:
                raise
        try:
            view = await agent.get(f"/api/admin/jobs/{job}", JobView)
        except AgentNotRunning:
            await asyncio.sleep(_PAUSE_S)
            continue
        missing_since = None
        if view.state not in FINAL:
            await asyncio.sleep(_PAUSE_S)
    if view.progress is not None:
        renderer.show(view.progress)
    return view


def _show_now(renderer: Renderer, view: JobView) -> str:
    """Shows how far a job is that began before; gives the time before which nothing is shown."""
    progress = view.progress
    if progress is None or view.state in FINAL or (progress.elapsed_s or 0) < _LATE_S:
        return ""
    renderer.show(progress)
    return progress.updated_at


async def _heed(
    ctx: Context,
    agent: AgentClient,
    job: str,
    interrupts: _Interrupts,
    renderer: Renderer,
    watching: asyncio.Task[JobView],
) -> None:
    """Asks at a terminal what Ctrl-C means; in a script it cancels the job."""
    while True:
        await interrupts.wait()
        answer = "c"
        if ctx.interactive:
            with renderer.paused(), interrupts.released():
                answer = _ask()
        if answer == "d":
            watching.cancel()
            return
        if answer == "c":
            by = {"by": user_name()}
            await agent.post(job_path(job, "cancel"), None, JobView, params=by)
            print_err("cancelling; nothing has been changed unless it was committing already …")


def _ask() -> str:
    """Blocks the loop, which has nothing to do but to show what is not looked at now."""
    print_err("")
    try:
        answer: str = click.prompt(
            "c cancel the sync · d detach, it goes on · w watch on",
            type=click.Choice(["c", "d", "w"]),
            default="d",
            show_choices=False,
            err=True,
        )
    except click.Abort:  # Ctrl-C again, or the end of the input: away from here, harmlessly
        print_err("")
        return "d"
    return answer


class _Interrupts:
    """Ctrl-C as something to wait for, while the block lasts."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._loop.add_signal_handler(signal.SIGINT, self._event.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_signal_handler(signal.SIGINT)

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Ctrl-C is a KeyboardInterrupt again, for a question that waits for its answer."""
        self._loop.remove_signal_handler(signal.SIGINT)
        try:
            yield
        finally:
            self._loop.add_signal_handler(signal.SIGINT, self._event.set)


def result(view: JobView) -> dict[str, Any]:
    """The object that `--json` prints for an ended sync (docs/cli-json.md)."""
    progress = view.progress
    totals = {
        name: sum(getattr(t, name) for t in view.tables)
        for name in ("inserted", "updated", "unchanged", "skipped", "deleted", "kept_local")
    }
    return {
        "session": view.id,
        "result": view.state,
        "action": view.action,
        "database": view.database,
        "peer": view.peer,
        "rows": totals,
        "tables": view.tables,
        "notes": progress.notes if progress else (),
        "raw_bytes": progress.raw_bytes if progress else None,
        "wire_bytes": progress.wire_bytes if progress else None,
        "saved_bytes": progress.saved_bytes if progress else None,
        "resumed": progress.resumed if progress else None,
        "seconds": view.seconds,
        "elapsed_s": elapsed_s(view),
        "started_at": view.started_at,
        "completed_at": view.completed_at,
        "undo": view.undo,
        "error": view.error,
    }


def elapsed_s(view: JobView) -> float | None:
    """Seconds from its beginning to its end, or until it last said something of itself."""
    if view.progress is not None and view.progress.elapsed_s is not None:
        return view.progress.elapsed_s
    if view.completed_at is None or view.state == "failed":
        return None  # a record without an end of its own is closed long after it ended
    return seconds_between(view.started_at, view.completed_at)


def error_of(view: JobView) -> PeersyncError | None:
    """How the job failed, as the error that it was."""
    if view.error is None or view.state != "failed":
        return None
    kind = error_class(view.error.code)
    return kind(view.error.message, detail=view.error.detail, hint=view.error.hint)


def exit_code(view: JobView) -> int:
    error = error_of(view)
    return error.exit_code if error else EXIT.get(view.state, 1)


def print_result(ctx: Context, view: JobView) -> None:
    """The closing summary: tables worst first, then what it cost."""
    if view.tables:
        order = {"failed": 0, "blocked": 1, "partly": 2, "done": 3}
        tables = sorted(view.tables, key=lambda t: (order[t.result], -t.raw_bytes))
        changed = [t for t in tables if t.result != "done" or t.inserted or t.updated or t.deleted]
        if changed:
            _print_changed(ctx, view, changed)
        same = len(tables) - len(changed)
        if same:
            print_out(f"{same} table{'s' if same != 1 else ''} had nothing to change.")
        for table in tables:
            for words in (table.error, table.note):
                if words:
                    print_err(f"{clean(table.schema)}.{clean(table.name)}: {indented(words)}")
    for note in view.progress.notes if view.progress is not None else ():
        print_err(indented(note))
    for line in _compared(view.tables):
        print_out(line)
    if view.progress is not None and view.state in ("done", "partly"):
        print_out(_cost(view, view.progress))
    if view.undo == "kept":
        print_err(f"put it back as it was: peersync undo {view.id[:8]}")
    elif view.undo == "too_large":
        print_err("it can't be undone: it changed more than full_sync.undo_max_mib")


def _compared(tables: Sequence[TableResult]) -> list[str]:
    """Of a delta: how much differed, and what was sent whole because of what was found."""
    compared = [t for t in tables if t.way == "delta"]
    whole = sum(1 for t in tables if t.way_reason)
    if not (compared or whole):
        return []
    blocks = sum(t.blocks or 0 for t in compared)
    differing = sum(t.differing_blocks or 0 for t in compared)
    return [
        f"{counted(len(compared), 'table')} compared: {count(differing)} of {count(blocks)} blocks "
        "of rows differed" + (f"; {counted(whole, 'table')} sent whole" if whole else "")
    ]


def _print_changed(ctx: Context, view: JobView, tables: list[TableResult]) -> None:
    """What is seldom has a column only when there is some of it."""
    only = "only here" if view.role == "target" else f"only on {view.peer}"
    fields = {"inserted": "inserted", "updated": "updated", "unchanged": "unchanged"}
    for name, title in (("deleted", "deleted"), ("skipped", "skipped"), ("kept_local", "kept")):
        if any(getattr(t, name) for t in tables):
            fields[name] = title
    fields["target_only"] = only
    print_table(
        ("table", "result", *fields.values()),
        [
            (f"{t.schema}.{t.name}", t.result, *(getattr(t, name) for name in fields))
            for t in tables
        ],
        color=ctx.color,
    )


def _cost(view: JobView, progress: Progress) -> str:
    elapsed = elapsed_s(view)
    took = f" in {duration(elapsed)}" if elapsed is not None else ""
    steps = ", ".join(f"{name} {duration(s)}" for name, s in view.seconds.items() if s >= 0.05)
    resumed = f", resumed {progress.resumed}×" if progress.resumed else ""
    since = "since then: " if progress.resumed else ""
    ratio = progress.raw_bytes / progress.wire_bytes if progress.wire_bytes else 0
    wire = f", {size(progress.wire_bytes)} on the wire" if progress.wire_bytes else ""
    shrunk = f" ({ratio:.1f}:1)" if ratio > 1 else ""
    saved = f", {size(progress.saved_bytes)} not sent again" if progress.saved_bytes else ""
    return (
        f"{count(progress.rows)} rows, {size(progress.raw_bytes)} of dump{wire}{shrunk}{saved}"
        f"{took}{resumed}" + (f" ({since}{steps})" if steps else "")
    )
