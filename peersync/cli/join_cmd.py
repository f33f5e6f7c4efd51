"""`peersync join`, `merge`, `rebaseline`, `leave`: which databases are kept in step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from peersync.cli.context import Context
from peersync.cli.full_sync import full_sync, join_options
from peersync.cli.options import database_option
from peersync.cli.output import emit_json, print_err
from peersync.cli.seconds import Seconds
from peersync.core.errors import PeersyncError

_ONE_WAY = (
    click.option(
        "--receive-only",
        "direction",
        flag_value="receive",
        help="Rows come here, and what is changed here goes to nobody: the next change that comes "
        "for a row takes its place, and what it had here is kept as a conflict.",
    ),
    click.option(
        "--give-only",
        "direction",
        flag_value="give",
        help="What is changed here is sent, and no change comes here after the first full sync.",
    ),
)


def one_way_options(function: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_ONE_WAY):
        function = option(function)
    return function


@click.command()
@join_options
@click.option("--mirror", is_flag=True, help="Delete rows that only this server has.")
@one_way_options
@click.pass_obj
def join(ctx: Context, /, **options: Any) -> int:
    """Take PEER's database, and keep both in step from then on.

    A full sync, after which every change on either server is sent to the other, and to all that
    have joined. Changes that are made here while it runs stay, and are sent.
    """
    return full_sync(ctx, "pull", {**options, "join": True}, done=_in_step(ctx))


@click.command()
@join_options
@click.pass_obj
def merge(ctx: Context, /, **options: Any) -> int:
    """Like join, where both servers have data already.

    Rows that only PEER has come here, rows that only this server has are sent to PEER and to all
    that have joined. Of rows that both have and that differ, PEER's are taken (peersync undo puts
    them back).
    """
    wanted = {**options, "join": True, "merge": True}
    return full_sync(ctx, "pull", wanted, done=_in_step(ctx))


@click.command()
@join_options
@click.option(
    "--both-ways",
    "direction",
    flag_value="both",
    help="Of a one-way database: from now on rows go both ways.",
)
@click.pass_obj
def rebaseline(ctx: Context, /, **options: Any) -> int:
    """Take everything anew from PEER, and go on: after a restored backup, or too long an absence.

    Rows that only this server has are deleted, unless they are changes that it has not sent:
    those are sent now. Where the others have a newer change of the same row, theirs stays, and
    this server's is kept as an open conflict (peersync conflicts list --open).

    It is also how a one-way database comes to give and take again, with --both-ways. What was
    changed in one that only received counts as not sent.
    """
    wanted = {**options, "join": True, "anew": True, "mirror": True}
    return full_sync(ctx, "pull", wanted, done=_in_step(ctx))


@click.command()
@database_option
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(0, 240),
    default=60.0,
    show_default=True,
    metavar="S",
    help="How long the others are waited for.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also if changes of this server were not fetched yet.")
@click.pass_obj
def leave(ctx: Context, database: str | None, timeout_s: float, yes: bool, force: bool) -> int:
    """Stop keeping this database in step: its rows stay, its changes are not sent any more."""
    from peersync.agent.periodic.leaving import Left

    name = ctx.database_name(database)
    if not yes:
        ctx.refuse_unattended()
        question = f"Keep {name} of this server in step with the others no more?"
        click.confirm(question, abort=True, err=True)

    async def ask() -> Left:
        async with ctx.agent() as agent:
            body = {"database": name, "timeoutS": timeout_s, "force": force}
            return await agent.post("/api/admin/periodic/leave", body, Left)

    left = asyncio.run(ask())
    if ctx.json:
        emit_json(left)
    elif not ctx.quiet:
        print_err(f"{name} of this server is on its own now; its rows are as they were.")
        if left.behind:
            print_err(f"{', '.join(left.behind)} did not get all changes of this server.")
    return 0


def _in_step(ctx: Context) -> Callable[[str], None]:
    """What is said after a join that went well."""

    def say(database: str) -> None:
        if ctx.json or ctx.quiet:
            return
        print_err(f"{database} is kept in step from now on: peersync status")
        if _may_collide(ctx, database):
            print_err(
                "two servers may draw the same key from a sequence: "
                f"peersync sequences plan --database {database}"
            )

    return say


def _may_collide(ctx: Context, database: str) -> bool:
    """False where that could not be asked: `peersync status` warns of it as well."""
    from peersync.cli.asking import get
    from peersync.postgres.log.sequence_views import SequencesCheck

    try:
        found = get(ctx, "/api/admin/sequences/check", SequencesCheck, database=database)
    except PeersyncError:
        return False
    return any(one.problem for one in found.sequences)
