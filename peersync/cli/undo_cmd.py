"""`peersync undo`: puts back what a full sync has changed here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.names import job_path
from peersync.cli.output import clean, emit_json, indented, print_err, print_out, print_table
from peersync.core.errors import BadRequest, Cancelled
from peersync.core.undo import UndoReport

if TYPE_CHECKING:
    from peersync.transport.local import AgentClient


@click.command()
@click.argument("session")
@click.option("--dry-run", is_flag=True, help="Say what would be put back, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(ctx: Context, session: str, dry_run: bool, yes: bool) -> int:
    """Put back the rows that the full sync SESSION has overwritten, deleted or inserted here.

    Rows that were changed since then are newer: they are listed, and stay as they are.
    """
    return asyncio.run(_undo(ctx, session, dry_run=dry_run, yes=yes))


async def _undo(ctx: Context, session: str, *, dry_run: bool, yes: bool) -> int:
    async with ctx.agent() as agent:
        if not yes and not dry_run:
            planned = await _ask(agent, session, dry_run=True)
            _print(ctx, planned)
            _confirm(ctx)
        report = await _ask(agent, session, dry_run=dry_run)
    if ctx.json:
        emit_json(report)
    else:
        _print(ctx, report)
    return 0 if report.complete else EXIT_PARTLY


async def _ask(agent: AgentClient, session: str, *, dry_run: bool) -> UndoReport:
    return await agent.post(job_path(session, "undo"), {"dryRun": dry_run}, UndoReport)


def _confirm(ctx: Context) -> None:
    if not ctx.interactive:
        raise BadRequest(
            "rows would be changed, and nobody is there to ask",
            hint="Look at it with --dry-run, then repeat it with --yes.",
        )
    if not click.confirm("Put these rows back?", err=True):
        raise Cancelled("nothing was changed")


def _print(ctx: Context, report: UndoReport) -> None:
    if ctx.quiet or ctx.json:
        return
    rows = [
        (f"{t.schema}.{t.name}", t.restored, t.reinserted, t.deleted, t.newer)
        for t in report.tables
    ]
    print_table(
        ("table", "put back", "inserted again", "taken away", "newer, kept"), rows, color=ctx.color
    )
    for table in report.tables:
        name = f"{table.schema}.{table.name}"
        if table.error:
            print_err(f"{name}: left as it is: {indented(table.error)}")
        if table.newer:
            keys = ", ".join(clean(key) for key in table.newer_keys)
            more = "…" if table.newer > len(table.newer_keys) else ""
            print_err(f"{name}: changed since the sync, kept: {keys}{more}")
    for created in report.created:
        print_err(f"stays: {clean(created)}, which the sync created")
    if report.dry_run:
        print_out("Nothing was changed: this was a dry run.")
    elif any(table.error for table in report.tables):
        print_out("Undone in part: mend what is said above, and undo it again.")
    else:
        print_out("Undone.")
