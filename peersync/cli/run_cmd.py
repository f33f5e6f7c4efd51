"""`peersync run`: every table set that is due, brought up to date by the agent in one go."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import (
    ago,
    clean,
    count,
    duration,
    emit_json,
    indented,
    print_err,
    print_out,
    print_table,
    size,
)
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.agent.orchestration.sets import PlannedSet, SetsPlan, SetsResult
    from peersync.agent.orchestration.sets_api import SetsHistory
    from peersync.postgres.sets import SetRun

PATH = "/api/admin/sets"
_EXIT = {"done": 0, "nothing": 0, "partly": 3, "failed": 1}
_MARKS = {"success": "✓", "error": "✗", "partial": "◐", "skipped": "○"}


@click.command()
@click.option("--set", "sets", metavar="NAME", multiple=True, help="Only this one; repeatable.")
@click.option("--force", is_flag=True, help="Also what is not due yet, or paused.")
@click.option("--dry-run", is_flag=True, help="Say what would run, and ask the peers about it.")
@click.option("--history", is_flag=True, help="Show what ran, and run nothing.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True,
              help="With --history: how many.")  # fmt: skip
@click.pass_obj
def command(
    ctx: Context, sets: tuple[str, ...], force: bool, dry_run: bool, history: bool, limit: int
) -> int:
    """Bring every table set that is due up to date: incremental ones first, then by priority.

    The agent does it, one set after the other; Ctrl-C ends the waiting only. A set that is
    running already is named and not begun twice. Whoever else is at work in the database is
    waited for. Exit code 3: some failed or were left out; 1: all failed.
    """
    if not all(name.strip() for name in sets):
        raise BadRequest("--set needs the name of a table set", hint="peersync run --dry-run")
    if history:
        if len(sets) > 1 or force or dry_run:
            raise BadRequest("--history goes with one --set and --limit only")
        return _history(ctx, asyncio.run(_get_history(ctx, sets, limit)))
    request: dict[str, Any] = {
        "sets": list(sets), "force": force, "syncType": "manual", "requestedBy": user_name(),
    }  # fmt: skip
    if dry_run:
        return _plan(ctx, asyncio.run(_ask_plan(ctx, request)))
    return _result(ctx, asyncio.run(_run(ctx, request)))


async def _run(ctx: Context, request: dict[str, Any]) -> SetsResult:
    from peersync.agent.orchestration.sets import SetsResult

    async with ctx.agent() as agent:
        return await agent.post(f"{PATH}/run", request, SetsResult)


async def _ask_plan(ctx: Context, request: dict[str, Any]) -> SetsPlan:
    from peersync.agent.orchestration.sets import SetsPlan

    async with ctx.agent() as agent:
        return await agent.post(f"{PATH}/plan", request, SetsPlan)


async def _get_history(ctx: Context, sets: tuple[str, ...], limit: int) -> SetsHistory:
    from peersync.agent.orchestration.sets_api import SetsHistory

    params = {"limit": str(limit), **({"set": sets[0]} if sets else {})}
    async with ctx.agent() as agent:
        return await agent.get(f"{PATH}/history", SetsHistory, params=params)


def _result(ctx: Context, done: SetsResult) -> int:

    if ctx.json:
        emit_json(done)
        return _code(done)
    for run in done.runs:
        took = f" ({duration(run.seconds)})" if run.seconds is not None else ""
        arrow = "from" if run.direction == "pull" else "to"
        what = f"{run.set} {arrow} {run.peer}: {run.status}, {count(run.rows)} rows{took}"
        print_out(f"{_MARKS.get(run.status, '○')} {what}")
        if words := _why(run):
            print_err(f"    {indented(clean(words, keep=chr(10)))}")
    if not ctx.quiet:
        _print_not_run(done.not_run)
        if done.result == "nothing" and not done.not_run:
            print_err("there is no table set; see [[table_set]] in the configuration")
    return _code(done)


def _code(done: SetsResult) -> int:
    """What was skipped was left out, and has a run that says so."""
    return _EXIT["partly" if done.result == "nothing" and done.runs else done.result]


def _plan(ctx: Context, plan: SetsPlan) -> int:

    if ctx.json:
        emit_json(plan)
        return 1 if any(p.problems for p in plan.sets) else 0
    due = [p for p in plan.sets if p.reason is None]
    rows = [
        (
            p.set,
            p.database,
            p.method,
            f"{p.direction} {', '.join(p.peers)}",
            ", ".join(p.tables),
            count(p.rows) if p.rows is not None else None,
            _when(p.last),
        )
        for p in due
    ]
    if rows:
        columns = ("set", "database", "method", "peers", "tables", "rows (est.)", "last")
        print_table(columns, rows, color=ctx.color)
    if not ctx.quiet:
        _print_not_run([p for p in plan.sets if p.reason is not None])
        if not plan.sets:
            print_err("there is no table set; see [[table_set]] in the configuration")
    for p in due:
        for peer, words in p.problems.items():
            print_err(f"✗ {p.set} with {peer}: {indented(clean(words, keep=chr(10)))}")
    return 1 if any(p.problems for p in due) else 0


def _history(ctx: Context, told: SetsHistory) -> int:

    if ctx.json:
        emit_json(told)
        return 0
    rows = [
        (
            _when(run.started_at),
            run.set,
            f"{'◀──' if run.direction == 'pull' else '──▶'} {run.peer}",
            run.method,
            run.status,
            count(run.rows),
            size(run.wire_bytes),
            duration(run.seconds) if run.seconds is not None else None,
            clean(_why(run).splitlines()[0]) if _why(run) else None,
        )
        for run in told.runs
    ]
    if rows:
        columns = ("began", "set", "peer", "method", "status", "rows", "wire", "took", "why")
        print_table(columns, rows, color=ctx.color)
    elif not ctx.quiet:
        print_err("no table set has run yet")
    return 0


def _print_not_run(sets: list[PlannedSet]) -> None:
    for one in sets:
        print_err(f"○ {one.set}: {clean(one.reason or '')}")


def _why(run: SetRun) -> str:
    if run.error is None:
        return run.reason or ""
    return f"{run.error.message}\n{run.error.hint}" if run.error.hint else run.error.message


def _when(at: str | None) -> str:
    return ago(datetime.fromisoformat(at) if at else None, datetime.now(UTC))
