"""`peersync repair`: what a verification found different is taken from one side, and proved again.

The agent does it: a verification, a full sync of exactly the tables that differ, and another
verification. Here it is asked for, shown before it changes anything, watched, and told. Closing
the window stops nothing.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.full_sync import confirm, follow_job, report, show_plan
from peersync.cli.names import user_name
from peersync.cli.options import database_option
from peersync.cli.output import clean, emit_json, flat, print_err, print_table
from peersync.cli.verify_cmd import exit_code_of
from peersync.core.errors import BadRequest, PeersyncError, error_class
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.jobview import JobView
    from peersync.agent.proof.repair_view import RepairView
    from peersync.agent.proof.view import VerifyView
    from peersync.transport.local import AgentClient

PATH: Final = "/api/admin/repair"
LOOK_S: Final = 0.25


@click.command()
@click.argument("peer", required=False)
@click.option(
    "--from",
    "side",
    type=click.Choice(["this", "peer"]),
    help="Which side is right: this server, or PEER. The other one is changed.",
)
@database_option
@click.option("--tables", metavar="PATTERN", multiple=True, help="Only these; psql's patterns.")
@click.option("--exclude-tables", metavar="PATTERN", multiple=True, help="Not these.")
@click.option("--mirror", is_flag=True, help="Delete rows that only the wrong side has.")
@click.option("--dry-run", is_flag=True, help="Compare, show what would change, and stop there.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even if rows are overwritten.")
@click.option("--list", "listed", is_flag=True, help="List the repairs, newest first.")
@click.option("--show", metavar="ID", help="Show one; the beginning of the id is enough.")
@click.option("--apply", metavar="ID", help="Go on with one that --dry-run has planned.")
@click.option("--cancel", metavar="ID", help="Stop one. What is written by then is told.")
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown.",
)
@click.pass_obj
def command(ctx: Context, /, peer: str | None, **options: Any) -> int:
    """Make the tables that differ from PEER's the same again, by the side that is right.

    Compares first, changes only tables that differ, and compares those again. Rows that are only
    on the wrong side stay without --mirror. `peersync undo` puts back what was changed.

    Exit code 0: identical now, or before; 4: rows still differ; 3: a table could not be compared;
    otherwise as `peersync pull`.
    """
    asked = [name for name in ("listed", "show", "apply", "cancel") if options[name]]
    if len(asked) + (peer is not None) != 1:
        raise BadRequest(
            "repair with which peer?", hint="peersync repair PEER --from this|peer, or --list"
        )
    if options["listed"]:
        return _list(ctx, options["database"])
    if peer is not None and options["side"] is None:
        raise BadRequest("which side is right?", hint="--from this, or: --from peer")
    return asyncio.run(_repair(ctx, peer, **options))


def _list(ctx: Context, database: str | None) -> int:
    from peersync.agent.proof.repair_view import RepairView
    from peersync.cli.asking import get

    name = ctx.database_name(database) if database is not None else None
    views = get(ctx, PATH, list[RepairView], database=name)
    if ctx.json:
        emit_json({"repairs": views})
        return 0
    rows = [
        (
            v.id[:8], f"{datetime.fromisoformat(v.started_at):%Y-%m-%d %H:%M:%S}", v.database,
            v.peer, v.side, v.state, v.session[:8] if v.session else None, v.requested_by,
        )
        for v in views
    ]  # fmt: skip
    columns = ("id", "started (utc)", "database", "peer", "from", "state", "sync", "by")
    print_table(columns, rows, color=ctx.color)
    return 0


async def _repair(ctx: Context, peer: str | None, **options: Any) -> int:
    from peersync.agent.proof.repair_view import RepairView

    async with ctx.agent() as agent:
        if options["cancel"]:
            view = await agent.post(f"{PATH}/{options['cancel']}/cancel", {}, RepairView)
            return _stopped(ctx, view)
        if options["show"]:
            view = await agent.get(f"{PATH}/{options['show']}", RepairView)
        elif options["apply"]:
            view = await agent.get(f"{PATH}/{options['apply']}", RepairView)
            return await _written(ctx, agent, view, options)
        else:
            assert peer is not None
            request = {
                "peer": peer,
                "database": ctx.database_name(options["database"]),
                "from": options["side"],
                "tables": list(options["tables"]),
                "excludeTables": list(options["exclude_tables"]),
                "mirror": options["mirror"],
                "dryRun": True,
                "requestedBy": user_name(),
            }
            view = await _planned(ctx, agent, await agent.post(PATH, request, RepairView))
            _show_before(ctx, view)
            if view.state != "planned" or options["dry_run"]:
                if view.state == "planned" and not ctx.json:
                    print_err(f"to do so: peersync repair --apply {view.id[:8]}")
                return _told(ctx, view, None)
            return await _written(ctx, agent, view, options)
    _show_before(ctx, view)
    return _told(ctx, view, None)


async def _planned(ctx: Context, agent: AgentClient, view: RepairView) -> RepairView:
    """Until both sides were compared."""
    from peersync.cli.verify_view import Line

    try:
        with Line(quiet=ctx.quiet or ctx.json) as line:
            while view.state == "comparing":
                if view.before is not None:
                    line.show(view.before)
                await asyncio.sleep(LOOK_S)
                view = await agent.get(f"{PATH}/{view.id}", type(view))
    except asyncio.CancelledError:
        await agent.post(f"{PATH}/{view.id}/cancel", {}, type(view))
        raise
    return view


async def _written(
    ctx: Context, agent: AgentClient, view: RepairView, options: dict[str, Any]
) -> int:
    """Asks, goes on, and follows to the end."""
    if not options["yes"] and view.plan is not None:
        try:
            confirm(ctx, view.plan)
        except PeersyncError:
            if not options["apply"]:
                await agent.post(f"{PATH}/{view.id}/cancel", {}, type(view))
            raise
    view = await agent.post(f"{PATH}/{view.id}/apply", {}, type(view))
    job: JobView | None = None
    while view.completed_at is None:
        if job is None and view.session is not None:
            mode = "none" if ctx.json else options["mode"]
            job = await follow_job(ctx, agent, view.session, mode)
            if job is None:  # the window goes on elsewhere
                return 0
        await asyncio.sleep(LOOK_S)
        view = await agent.get(f"{PATH}/{view.id}", type(view))
    if job is None and view.session is not None:
        job = await follow_job(ctx, agent, view.session, "none")
    return _told(ctx, view, job)


# --- what is shown --------------------------------------------------------------------------
def _show_before(ctx: Context, view: RepairView) -> None:
    """Which rows differ, what would be done, and what nobody can know."""
    from peersync.cli.verify_view import print_view

    if ctx.json:
        return
    if view.before is not None:
        print_view(view.before, quiet=ctx.quiet, color=ctx.color)
    for name, why in view.left_out:
        print_err(f"not repaired: {clean(name)}: {flat(why)}")
    if view.plan is not None and view.state == "planned":
        show_plan(ctx, view.plan)
    for warning in view.warnings:
        print_err(f"WARNING: {flat(warning)}")


def _told(ctx: Context, view: RepairView, job: JobView | None) -> int:
    """How it ended; gives the exit code."""
    from peersync.cli.verify_view import print_view
    from peersync.cli.watch import exit_code, result

    if ctx.json:
        _emit(view, result(job) if job is not None else None)
    elif job is not None:
        report(ctx, job, "none")
    if view.state == "planned":
        return 0
    if view.after is not None and not ctx.json:
        print_view(view.after, quiet=ctx.quiet, color=ctx.color)
        left = view.after.extra if view.side == "peer" else view.after.missing
        if left and not view.mirror:
            kept = counted(left, "row")
            print_err(f"{kept} only on the side that was changed: to delete them, --mirror")
    if view.error is not None:
        if not ctx.json and (job is None or job.error is None):
            print_err(f"{view.state}: {flat(view.error.message)}")
        return error_class(view.error.code).exit_code
    code = exit_code(job) if job is not None else 0
    last = view.after or view.before
    return code or (exit_code_of(last) if last is not None else 0) or _left(view)


def _stopped(ctx: Context, view: RepairView) -> int:
    if ctx.json:
        _emit(view, None)
    else:
        print_err(f"{view.id[:8]} is {view.state}")
    return 0


def _left(view: RepairView) -> int:
    """3 where more than the tables that were repaired is not known to be the same."""
    return EXIT_PARTLY if view.state == "partly" else 0


def _emit(view: RepairView, sync: object) -> None:
    emit_json(
        {
            **msgspec.to_builtins(view),
            "before": _builtins(view.before),
            "plan": msgspec.to_builtins(view.plan) if view.state == "planned" else None,
            "sync": sync,
            "after": _builtins(view.after),
        }
    )


def _builtins(view: VerifyView | None) -> object:
    return msgspec.to_builtins(view) if view is not None else None
