"""`peersync statistics`: what the syncs of each database add up to."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

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
    from peersync.agent.statistics import DatabaseStatistics, LastSync, PeerStatistics, Statistics

_RESULTS = ("done", "partly", "failed", "cancelled")


@click.command()
@click.option("--database", metavar="NAME", help="Only this one.")
@click.pass_obj
def command(ctx: Context, database: str | None) -> int:
    """Count tables, rows and syncs of each database; rows are the planner's estimates.

    Exit code 5 when a database does not answer.
    """
    name = ctx.database_name(database) if database is not None else None
    told = asyncio.run(_ask(ctx, name))
    if ctx.json:
        emit_json(msgspec.to_builtins(told))
    else:
        _print(ctx, told)
    return 5 if any(d.problem for d in told.databases) else 0


async def _ask(ctx: Context, database: str | None) -> Statistics:
    from peersync.agent.statistics import Statistics
    from peersync.transport.local import AgentClient

    params = {"database": database} if database is not None else {}
    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        return await agent.get("/api/sync/statistics", Statistics, params=params)


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
