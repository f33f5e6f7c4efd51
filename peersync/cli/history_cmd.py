"""`peersync history`: the syncs of this node, newest first; and how their records are cleared."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import (
    clean,
    count,
    duration,
    emit_json,
    print_err,
    print_out,
    print_table,
    size,
)
from peersync.core.session import State
from peersync.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peersync.agent.jobview import JobView
    from peersync.agent.script_api import ClearedHistory

PATH = "/api/sync/history"


@click.group(invoke_without_command=True)
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--database", metavar="NAME", help="Only the syncs of this one.")
@click.option("--state", type=click.Choice([s.value for s in State]), help="Only those like this.")
@click.pass_context
def command(
    click_context: click.Context, limit: int, database: str | None, state: str | None
) -> None:
    """List the full syncs that this node took or gave, newest first."""
    if click_context.invoked_subcommand is not None:
        return
    ctx = click_context.ensure_object(Context)
    name = ctx.database_name(database) if database is not None else None
    views = asyncio.run(fetch(ctx, limit, database=name, state=state))
    if ctx.json:
        emit_json({"sessions": views})
    elif not views and (name is not None or state is not None):
        print_out("There is no such sync.")
    else:
        print_views(ctx, views)


@command.command()
@click.option("--database", metavar="NAME", help="Only the records of this one.")
@click.option("--keep-latest", is_flag=True, help="Keep the newest ended sync with each peer.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def clear(ctx: Context, database: str | None, keep_latest: bool, yes: bool) -> int:
    """Forget the syncs that have ended, and what links did. No table of yours is touched.

    What runs stays, and so does the newest sync from each peer. A sync that is forgotten
    cannot be resumed or undone any more.
    """
    name = ctx.database_name(database) if database is not None else None
    if not yes:
        ctx.refuse_unattended()
        click.confirm(f"Forget the ended syncs of {name or 'all databases'}?", abort=True, err=True)
    told = asyncio.run(_clear(ctx, name, keep_latest=keep_latest))
    if ctx.json:
        emit_json(msgspec.structs.asdict(told))
    else:
        if not ctx.quiet:
            print_err(f"{told.deleted} forgotten, {told.kept} ended ones kept")
            if told.complete_syncs or told.set_runs or told.link_samples:
                print_err(
                    f"also {counted(told.complete_syncs, 'complete sync')},"
                    f" {counted(told.set_runs, 'run')} of table sets,"
                    f" {counted(told.link_samples, 'sample')} of links"
                )
        for where, problem in told.problems.items():
            print_err(f"database {where}: {clean(problem)}")
    return 5 if told.problems else 0


async def fetch(
    ctx: Context, limit: int, *, database: str | None = None, state: str | None = None
) -> list[JobView]:
    from peersync.agent.jobview import JobView

    asked = {"limit": str(limit), "database": database, "state": state}
    params = {name: value for name, value in asked.items() if value is not None}
    async with ctx.agent() as agent:
        return await agent.get(PATH, list[JobView], params=params)


async def _clear(ctx: Context, database: str | None, *, keep_latest: bool) -> ClearedHistory:
    from peersync.agent.script_api import ClearedHistory

    query = {"keep_latest": str(keep_latest).lower()}
    if database is not None:
        query["database"] = database
    async with ctx.agent() as agent:
        return await agent.delete(PATH, ClearedHistory, params=query)


def print_views(ctx: Context, views: Sequence[JobView]) -> None:
    """One line a session."""
    from peersync.cli.watch import elapsed_s

    if not views:
        print_out("No full sync yet. Start one: peersync pull PEER")
        return
    rows = []
    for view in views:
        progress = view.progress
        arrow = "◀──" if view.role == "target" else "──▶"
        rows.append(
            (
                view.id[:8],
                f"{datetime.fromisoformat(view.started_at):%Y-%m-%d %H:%M:%S}",
                f"{view.database} {arrow} {view.peer}",
                view.state,
                count(progress.rows) if progress else None,
                size(progress.wire_bytes) if progress else None,
                duration(took) if (took := elapsed_s(view)) is not None else None,
                view.requested_by,
            )
        )
    print_table(
        ("job", "started (utc)", "what", "result", "rows", "wire", "took", "by"),
        rows,
        color=ctx.color,
    )
