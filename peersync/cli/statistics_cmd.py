"""`peersync statistics`: what the syncs of each database add up to, and over days."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.analytics_view import anomalies, cost, export, print_days
from peersync.cli.context import Context
from peersync.cli.output import (
    ago,
    clean,
    count,
    duration,
    emit_json,
    print_err,
    print_out,
    print_table,
    size,
)

if TYPE_CHECKING:
    from peersync.agent.analytics_view import Analytics
    from peersync.agent.statistics_view import (
        DatabaseStatistics,
        LastSync,
        PeerStatistics,
        Statistics,
    )

_RESULTS = ("done", "partly", "failed", "cancelled")


@click.group(invoke_without_command=True)
@click.option("--database", metavar="NAME", help="Only this one.")
@click.option("--days", metavar="N", type=click.IntRange(1, 3650), help="Also what N days had.")
@click.option("--compare", is_flag=True, help="The days with as many before; 30 without --days.")
@click.pass_context
def command(
    click_context: click.Context, database: str | None, days: int | None, compare: bool
) -> int:
    """Count tables, rows and syncs of each database; rows are the planner's estimates.

    Exit code 5 when a database does not answer.
    """
    if click_context.invoked_subcommand is not None:
        if database is not None or days is not None or compare:
            verb = click_context.invoked_subcommand
            raise click.UsageError(f"options go behind it: peersync statistics {verb} …")
        return 0
    ctx = click_context.ensure_object(Context)
    name = ctx.database_name(database) if database is not None else None
    over = days or (30 if compare else None)
    told, found = asyncio.run(_ask(ctx, name, over))
    if ctx.json:
        more = {"analytics": msgspec.to_builtins(found)} if found is not None else {}
        emit_json({**msgspec.to_builtins(told), **more})
    else:
        _print(ctx, told)
        if found is not None:
            print_days(ctx, found, compare=compare)
    problems = [d.problem for d in (*told.databases, *(found.databases if found else ()))]
    return 5 if any(problems) else 0


command.add_command(export)
command.add_command(anomalies)
command.add_command(cost)


async def _ask(
    ctx: Context, database: str | None, days: int | None
) -> tuple[Statistics, Analytics | None]:
    from peersync.agent.analytics_view import Analytics
    from peersync.agent.statistics_view import Statistics

    params = {"database": database} if database is not None else {}
    async with ctx.agent() as agent:
        told = await agent.get("/api/sync/statistics", Statistics, params=params)
        if days is None:
            return told, None
        asked = {**params, "days": str(days)}
        return told, await agent.get("/api/admin/statistics", Analytics, params=asked)


def _print(ctx: Context, told: Statistics) -> None:
    now = datetime.now(UTC)
    print_table(
        ("database", "state", "tables", "rows (est.)", "size", "last sync", "result", "took"),
        [_database_row(d, now) for d in told.databases],
        color=ctx.color,
    )
    for d in told.databases:
        if d.problem:
            print_err(f"database {d.database}: {clean(d.problem)}")
        elif d.tables_not_analyzed:
            print_err(
                f"database {d.database}: {d.tables_not_analyzed} of {d.tables} tables were never "
                "analyzed; their rows are not in the estimate"
            )
    rows = [_peer_row(d.database, peer, now) for d in told.databases for peer in d.peers]
    if rows:
        print_out("")
        print_table(
            ("what", "last sync", *_RESULTS, "rows", "raw", "wire", "took"), rows, color=ctx.color
        )


def _database_row(d: DatabaseStatistics, now: datetime) -> tuple[object, ...]:
    state = d.state.replace("_", " ")
    return (
        d.database,
        state,
        d.tables,
        count(d.rows_estimated) if d.rows_estimated is not None else None,
        size(d.size_bytes) if d.size_bytes is not None else None,
        _last(d.last_sync, now, peer=True),
        d.last_sync.result if d.last_sync else None,
        duration(d.last_sync.seconds) if d.last_sync else None,
    )


def _peer_row(database: str, peer: PeerStatistics, now: datetime) -> tuple[object, ...]:
    arrow = "◀──" if peer.role == "target" else "──▶"
    totals = peer.totals
    return (
        f"{database} {arrow} {peer.peer}",
        _last(peer.last_sync, now),
        *(peer.results[name] for name in _RESULTS),
        count(totals.rows),
        size(totals.raw_bytes),
        size(totals.wire_bytes),
        duration(totals.seconds),
    )


def _last(last: LastSync | None, now: datetime, *, peer: bool = False) -> str:
    if last is None:
        return "never"
    when = ago(datetime.fromisoformat(last.at), now)
    return f"{when}, {last.peer}" if peer else when
