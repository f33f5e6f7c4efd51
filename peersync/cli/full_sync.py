"""What `peersync pull` and `peersync push` share: plan, question, start, progress, result.

`join`, `merge` and `rebaseline` are made of the same. The sync belongs to the agent: from here it
is only asked for and watched.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from peersync.cli.context import Context
from peersync.cli.failure import as_text
from peersync.cli.names import job_path, user_name
from peersync.cli.options import database_option
from peersync.cli.output import clean, emit_json, print_err, print_out
from peersync.cli.plan_view import plan_lines
from peersync.cli.progress import interval_s
from peersync.cli.rate import Rate
from peersync.core.errors import BadRequest, Cancelled

if TYPE_CHECKING:
    from peersync.agent.jobview import JobView, Started
    from peersync.agent.plan import Plan
    from peersync.transport.local import AgentClient

PATH = "/api/admin/sync/full-sync"


@dataclass(frozen=True)
class Run:
    """How the command runs; what it asks for is in the request."""

    yes: bool
    dry_run: bool
    wait: bool
    mode: str


def sync_options(function: Callable[..., int]) -> Callable[..., int]:
    """The options that pull and push have in common, in the order of the help."""
    for option in reversed((*_WHAT, *_WHICH, *_HOW)):
        function = option(function)
    return function


def join_options(function: Callable[..., int]) -> Callable[..., int]:
    """Those of them that make sense where all tables must be taken, or none."""
    for option in reversed((*_WHAT, *_HOW)):
        function = option(function)
    return function


_WHAT = (
    click.argument("peer"),
    database_option,
    click.option("-y", "--yes", is_flag=True, help="Do not ask, even if rows are overwritten."),
    click.option("--dry-run", is_flag=True, help="Show the plan and stop there."),
)
_WHICH = (
    click.option(
        "--tables",
        "-t",
        multiple=True,
        metavar="PATTERN",
        help="Only tables that match, as in psql: public.order_*. May be repeated.",
    ),
    click.option(
        "--exclude-table", "-T", multiple=True, metavar="PATTERN", help="Not these tables."
    ),
    click.option("--mirror", is_flag=True, help="Delete rows that only the target has."),
    click.option(
        "--source-wins",
        is_flag=True,
        help="Overwrite also what was changed on the target and never sent.",
    ),
    click.option("--per-table", is_flag=True, help="One transaction for each table."),
)
_HOW = (
    click.option(
        "--method",
        type=click.Choice(["auto", "backup", "http", "delta"]),
        default="auto",
        show_default=True,
        help="backup: by pg_dump. http: by COPY, where there is no pg_dump. delta: compare both "
        "sides first, and send only the rows that differ.",
    ),
    click.option(
        "--bandwidth", type=Rate(), default="0", metavar="RATE", help="At most: 10MB, 80Mbit."
    ),
    click.option(
        "--parallel", type=click.IntRange(1, 64), metavar="N", help="Tables at a time, both ends."
    ),
    click.option("--no-compress", is_flag=True, help="Send the rows as they are."),
    click.option(
        "--no-verify", is_flag=True, help="Skip the last comparison; digests are checked."
    ),
    click.option("--no-undo", is_flag=True, help="Keep nothing for peersync undo."),
    click.option(
        "--sync-type",
        type=click.Choice(["manual", "scheduled", "api"]),
        default="manual",
        help="What the history calls it.",
    ),
    click.option("--no-wait", is_flag=True, help="Start it, print its id, and leave it running."),
    click.option(
        "--progress",
        "mode",
        type=click.Choice(["auto", "bar", "plain", "json", "none"]),
        default="auto",
        show_default=True,
        help="How progress is shown.",
    ),
)


def full_sync(
    ctx: Context,
    action: str,
    options: dict[str, Any],
    *,
    done: Callable[[str], None] | None = None,
) -> int:
    """Plans, asks, starts and follows a full sync; gives the exit code.

    `done` is called with the database when it has ended well, or partly.
    """
    run = Run(options["yes"], options["dry_run"], wait=not options["no_wait"], mode=options["mode"])
    request = {
        "action": action,
        "peer": options["peer"],
        "database": ctx.database_name(options["database"]),
        "compress": not options["no_compress"],
        "verify": not options["no_verify"],
        "undo": not options["no_undo"],
        "mirror": options.get("mirror", False),
        "sourceWins": options.get("source_wins", False),
        "perTable": options.get("per_table", False),
        "join": options.get("join", False),
        "merge": options.get("merge", False),
        "anew": options.get("anew", False),
        "direction": options.get("direction"),
        "method": options["method"],
        "tables": list(options.get("tables", ())),
        "excludeTables": list(options.get("exclude_table", ())),
        "bandwidth": options["bandwidth"],
        "parallel": options["parallel"],
        "syncType": options["sync_type"],
        "requestedBy": user_name(),
    }
    interval_s(ctx.environ)  # a wrong one is said before anything is started
    view = asyncio.run(_run(ctx, request, run))
    code = report(ctx, view, run.mode) if view is not None else 0
    if done is not None and view is not None and view.state in ("done", "partly"):
        done(request["database"])
        if view.state == "partly" and not (ctx.json or ctx.quiet):
            of = f"{request['peer']} --database {request['database']}"
            print_err(
                "rows were left out, and do not come by themselves: mend what the lines above "
                f"name, then: peersync verify {of} --rows, and peersync repair {of} --from peer"
            )
    return code


async def _run(ctx: Context, request: dict[str, Any], run: Run) -> JobView | None:
    from peersync.agent.jobview import Started

    async with ctx.agent() as agent:
        if run.dry_run or not run.yes:
            planned = await agent.post(PATH, {**request, "dryRun": True}, Started)
            if not run.dry_run or not ctx.json:
                show_plan(ctx, planned.plan, _verb(request))
            if run.dry_run:
                if ctx.json:
                    emit_json(planned)
                return None
            confirm(ctx, planned.plan)
        started = await agent.post(PATH, request, Started)
        assert started.job is not None
        if run.yes:
            show_plan(ctx, started.plan, _verb(request))
        if not run.wait:
            _announce(ctx, started)
            return None
        return await follow_job(ctx, agent, started.job, run.mode)


def _announce(ctx: Context, started: Started) -> None:
    if ctx.json:
        emit_json({"session": started.job, "result": "running"})
    else:
        print_out(str(started.job))
        print_err(f"watch it: peersync jobs watch {str(started.job)[:8]}")


async def watch_job(ctx: Context, job: str, mode: str) -> JobView | None:
    """Follows a job by the beginning of its id."""
    from peersync.agent.jobview import JobView

    async with ctx.agent() as agent:
        view = await agent.get(job_path(job), JobView)
        return await follow_job(ctx, agent, view.id, mode)


async def follow_job(ctx: Context, agent: AgentClient, job: str, mode: str) -> JobView | None:
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
            said = view.error.message if view.error else "cancelled"
            print_err(f"{said[:1].upper()}{said[1:]}.")
    if error is not None:
        click.echo(as_text(error), err=True, color=None if ctx.color else False)
    return exit_code(view)


def confirm(ctx: Context, plan: Plan) -> None:
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


def _verb(request: dict[str, Any]) -> str | None:
    """Which of the commands that make a member this is; None for pull and push."""
    if not request["join"]:
        return None
    return "rebaseline" if request["anew"] else "merge" if request["merge"] else "join"


def show_plan(ctx: Context, plan: Plan, verb: str | None = None) -> None:
    if ctx.quiet or ctx.json:
        return
    for line in plan_lines(plan, verb):
        print_err(clean(line, keep="\u202f"))
