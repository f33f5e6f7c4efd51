"""`peersync lag`: how far each link of periodic sync is, both ways."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.direction import LINKS
from peersync.cli.output import (
    ago,
    clean,
    count,
    duration,
    emit_json,
    flat,
    indented,
    print_err,
    print_out,
    print_table,
)

if TYPE_CHECKING:
    from peersync.agent.periodic.answers import Lag, LinkView


@click.command()
@click.option("--database", metavar="NAME", help="Only this one.")
@click.pass_obj
def command(ctx: Context, database: str | None) -> int:
    """Show what each side of each link has yet to apply, and how old it is.

    Every peer is asked for its position. Exit code 1 when a link is not in sync or syncing; one
    that was expired is listed, and counts as fine.
    """

    from peersync.agent.periodic.answers import FINE

    lag = asyncio.run(_ask(ctx, ctx.database_name(database) if database else None))
    if ctx.json:
        emit_json(lag)
    elif lag.links:
        _print(ctx, lag.links)
    elif not ctx.quiet:
        print_err("no database of this node takes part in periodic sync")
    return 0 if all(link.state in FINE for link in lag.links) else 1


async def _ask(ctx: Context, database: str | None) -> Lag:
    from peersync.agent.periodic.answers import Lag

    params = {"database": database} if database else None
    async with ctx.agent() as agent:
        return await agent.get("/api/admin/sync/lag", Lag, params=params)


def _print(ctx: Context, links: list[LinkView]) -> None:
    now = datetime.now(UTC)
    rows = [
        (
            link.database,
            link.peer,
            link.state,
            _amount(link.to_take, link.lag_s),
            _amount(link.to_give, link.peer_lag_s),
            ago(datetime.fromisoformat(link.last_contact) if link.last_contact else None, now),
            flat(link.hint or "") or None,
        )
        for link in links
    ]
    columns = ("database", "peer", "state", "to take", "to give", "last contact", "what now")
    print_table(columns, rows, color=ctx.color)
    if ctx.quiet:
        return
    for link in links:
        if link.problem:
            print_err(f"{link.database}, {link.peer}: {indented(link.problem)}")
        if link.direction in LINKS:
            words = LINKS[link.direction].format(peer=clean(link.peer))
            print_out(f"{link.database}, {clean(link.peer)}: {words}")
    if {link.state for link in links} - {"expired"} == {"in sync"}:
        print_out("")
        of = "" if all(link.direction == "both" for link in links) else " and gives it"
        print_out(f"Each side has applied everything that the other has{of}.")


def _amount(changes: int | None, age_s: float | None) -> str | None:
    """ "12, 0.4 s": so many changes, the oldest of that age."""
    if changes is None:
        return None
    age = f", {duration(age_s)}" if changes and age_s is not None else ""
    return count(changes) + age
