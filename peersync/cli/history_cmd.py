"""`peersync history`: the syncs of this node, newest first."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.output import count, duration, emit_json, print_out, print_table, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peersync.agent.jobview import JobView


@click.command()
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.pass_obj
def command(ctx: Context, limit: int) -> None:
    """List the full syncs that this node took or gave."""
    views = asyncio.run(fetch(ctx, limit))
    if ctx.json:
        emit_json({"sessions": views})
    else:
        print_views(ctx, views)


async def fetch(ctx: Context, limit: int) -> list[JobView]:
    from peersync.agent.jobview import JobView
    from peersync.transport.local import AgentClient

    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        return await agent.get("/api/sync/history", list[JobView], params={"limit": str(limit)})


def print_views(ctx: Context, views: Sequence[JobView]) -> None:
    """One line a session."""
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
                duration(max(view.seconds.values(), default=0.0)),
                view.requested_by,
            )
        )
    print_table(
        ("job", "started (utc)", "what", "result", "rows", "wire", "took", "by"),
        rows,
        color=ctx.color,
    )
