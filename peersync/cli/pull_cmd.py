"""`peersync pull`: a database of this node catches up from a peer."""

from __future__ import annotations

import asyncio
import getpass
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.failure import as_text
from peersync.cli.output import clean, count, duration, emit_json, print_err, print_out
from peersync.cli.output import size as human
from peersync.cli.progress import interval_s
from peersync.core.errors import BadRequest, Cancelled

if TYPE_CHECKING:
    from peersync.agent.jobview import JobView, Started
    from peersync.agent.plan import Plan
    from peersync.transport.local import AgentClient

PATH = "/api/admin/sync/full-sync"


@click.command()
@click.argument("peer")
@click.option("--database", metavar="NAME", help="Which; needed when there are several.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even if rows here are overwritten.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop there.")
@click.option("--no-compress", is_flag=True, help="Send the rows as they are.")
@click.option("--no-verify", is_flag=True, help="Skip the last comparison; digests are checked.")
@click.option("--no-wait", is_flag=True, help="Start it, print its id, and leave it running.")
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown.",
)
@click.pass_obj
def command(
    ctx: Context,
    peer: str,
    database: str | None,
    yes: bool,
    dry_run: bool,
    no_compress: bool,
    no_verify: bool,
    no_wait: bool,
    mode: str,
) -> int:
    """Bring this server's database up to date from PEER, all or nothing.

    Rows that differ are overwritten, rows that are only here are kept. Until the one
    transaction at the end commits, nothing that was here is changed.
    """
    request = {
        "action": "pull",
        "peer": peer,
        "database": ctx.database_name(database),
        "compress": not no_compress,
        "verify": not no_verify,
        "requestedBy": getpass.getuser(),
    }
    interval_s(ctx.environ)  # a wrong one is said before anything is started
    view = asyncio.run(_pull(ctx, request, yes=yes, dry_run=dry_run, wait=not no_wait, mode=mode))
    return report(ctx, view, mode) if view is not None else 0


async def _pull(
    ctx: Context, request: dict[str, Any], *, yes: bool, dry_run: bool, wait: bool, mode: str
) -> JobView | None:
    from peersync.agent.jobview import Started
    from peersync.transport.local import AgentClient

    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        if dry_run or not yes:
            planned = await agent.post(PATH, {**request, "dryRun": True}, Started)
            if not dry_run or not ctx.json:
                _show_plan(ctx, planned.plan)
            if dry_run:
                if ctx.json:
                    emit_json(msgspec.to_builtins(planned))
                return None
            _confirm(ctx, planned.plan)
        started = await agent.post(PATH, request, Started)
        assert started.job is not None
        if yes:
            _show_plan(ctx, started.plan)
        if not wait:
            _announce(ctx, started)
            return None
        return await _follow(ctx, agent, started.job, mode)


def _announce(ctx: Context, started: Started) -> None:
    if ctx.json:
        emit_json({"session": started.job, "result": "running"})
    else:
        print_out(str(started.job))
        print_err(f"watch it: peersync jobs watch {str(started.job)[:8]}")


async def watch_job(ctx: Context, job: str, mode: str) -> JobView | None:
    """Follows a job by the beginning of its id."""
    from peersync.agent.jobview import JobView
    from peersync.transport.local import AgentClient

    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        view = await agent.get(f"/api/admin/jobs/{job}", JobView)
        return await _follow(ctx, agent, view.id, mode)


async def _follow(ctx: Context, agent: AgentClient, job: str, mode: str) -> JobView | None:
    from peersync.cli.progress import Mode
    from peersync.cli.watch import Detached, follow

    try:
        return await follow(ctx, agent, job, cast("Mode", mode))
    except Detached:
        print_err(f"it goes on: peersync jobs watch {job[:8]}")
        return None


def report(ctx: Context, view: JobView | None, mode: str) -> int:
    """Prints how a job ended; gives the exit code. After progress as JSON, this is JSON too."""
    from peersync.cli.watch import error_of, exit_code, print_result, result

    if view is None:
        return 0
    error = error_of(view)
    if ctx.json or mode == "json":
        emit_json(result(view))
    else:
        if not ctx.quiet:
            print_result(ctx, view)
        if view.state == "cancelled":
            print_err("Cancelled. Nothing was changed.")
    if error is not None:
        click.echo(as_text(error), err=True, color=None if ctx.color else False)
    return exit_code(view)


def _confirm(ctx: Context, plan: Plan) -> None:
    """Asks for the database's name, but only when something can be lost."""
    if not plan.overwrites:
        return
    if not ctx.interactive:
        raise BadRequest(
            f"rows of {plan.target}:{plan.database} may be overwritten, and nobody is there to ask",
            hint="Look at the plan with --dry-run, then repeat it with --yes.",
        )
    name = f"{plan.target}:{plan.database}"
    question = f"Type the name of the database that will be changed [{name}]"
    with _ctrl_c_raises():
        typed = click.prompt(question, err=True, show_default=False)
    if typed.strip() not in (name, plan.database):
        raise Cancelled("that is another name; nothing was started")


@contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """asyncio would cancel a task at the next await, and a question that waits has none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show_plan(ctx: Context, plan: Plan) -> None:
    if ctx.quiet or ctx.json:
        return
    for line in plan_lines(plan):
        print_err(clean(line, keep="\u202f"))


def plan_lines(plan: Plan) -> list[str]:
    """The plan in words."""
    wanted, blocked = plan.wanted(), plan.blocked
    rows = f"about {count(plan.rows)} rows" if plan.rows is not None else "rows not counted"
    lines = [
        f"PLAN  pull  {plan.source}:{plan.database}  ──▶  "
        f"THIS SERVER {plan.target}:{plan.database}",
        f"  {len(wanted)} tables, {rows}, {human(plan.size_bytes)} on disk there",
    ]
    created = sum(t.action == "create" for t in wanted)
    if created:
        lines.append(f"  {created} tables are created here, with the schema of {plan.source}")
    lines += [f"  {note}" for note in plan.notes]
    keyless = [t for t in wanted if t.action == "insert"]
    if keyless:
        names = ", ".join(str(t.table) for t in keyless[:3]) + ("…" if len(keyless) > 3 else "")
        lines.append(
            f"  {len(keyless)} tables have no key ({names}): whole rows are compared, "
            "extra rows here stay"
        )
    if plan.only_here:
        lines.append(f"  {len(plan.only_here)} tables are only here and are not touched")
    lines += [f"  left out: {t.table}: {t.reason}" for t in blocked]
    lines += [f"  not copied: {name}: {reason}" for name, reason in plan.not_copied]
    lines += [f"  warning: {t.table}: {w}" for t in wanted for w in t.warnings if "no key" not in w]
    lines += [f"  warning: {warning}" for warning in plan.warnings]
    lines.append(
        f"  needs about {human(plan.needed_bytes)} here, {human(plan.free_bytes)} free; "
        f"PostgreSQL {plan.source_version} → {plan.target_version}, {plan.dump_tool}"
    )
    if plan.expected_s is not None:
        lines.append(f"  expected: {duration(plan.expected_s)}, by the last runs of this pair")
    return lines
