"""`peersync status`: one sentence, then what it rests on."""

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
    emit_json,
    flat,
    indented,
    print_err,
    print_out,
    print_table,
)
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.proof.view import KeptView
    from peersync.agent.status_view import LinkStatus, Status


@click.command()
@click.pass_obj
def command(ctx: Context) -> int:
    """Say in one sentence whether everything is fine. Exit code 1 when it is not."""

    status = asyncio.run(_ask(ctx))
    if ctx.json:
        emit_json(status)
    else:
        _print(ctx, status)
    return 0 if status.fine else 1


async def _ask(ctx: Context) -> Status:
    from peersync.agent.status_view import Status

    async with ctx.agent() as agent:
        return await agent.get("/api/admin/status", Status)


def _print(ctx: Context, status: Status) -> None:
    from peersync.cli.progress import one_line

    now = datetime.now(UTC)
    print_out(f"{clean(status.sentence)}   {now:%H:%M:%S} UTC")
    if ctx.quiet:
        return
    for database in status.databases:
        if not database.reachable:
            print_err(f"database {database.name}: {indented(database.problem or '')}")
        for warning in database.warnings:
            print_err(f"warning: {database.name}: {indented(warning)}")
        if database.kept is not None:
            print_out(f"{database.name}: {_kept(database.kept, now)}")
    for warning in status.warnings:
        print_err(f"warning: {indented(warning)}")
    if status.links:
        print_out("")
        print_table(
            ("database", "peer", "state", "last sync", "verified", "what now"),
            [
                (
                    link.database,
                    link.peer,
                    link.state,
                    _last(link, now),
                    _verified(link, now),
                    flat(link.hint or link.problem or "") or None,
                )
                for link in status.links
            ],
            color=ctx.color,
        )
        for link in status.links:
            if link.problem:
                print_err(f"{link.database}, {link.peer}: {indented(link.problem)}")
            if link.periodic is not None and link.periodic.direction in LINKS:
                words = LINKS[link.periodic.direction].format(peer=clean(link.peer))
                print_out(f"{link.database}, {clean(link.peer)}: {words}")
    for progress in status.running:
        print_out(one_line(progress))
    for progress in status.giving:
        print_out(one_line(progress, giving=True))


def _verified(link: LinkStatus, now: datetime) -> str | None:
    """ "identical 2 h ago", "differs since 3 d ago"; None where it never was."""
    proof = link.proof
    if proof is None:
        return None
    if proof.differs_since is not None:
        return f"differs since {_when(proof.differs_since, now)}"
    if proof.proved_at is not None:
        left = f", {proof.not_compared} tables not compared" if proof.not_compared else ""
        return f"identical {_when(proof.proved_at, now)}{left}"
    return f"not proved {_when(proof.checked_at, now)}"


def _kept(kept: KeptView, now: datetime) -> str:
    """ "kept digests: 3 of 4 tables, 12 of 700 blocks to be read, the oldest read 3 d ago"."""
    if not kept.tables:
        words = "none yet: peersync verify asks for them"
    else:
        words = f"{kept.complete} of {counted(kept.tables, 'table')}"
        if kept.complete < kept.tables or kept.changed:
            words += f", {kept.changed + kept.unread} of {counted(kept.blocks, 'block')} to be read"
        if kept.up_to_date_at is not None:
            words += f", as of {_when(kept.up_to_date_at, now)}"
        if kept.oldest_at is not None:
            words += f", the oldest read {_when(kept.oldest_at, now)}"
    problem = f" ({flat(kept.problem)})" if kept.problem else ""
    return f"kept digests: {words}{problem}"


def _when(then: str, now: datetime) -> str:
    return ago(datetime.fromisoformat(then), now)


def _last(link: LinkStatus, now: datetime) -> str:
    """ "3 min ago", "given 3 min ago", or both."""
    parts = []
    if link.last_sync:
        parts.append(ago(datetime.fromisoformat(link.last_sync), now))
    if link.last_given:
        given = ago(datetime.fromisoformat(link.last_given), now)
        parts.append(f"given {'just now' if given == 'now' else given}")
    return ", ".join(parts) or "never"
