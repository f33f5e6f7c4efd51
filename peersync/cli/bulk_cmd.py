"""`peersync bulk-sync`: every database of this node, one after the other, for people and cron.

The run is the agent's; this shows it as it goes and stops it on Ctrl-C. Owns the exit codes,
which are this command's alone (docs/exit-codes.md): cron jobs tell by them what happened.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
import msgspec

from peersync.cli.bulk_view import Lines, print_plan
from peersync.cli.context import Context
from peersync.cli.failure import as_json, as_text
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, json_text
from peersync.core.errors import BadRequest, Cancelled, NotFound, PeersyncError, root_error

if TYPE_CHECKING:
    from peersync.agent.orchestration.bulk_outcome import BulkPlan

PATH = "/api/admin/bulk-sync"
EXIT = {"success": 0, "partial": 1, "error": 1, "nothing": 2, "interrupted": 130}
EXIT_FAILED, EXIT_NOTHING, EXIT_USAGE = 1, 2, 64


class _BulkCommand(click.Command):
    """Ends with its own exit codes, whichever way it ends; 64 also for click's own errors."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        as_typed = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            context = (parent and parent.find_object(Context)) or Context()
            told = BadRequest(error.format_message(), hint="peersync bulk-sync --help")
            raise click.exceptions.Exit(
                _fail(told, context, json=context.json or "--json" in as_typed)
            ) from error

    def invoke(self, ctx: click.Context) -> Any:
        context = ctx.find_object(Context) or Context()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            told = BadRequest(error.format_message(), hint="peersync bulk-sync --help")
            return _fail(told, context, json=context.json)
        except PeersyncError as error:
            return _fail(error, context, json=context.json)
        except BaseExceptionGroup as group:
            first = root_error(group)
            if not isinstance(first, PeersyncError):
                raise
            return _fail(first, context, json=context.json)


@click.command(cls=_BulkCommand, epilog="Exit codes: docs/exit-codes.md#bulk-sync.")
@click.option(
    "--sync-type",
    type=click.Choice(["manual", "scheduled", "api"]),
    default="manual",
    show_default=True,
    help="What the records say about who wanted it.",
)
@click.option("--databases", metavar="A,B", help="Only these, with commas between.")
@click.option("--dry-run", is_flag=True, help="Show which would be synced; change nothing.")
@click.pass_obj
def command(ctx: Context, sync_type: str, databases: str | None, dry_run: bool) -> int:
    """Bring every database up to date with all its peers, one database after the other.

    Databases that are not active, demo databases and those without a peer that syncs by itself
    are skipped. One that fails does not stop the next. Ctrl-C stops the run: what was done stays
    recorded. With -q only what failed is printed, with -v each peer, too.
    """
    if ctx.quiet and ctx.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    request = {
        "databases": _names(databases),
        "syncType": sync_type,
        "dryRun": dry_run,
        "requestedBy": user_name(),
    }
    if dry_run:
        return _show_plan(ctx, asyncio.run(_plan(ctx, request)))
    from peersync.cli.bulk_watch import run_it

    lines = Lines(ctx)
    view, stopped = asyncio.run(run_it(ctx, request, lines))
    if ctx.json:
        emit_json(view)
    else:
        lines.close(view)
    if view.status == "interrupted" and not stopped:  # its agent has ended
        return EXIT_FAILED
    return EXIT[view.status]


def _names(databases: str | None) -> list[str]:
    if databases is None:
        return []
    names = [name.strip() for name in databases.split(",")]
    if not all(names):
        raise click.UsageError("--databases needs names with commas between, for example: a,b")
    return names


async def _plan(ctx: Context, request: dict[str, Any]) -> BulkPlan:
    from peersync.agent.orchestration.bulk_outcome import BulkPlan

    async with ctx.agent() as agent:
        return await agent.post(PATH, request, BulkPlan)


def _show_plan(ctx: Context, plan: BulkPlan) -> int:
    if ctx.json:
        emit_json(plan)
    else:
        print_plan(ctx, plan)
    if plan.failed:
        return EXIT_FAILED
    return 0 if plan.ready else EXIT_NOTHING


def exit_code(error: PeersyncError) -> int:
    """What this command ends with, where others end with the error's own code."""
    if isinstance(error, BadRequest | NotFound):
        return EXIT_USAGE
    return error.exit_code if isinstance(error, Cancelled) else EXIT_FAILED


def _fail(error: PeersyncError, context: Context, *, json: bool) -> int:
    code = exit_code(error)
    click.echo(as_text(error), err=True, color=None if context.color else False)
    if json:
        told = msgspec.json.decode(as_json(error))
        told["error"]["exit_code"] = code
        click.echo(json_text(told))
    return code
