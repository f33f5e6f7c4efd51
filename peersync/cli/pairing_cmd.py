"""Who is let in, for `peersync peer`: invitations, and the servers that wait to be accepted.

Also how all verbs of that group ask the agent, which owns the peer book.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_err, print_table
from peersync.core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from peersync.transport.local import AgentClient
    from peersync.transport.peer_routes import PendingView

T = TypeVar("T")

PATH = "/api/admin/peers"
LEAST_ID = 8  # digits of a fingerprint that are enough to name who waits
MIN_COMPARED = 16  # and to be sure who it is: the short form has so many


@click.command()
@click.pass_obj
def invites(ctx: Context) -> None:
    """Show the invitations of this server: those that are open, and what ended within a day."""
    from peersync.transport.peer_routes import InviteView

    found = ask(ctx, lambda agent: agent.get(f"{PATH}/invites", list[InviteView]))
    if ctx.json:
        emit_json({"invites": [msgspec.to_builtins(one) for one in found]})
    elif found:
        columns = ("id", "state", "made by", "at", "expires", "asks first", "waiting", "used by")
        rows = [
            (
                one.id[:12],
                one.state,
                one.made_by or None,
                one.made_at,
                one.expires_at,
                "yes" if one.confirm else "no",
                str(one.waiting),
                one.used_by,
            )
            for one in found
        ]
        print_table(columns, rows, color=ctx.color)
    elif not ctx.quiet:
        print_err("no invitations. To make one: peersync peer invite")


@click.command()
@click.argument("invite_id", metavar="ID")
@click.pass_obj
def revoke(ctx: Context, invite_id: str) -> None:
    """Revoke an invitation, and turn away who waits with it. The first digits of ID are enough."""
    from peersync.transport.peer_routes import InviteView

    path = f"{PATH}/invites/{segment(invite_id)}"
    gone = ask(ctx, lambda agent: agent.delete(path, InviteView))
    if ctx.json:
        emit_json({"invite": msgspec.to_builtins(gone)})
    elif not ctx.quiet:
        print_err(f"Invitation {gone.id[:12]} was revoked; its line works no more.")


@click.command()
@click.pass_obj
def pending(ctx: Context) -> None:
    """Show the servers that have used an invitation made with --confirm, and wait."""
    found = ask(ctx, _pending)
    if ctx.json:
        emit_json({"pending": [msgspec.to_builtins(one) for one in found]})
        return
    if not found:
        if not ctx.quiet:
            print_err("nobody waits")
        return
    columns = ("name", "fingerprint", "address", "asked from", "since", "invited by")
    rows = [
        (p.name, p.short_id, p.address, p.came_from, p.asked_at, p.invited_by or None)
        for p in found
    ]
    print_table(columns, rows, color=ctx.color)
    for one in found:
        if one.problem:
            print_err(clean(f"{one.name} can't be accepted: {one.problem}"))
        if one.looks_like:
            print_err(clean(f"{one.name} is not {one.looks_like}, however alike they look"))
    if not ctx.quiet:
        print_err("Compare the fingerprint with what that server shows: peersync peer list")
        print_err("then: peersync peer accept NAME, or: peersync peer refuse NAME")


async def _pending(agent: AgentClient) -> list[PendingView]:
    from peersync.transport.peer_routes import PendingView

    return await agent.get(f"{PATH}/pending", list[PendingView])


@click.command()
@click.argument("name")
@click.option("--fingerprint", metavar="FINGERPRINT", help="What it must be, instead of asking.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def accept(ctx: Context, name: str, fingerprint: str | None, yes: bool) -> None:
    """Make a server that waits a peer, once its fingerprint was compared."""
    from peersync.transport.peer_routes import PeerView

    one = ask(ctx, lambda agent: _find_pending(agent, name))
    if fingerprint is not None:
        given = fingerprint.replace("-", "").lower()
        fits = any(i.replace("-", "").startswith(given) for i in (one.short_id, one.fingerprint))
        if len(given) < MIN_COMPARED or not fits:
            raise BadRequest(
                f"{one.name} has the fingerprint {one.short_id}, not {clean(fingerprint[:80])}",
                hint=f"nothing was changed; to turn it away: peersync peer refuse {one.name}",
            )
    elif not yes:
        if not ctx.interactive:
            raise BadRequest(
                "nobody is here to compare the fingerprint", hint="add --fingerprint FINGERPRINT"
            )
        words = f"{one.name} ({one.short_id}), asked from {one.came_from}"
        if one.looks_like:
            words += f", which is not {one.looks_like}"
        click.confirm(f"Is this the fingerprint over there? Accept {words}?", abort=True, err=True)
    peer = ask(ctx, lambda agent: agent.post(f"{PATH}/pending/{one.id}/accept", None, PeerView))
    if ctx.json:
        emit_json({"peer": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"{peer.name} ({peer.short_id}) is a peer now; it finds out when it asks again.")


@click.command()
@click.argument("name")
@click.pass_obj
def refuse(ctx: Context, name: str) -> None:
    """Turn a server that waits away. Its invitation is of no use to it any more."""
    from peersync.transport.peer_routes import PendingView

    one = ask(ctx, lambda agent: _find_pending(agent, name))
    gone = ask(ctx, lambda agent: agent.post(f"{PATH}/pending/{one.id}/refuse", None, PendingView))
    if ctx.json:
        emit_json({"refused": msgspec.to_builtins(gone)})
    elif not ctx.quiet:
        print_err(f"{gone.name} ({gone.short_id}) was refused.")
        print_err(f"If others may have its line: peersync peer revoke {gone.invite[:12]}")


async def _find_pending(agent: AgentClient, name: str) -> PendingView:
    """The one of this name, or whose fingerprint begins so; NotFound where none or several are."""
    plain = name.replace("-", "").lower()
    found = [
        one
        for one in await _pending(agent)
        if one.name == name
        or (
            len(plain) >= LEAST_ID
            and any(i.replace("-", "").startswith(plain) for i in (one.short_id, one.fingerprint))
        )
    ]
    if len(found) != 1:
        words = f"{len(found)} servers that wait are called" if found else "no server waits that is"
        hint = "say its fingerprint: peersync peer pending" if found else "peersync peer pending"
        raise NotFound(f"{words} {clean(name[:80])!r}", hint=hint)
    return found[0]


def segment(name: str) -> str:
    """A peer's name as a part of a path; BadRequest where it cannot be one."""
    if not name.strip("."):
        raise BadRequest(f"{name!r} is no peer's name", hint="peersync peer list shows all of them")
    return quote(name, safe="", errors="replace")


def ask(ctx: Context, call: Callable[[AgentClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with ctx.agent() as agent:
            return await call(agent)

    return asyncio.run(run())
