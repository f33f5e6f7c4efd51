"""`peersync peer`: invite, join, list, remove, and what each peer may do.

Everything goes through the agent of this node, which owns the peer book.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_err, print_out, print_table
from peersync.core.errors import BadRequest, PeerUnreachable

if TYPE_CHECKING:
    from peersync.transport.local import AgentClient
    from peersync.transport.peer_routes import PeerView

T = TypeVar("T")

PATH = "/api/admin/peers"
ALL_DATABASES = "*"
MAX_LINE_BYTES = 4096


@click.group()
def command() -> None:
    """Pair this server with others, and say what they may do."""


@command.command()
@click.option("--address", metavar="HOST:PORT", help="Where the other server reaches this one.")
@click.pass_obj
def invite(ctx: Context, address: str | None) -> None:
    """Print a line that pairs one other server with this one, within 15 minutes.

    stdout has the line and nothing else.
    """
    from peersync.transport.peer_routes import InviteReply, InviteRequest

    if address == "":
        raise BadRequest("--address is empty", hint="leave it out to use node.advertise")
    reply = _ask(
        ctx, lambda agent: agent.post(f"{PATH}/invite", InviteRequest(address), InviteReply)
    )
    if ctx.json:
        emit_json(msgspec.to_builtins(reply))
        return
    if not ctx.quiet:
        print_err("On the other server, within 15 minutes (the line works once):")
        print_err("peersync peer join LINE, where LINE is:\n")
    print_out(reply.line)


@command.command()
@click.argument("line", required=False)
@click.option("--address", metavar="HOST:PORT", help="Where the other server reaches this one.")
@click.pass_obj
def join(ctx: Context, line: str | None, address: str | None) -> None:
    """Pair with the server that printed LINE. "-" reads it from standard input."""
    from peersync.transport.peer_routes import JoinRequest, PeerView

    request = JoinRequest(_invite_line(ctx, line), address)
    peer = _ask(ctx, lambda agent: agent.post(f"{PATH}/join", request, PeerView))
    if ctx.json:
        emit_json({"peer": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"Paired with {peer.name} ({peer.short_id}) at {peer.address}.")
        print_err(f"Both servers know each other now. Next: peersync pull {peer.name}")


@command.command("list")
@click.option("--probe", is_flag=True, help="Try to reach each of them.")
@click.pass_obj
def list_(ctx: Context, probe: bool) -> None:
    """Show the peers of this server, and what they may do here."""
    from peersync.transport.peer_routes import PeerList

    found = _ask(
        ctx, lambda agent: agent.get(PATH, PeerList, params={"probe": "1"} if probe else None)
    )
    if ctx.json:
        emit_json(msgspec.to_builtins(found))
    else:
        _print_peers(ctx, found.peers, probe)
        if not ctx.quiet:
            print_err(f"this server is {found.name} ({found.short_id})")
    if any(peer.reachable is False for peer in found.peers):
        click.get_current_context().exit(PeerUnreachable.exit_code)


@command.command()
@click.argument("name")
@click.pass_obj
def remove(ctx: Context, name: str) -> None:
    """Forget a peer. It is refused from its next request on."""
    from peersync.transport.peer_routes import PeerView

    path = f"{PATH}/{_segment(name)}"
    peer = _ask(ctx, lambda agent: agent.delete(path, PeerView))
    if ctx.json:
        emit_json({"removed": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"{peer.name} ({peer.short_id}) is no peer any more.")
        print_err("It still knows this server; remove it there too: peersync peer list")


def _rights_options(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--database", metavar="NAME", help="For this database only."),
        click.option("--schema", is_flag=True, help="Bring table definitions to this server."),
        click.option("--push", is_flag=True, help="Push into this server."),
        click.option("--pull", is_flag=True, help="Pull from this server."),
        click.argument("name"),
    ):
        function = option(function)
    return function


@command.command()
@_rights_options
@click.pass_obj
def allow(ctx: Context, /, name: str, database: str | None, **rights: bool) -> None:
    """Let a peer pull from here, push into here, or bring table definitions."""
    _change_rights(ctx, name, database, rights, given=True)


@command.command()
@_rights_options
@click.pass_obj
def deny(ctx: Context, /, name: str, database: str | None, **rights: bool) -> None:
    """Take rights from a peer. It applies to its next request."""
    _change_rights(ctx, name, database, rights, given=False)


def _change_rights(
    ctx: Context, name: str, database: str | None, rights: dict[str, bool], *, given: bool
) -> None:
    from peersync.transport.peer_routes import PeerView

    wanted = {right: given for right, named in rights.items() if named}
    if not wanted:
        raise BadRequest("which right?", hint="--pull, --push or --schema")
    path = f"{PATH}/{_segment(name)}/rights"
    body = {"rights": wanted, "database": _database(ctx, database)}
    peer = _ask(ctx, lambda agent: agent.put(path, body, PeerView))
    if ctx.json:
        emit_json({"peer": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"{peer.name}: {_rights_text(peer)}")


def _segment(name: str) -> str:
    """A peer's name as a part of a path; BadRequest where it cannot be one."""
    if not name.strip("."):
        raise BadRequest(f"{name!r} is no peer's name", hint="peersync peer list shows all of them")
    return quote(name, safe="", errors="replace")


def _database(ctx: Context, name: str | None) -> str:
    """The database that a right is for; a typing error must not give or keep a right."""
    if name is None or name == ALL_DATABASES:
        return ALL_DATABASES
    if not name:
        raise BadRequest("--database is empty", hint="leave it out to mean all databases")
    return ctx.database_name(name)


def _print_peers(ctx: Context, peers: tuple[PeerView, ...], probe: bool) -> None:
    if not peers:
        if not ctx.quiet:
            print_err("no peers yet. On one server: peersync peer invite")
        return
    columns = ["peer", "address", "rights", "fingerprint", *(["state"] if probe else [])]
    rows = []
    for peer in peers:
        row = [peer.name, peer.address, _rights_text(peer), peer.short_id]
        rows.append([*row, _state_text(peer)] if probe else row)
    print_table(columns, rows, color=ctx.color)
    for peer in peers:
        if peer.problem:
            print_err(clean(f"{peer.problem}. Next: {peer.hint or 'peersync check'}"))


def _rights_text(peer: PeerView) -> str:
    parts = []
    for database, rights in peer.rights.items():
        given = [name for name, value in msgspec.structs.asdict(rights).items() if value]
        text = ", ".join(given) or "none"
        parts.append(text if database == ALL_DATABASES else f"{database}: {text}")
    return "; ".join(parts)


def _state_text(peer: PeerView) -> str:
    if not peer.reachable:
        return "not reachable"
    return f"reachable ({peer.reached})" if peer.reached else "reachable"


def _invite_line(ctx: Context, given: str | None) -> str:
    if given == "-":
        return _from_stdin()
    if given is None and ctx.interactive:
        line: str = click.prompt("Invite line", err=True)
        return line
    if given is None:
        raise BadRequest("the invite line is missing", hint="peersync peer join LINE")
    return given


def _from_stdin() -> str:
    if sys.stdin is None:  # closed by the caller: `<&-`
        raise BadRequest("standard input is closed", hint="peersync peer join LINE")
    return sys.stdin.buffer.read(MAX_LINE_BYTES).decode("utf-8", "replace")


def _ask(ctx: Context, call: Callable[[AgentClient], Awaitable[T]]) -> T:
    from peersync.transport.local import AgentClient

    async def run() -> T:
        async with AgentClient(Path(ctx.config.node.socket)) as agent:
            return await call(agent)

    return asyncio.run(run())
