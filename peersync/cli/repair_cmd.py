"""`peersync repair`: what a verification found different is taken from one side, and proved again.

It is a verification, a full sync of exactly the tables that differ, and another verification. So
the plan, the question, the undo journal and the rules for unsent work are those of a full sync:
a row that was changed since, and that the other side has not seen, is kept.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.full_sync import PATH as SYNC_PATH
from peersync.cli.full_sync import confirm, follow_job, report, show_plan
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, print_err
from peersync.cli.verify_cmd import PATH, exit_code_of, watched
from peersync.core.errors import BadRequest
from peersync.core.names import TableName
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.jobview import JobView
    from peersync.agent.plan import Plan
    from peersync.agent.proof.view import TableProof, VerifyView
    from peersync.transport.local import AgentClient

EXIT_PARTLY: Final = 3
_AT_ONCE: Final = 100  # tables of one repair; more are a full sync of the database


@click.command()
@click.argument("peer")
@click.option(
    "--from",
    "side",
    type=click.Choice(["this", "peer"]),
    required=True,
    help="Which side is right: this server, or PEER. The other one is changed.",
)
@click.option("--database", metavar="NAME", help="Which; needed when there are several.")
@click.option("--tables", metavar="PATTERN", multiple=True, help="Only these; psql's patterns.")
@click.option("--exclude-tables", metavar="PATTERN", multiple=True, help="Not these.")
@click.option("--mirror", is_flag=True, help="Delete rows that only the wrong side has.")
@click.option("--dry-run", is_flag=True, help="Compare, show what would change, and stop there.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even if rows are overwritten.")
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
    help="How progress is shown.",
)
@click.pass_obj
def command(ctx: Context, /, peer: str, **options: Any) -> int:
    """Make the tables that differ from PEER's the same again, by the side that is right.

    Compares first, changes only tables that differ, and compares those again. Rows that are only
    on the wrong side stay without --mirror. `peersync undo` puts back what was changed.

    Exit code 0: identical now, or before; 4: rows still differ; 3: a table could not be compared;
    otherwise as `peersync pull`.
    """
    return asyncio.run(_repair(ctx, peer, **options))


async def _repair(ctx: Context, peer: str, **options: Any) -> int:
    from peersync.cli.verify_view import print_view
    from peersync.transport.local import AgentClient

    database = ctx.database_name(options["database"])
    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        before = await _compare(
            ctx, agent, peer, database, options["tables"], options["exclude_tables"]
        )
        if not ctx.json:
            print_view(before, quiet=ctx.quiet, color=ctx.color)
        wrong = [table for table in before.tables if table.result == "differs"]
        if not wrong:
            if ctx.json:
                _emit(before, None, None, None)
            return exit_code_of(before)
        if not before.matched and not ctx.json:
            print_err(
                "no membership tells what is newer: what is changed there from now on until the "
                "rows are locked is overwritten, too"
            )
        request = _request(peer, database, wrong, options)
        job = await _sync(ctx, agent, request, before, options)
        if job is None:
            return 0
        after = None
        if job.state in ("done", "partly"):
            after = await _compare(ctx, agent, peer, database, request["tables"], ())
    return _ended(ctx, job, before, after, request)


async def _sync(
    ctx: Context,
    agent: AgentClient,
    request: dict[str, Any],
    before: VerifyView,
    options: dict[str, Any],
) -> JobView | None:
    """The full sync, when it has ended; None where it was only to be shown."""
    from peersync.agent.jobview import Started

    plan = (await agent.post(SYNC_PATH, {**request, "dryRun": True}, Started)).plan
    show_plan(ctx, plan)
    if options["dry_run"]:
        if ctx.json:
            _emit(before, plan, None, None)
        return None
    if not options["yes"]:
        confirm(ctx, plan)
    started = await agent.post(SYNC_PATH, request, Started)
    assert started.job is not None
    return await follow_job(ctx, agent, started.job, options["mode"])


def _request(
    peer: str, database: str, wrong: list[TableProof], options: dict[str, Any]
) -> dict[str, Any]:
    if len(wrong) > _AT_ONCE:
        raise BadRequest(
            f"{counted(len(wrong), 'table')} differ, which is more than a repair",
            hint=f"take the database anew: peersync pull {peer}; or name tables: --tables",
        )
    return {
        "action": "pull" if options["side"] == "peer" else "push",
        "peer": peer,
        "database": database,
        "tables": [TableName(table.schema, table.name).sql for table in wrong],
        "mirror": options["mirror"],
        "requestedBy": user_name(),
    }


async def _compare(
    ctx: Context,
    agent: AgentClient,
    peer: str,
    database: str,
    tables: list[str],
    exclude: tuple[str, ...] | list[str],
) -> VerifyView:
    from peersync.agent.proof.view import VerifyView

    request = {
        "peer": peer,
        "database": database,
        "tables": list(tables),
        "excludeTables": list(exclude),
        "requestedBy": user_name(),
    }
    (view,) = await agent.post(PATH, request, list[VerifyView])
    return await watched(ctx, agent, view, values=False)


def _ended(
    ctx: Context,
    job: JobView,
    before: VerifyView,
    after: VerifyView | None,
    request: dict[str, Any],
) -> int:
    from peersync.cli.verify_view import print_view
    from peersync.cli.watch import exit_code, result

    if ctx.json:
        _emit(before, None, result(job), after)
    else:
        report(ctx, job, "none")
    if after is None:
        return exit_code(job)
    if not ctx.json:
        print_view(after, quiet=ctx.quiet, color=ctx.color)
        left = after.extra if request["action"] == "pull" else after.missing
        if left and not request["mirror"]:
            kept = counted(left, "row")
            print_err(f"{kept} only on the side that was changed: to delete them, --mirror")
    return exit_code(job) or exit_code_of(after) or _left(before)


def _left(before: VerifyView) -> int:
    """3 where more than the tables that were repaired is not known to be the same."""
    open_ = [t for t in before.tables if t.result not in ("equal", "differs") and not t.intended]
    return EXIT_PARTLY if open_ else 0


def _emit(before: VerifyView, plan: Plan | None, sync: object, after: VerifyView | None) -> None:
    emit_json(
        {
            "before": msgspec.to_builtins(before),
            "plan": msgspec.to_builtins(plan) if plan is not None else None,
            "sync": sync,
            "after": msgspec.to_builtins(after) if after is not None else None,
        }
    )
