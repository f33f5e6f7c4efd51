"""`peersync sync`: periodic sync by hand, and full syncs as scripts start them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.options import database_option
from peersync.cli.output import clean, duration, emit_json, indented, print_err, print_out
from peersync.cli.seconds import Seconds
from peersync.core.errors import Locked, NotFound, PeerUnreachable

if TYPE_CHECKING:
    from peersync.agent.periodic.answers import NowAnswer, PausedLinks
    from peersync.agent.safe import SafeAnswer

PATH = "/api/sync/safe"
PROVED = {
    "receive": "one-way: this side has everything of {peer}, and gives nothing of its own",
    "give": "one-way: {peer} has everything of this side, and gives nothing of its own",
    "none": "neither side gives anything",
}


@click.group()
def command() -> None:
    """Send and take changes now, pause a link, or start a full sync from a script."""


@command.command()
@click.argument("peer")
@database_option
@click.option("--action", type=click.Choice(["pull", "push"]), default="pull", show_default=True)
@click.option("--key", metavar="KEY", help="Repeated within a day, the same key starts nothing.")
@click.option("--no-compress", is_flag=True, help="Send the rows as they are.")
@click.option("--no-verify", is_flag=True, help="Skip the last comparison; digests are checked.")
@click.option("--no-wait", is_flag=True, help="Start it, print its id, and leave it running.")
@click.pass_obj
def safe(
    ctx: Context,
    peer: str,
    database: str | None,
    action: str,
    key: str | None,
    no_compress: bool,
    no_verify: bool,
    no_wait: bool,
) -> int:
    """Sync a database with PEER, unless a sync of it is running: then exit code 6.

    Rows that differ are overwritten without a question, as with `pull --yes`.
    """
    from peersync.cli.full_sync import report, watch_job

    request = {
        "action": action,
        "peer": peer,
        "database": ctx.database_name(database),
        "compress": not no_compress,
        "verify": not no_verify,
        "requestedBy": user_name(),
    }
    answer = asyncio.run(_ask(ctx, request, key))
    if answer.job is None:
        return _skipped(ctx, answer)
    if not no_wait:
        return report(ctx, asyncio.run(watch_job(ctx, answer.job, "auto")), "auto")
    if ctx.json:
        emit_json(answer)
    else:
        print_out(answer.job)
        print_err(f"watch it: peersync jobs watch {answer.job[:8]}")
    return 0


@command.command()
@click.argument("peer", required=False)
@click.option("--database", metavar="NAME", help="Only this one.")
@click.option("--wait", is_flag=True, help="Until both sides have what was committed before.")
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(0.1, 86_400),
    default=60.0,
    show_default=True,
    metavar="S",
    help="With --wait: seconds for each link.",
)
@click.pass_obj
def now(ctx: Context, peer: str | None, database: str | None, wait: bool, timeout_s: float) -> int:
    """Send and take changes now, with PEER or with all.

    With --wait exit code 0 is a proof: on every link that is not paused both sides have applied
    what the other had committed before this began. 3: they have, but some of it could not be
    written and is in quarantine; or every link is paused. 5: not in time. 1: a link has failed.
    """
    request = {
        "peer": peer,
        "database": ctx.database_name(database) if database else None,
        "wait": wait,
        "timeoutS": timeout_s,
    }
    answer = asyncio.run(_now(ctx, request))
    if not answer.links:
        raise NotFound(
            "no database of this node takes part in periodic sync"
            + (f" with {peer}" if peer else ""),
            hint="peersync lag shows the links that there are",
        )
    if ctx.json:
        emit_json(answer)
    else:
        _print_proofs(ctx, answer)
    return {"done": 0, "partly": 3, "timeout": PeerUnreachable.exit_code}.get(answer.result, 1)


@command.command()
@click.argument("peer", required=False)
@click.option("--database", metavar="NAME", help="Only this one.")
@click.pass_obj
def pause(ctx: Context, peer: str | None, database: str | None) -> None:
    """Exchange no changes with PEER, or with any, until `sync resume`.

    Both directions stop. What is changed meanwhile is kept on both sides.
    """
    _set_paused(ctx, peer, database, paused=True)


@command.command()
@click.argument("peer", required=False)
@click.option("--database", metavar="NAME", help="Only this one.")
@click.pass_obj
def resume(ctx: Context, peer: str | None, database: str | None) -> None:
    """Go on with what `sync pause` has stopped."""
    _set_paused(ctx, peer, database, paused=False)


@command.command()
@click.argument("direction", type=click.Choice(["receive", "give", "both"]), required=False)
@database_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def direction(ctx: Context, direction: str | None, database: str | None, yes: bool) -> None:
    """Make this database one-way: it only receives, or it only gives. Without a word: how it is.

    \b
    receive  changes come here; what is changed here goes to nobody. The next change that comes
             for a row takes its place; what it had here is kept as a conflict.
    give     changes are sent; none comes here. Nothing is passed on from others either.

    It holds for all links of the database. The way back is `peersync rebaseline PEER --both-ways`.
    """
    from peersync.cli.direction import set_direction, show_direction

    name = ctx.database_name(database)
    if direction is None:
        show_direction(ctx, name)
    else:
        set_direction(ctx, name, direction, yes=yes)


def _set_paused(ctx: Context, peer: str | None, database: str | None, *, paused: bool) -> None:
    from peersync.agent.periodic.answers import PausedLinks

    request = {
        "paused": paused,
        "peer": peer,
        "database": ctx.database_name(database) if database else None,
        "requestedBy": user_name(),
    }

    async def ask() -> PausedLinks:
        async with ctx.agent() as agent:
            return await agent.post("/api/admin/sync/pause", request, PausedLinks)

    answer = asyncio.run(ask())
    if not answer.links:
        raise NotFound("there is no such link", hint="peersync lag shows those that there are")
    if ctx.json:
        emit_json(answer)
    elif not ctx.quiet:
        for name, other in answer.links:
            print_err(f"{name}, {other}: {'paused' if paused else 'goes on'}")


async def _now(ctx: Context, request: dict[str, Any]) -> NowAnswer:
    from peersync.agent.periodic.answers import NowAnswer

    async with ctx.agent() as agent:
        return await agent.post("/api/admin/sync/now", request, NowAnswer)


def _print_proofs(ctx: Context, answer: NowAnswer) -> None:
    words = {"proved": "both sides have everything", "asked": "asked"}
    for link in answer.links:
        said = words.get(link.result, link.result)
        if link.result == "proved":
            said = PROVED.get(link.direction, said).format(peer=clean(link.peer))
        if link.problem:
            print_err(f"{link.database}, {link.peer}: {said}: {indented(link.problem)}")
            if link.hint:
                print_err(f"    {clean(link.hint)}")
        elif not ctx.quiet:
            after = f" after {duration(link.seconds)}" if link.result == "proved" else ""
            print_out(f"{link.database}, {clean(link.peer)}: {said}{after}")


def _skipped(ctx: Context, answer: SafeAnswer) -> int:
    if ctx.json:
        emit_json(answer)
    else:
        print_err(f"skipped: {answer.reason}")
    return Locked.exit_code


async def _ask(ctx: Context, request: dict[str, Any], key: str | None) -> SafeAnswer:
    from peersync.agent.safe import SafeAnswer

    headers = {"Idempotency-Key": key} if key is not None else {}
    async with ctx.agent() as agent:
        return await agent.post(PATH, request, SafeAnswer, headers=headers)
