"""`peersync peer`: invite, join, accept, list, remove, and what each peer may do.

Everything goes through the agent of this node, which owns the peer book.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import clean, emit_json, print_err, print_out, print_table
from peersync.cli.pairing_cmd import PATH, accept, ask, invites, pending, refuse, revoke, segment
from peersync.cli.seconds import Seconds
from peersync.core.errors import (
    BadRequest,
    Locked,
    PairingWaits,
    PeersyncError,
    PeerUnreachable,
)

if TYPE_CHECKING:
    from peersync.transport.local import AgentClient
    from peersync.transport.peer_routes import JoinRequest, PeerView

ALL_DATABASES = "*"
MAX_LINE_BYTES = 4096
AGAIN_S = 2.0
_ACTIVE = frozenset({"member", "joining"})


@click.group()
def command() -> None:
    """Pair this server with others, and say what they may do."""


@command.command()
@click.option("--address", metavar="HOST:PORT", help="Where the other server reaches this one.")
@click.option("--confirm", is_flag=True, help="Ask here before a server that uses it is a peer.")
@click.pass_obj
def invite(ctx: Context, address: str | None, confirm: bool) -> None:
    """Print a line that pairs one other server with this one, within 15 minutes.

    stdout has the line and nothing else. With --confirm who uses the line waits until somebody here
    has compared its fingerprint: peersync peer pending, then peersync peer accept.
    """
    from peersync.transport.peer_routes import InviteReply, InviteRequest

    if address == "":
        raise BadRequest("--address is empty", hint="leave it out to use node.advertise")
    request = InviteRequest(address, confirm, user_name())
    reply = ask(ctx, lambda agent: agent.post(f"{PATH}/invite", request, InviteReply))
    if ctx.json:
        emit_json(reply)
        return
    if not ctx.quiet:
        print_err("On the other server, within 15 minutes (the line works once):")
        print_err("peersync peer join LINE, where LINE is:\n")
    print_out(reply.line)
    if confirm and not ctx.quiet:
        print_err("\nThen here: peersync peer pending")


@command.command()
@click.argument("line", required=False)
@click.option("--address", metavar="HOST:PORT", help="Where the other server reaches this one.")
@click.option(
    "--wait",
    "wait_s",
    type=Seconds(0, 86_400),
    default=900.0,
    show_default=True,
    metavar="S",
    help="How long to wait where the other server asks somebody first.",
)
@click.pass_obj
def join(ctx: Context, line: str | None, address: str | None, wait_s: float) -> None:
    """Pair with the server that printed LINE. "-" reads it from standard input.

    Where the line was made with --confirm this waits until somebody over there has accepted this
    server; it may be stopped, and typed again within a day.
    """
    from peersync.transport.peer_routes import JoinRequest

    request = JoinRequest(_invite_line(ctx, line), address)
    peer = ask(ctx, lambda agent: _joined(ctx, agent, request, wait_s))
    if ctx.json:
        emit_json({"peer": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"Paired with {peer.name} ({peer.short_id}) at {peer.address}.")
        print_err("Both servers know each other now.")
        print_err(f"Next, to keep a database in step on both: peersync join {peer.name}")
        print_err(f"      or, to take a copy of it once: peersync pull {peer.name}")


async def _joined(
    ctx: Context, agent: AgentClient, request: JoinRequest, wait_s: float
) -> PeerView:
    """Asks until the other side's admin has decided; PairingWaits when that takes too long.

    Once it waits there, an agent that is restarted, here or there, ends nothing.
    """
    from peersync.transport.peer_routes import PeerView

    until, waits = time.monotonic() + wait_s, False
    try:
        while True:
            try:
                return await agent.post(f"{PATH}/join", request, PeerView)
            except PairingWaits as error:
                if not waits and not ctx.quiet:
                    own = error.data.get("short_id", "?")
                    print_err(clean(f"{error.message}."))
                    print_err(f"The fingerprint of this server, to compare over there: {own}")
                waits = True
                if time.monotonic() + AGAIN_S > until:
                    raise
            except PeersyncError as error:
                if not (waits and error.retryable) or time.monotonic() + AGAIN_S > until:
                    raise
            await asyncio.sleep(AGAIN_S)
    except asyncio.CancelledError:
        if waits and not ctx.quiet:
            print_err("This server still waits over there; to go on, type the same command again.")
        raise


@command.command("list")
@click.option("--probe", is_flag=True, help="Try to reach each of them.")
@click.pass_obj
def list_(ctx: Context, probe: bool) -> None:
    """Show the peers of this server, and what they may do here."""
    from peersync.transport.peer_routes import PeerList

    found = ask(
        ctx, lambda agent: agent.get(PATH, PeerList, params={"probe": "1"} if probe else None)
    )
    if ctx.json:
        emit_json(found)
    else:
        _print_peers(ctx, found.peers, probe)
        if not ctx.quiet:
            print_err(f"this server is {found.name} ({found.short_id})")
    if any(peer.reachable is False for peer in found.peers):
        click.get_current_context().exit(PeerUnreachable.exit_code)


@command.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also a peer that keeps a database in step with this.")
@click.pass_obj
def remove(ctx: Context, name: str, force: bool) -> None:
    """Forget a peer. It is refused from its next request on."""
    from peersync.transport.peer_routes import PeerView

    path = f"{PATH}/{segment(name)}"
    if not force:
        ask(ctx, lambda agent: _refuse_member(agent, name, [*ctx.config.database]))
    peer = ask(ctx, lambda agent: agent.delete(path, PeerView))
    if ctx.json:
        emit_json({"removed": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"{peer.name} ({peer.short_id}) is no peer any more.")
        print_err("It still knows this server; remove it there too: peersync peer list")


async def _refuse_member(agent: AgentClient, name: str, databases: list[str]) -> None:
    """Raises Locked for a peer that a database is kept in step with: its changes would pile up.

    A database that does not answer says nothing against it.
    """
    from peersync.agent.periodic.members_api import MembersView
    from peersync.transport.peer_routes import PeerList

    found = [p for p in (await agent.get(PATH, PeerList)).peers if p.name == name]
    for database in databases if found else ():
        try:
            view = await agent.get("/api/admin/members", MembersView, params={"database": database})
        except PeersyncError:
            continue
        if any(m.node_id == found[0].node_id and m.state in _ACTIVE for m in view.members):
            raise Locked(
                f"{name} keeps {database} in step with this server; nothing was changed",
                hint=f"End that first, on {name}: peersync leave --database {database}\n"
                f"or, when it never comes back: peersync members expire {name} "
                f"--database {database}\n"
                f"Remove it all the same, and keep its changes: peersync peer remove {name} "
                "--force",
            )


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
    path = f"{PATH}/{segment(name)}/rights"
    body = {"rights": wanted, "database": _database(ctx, database)}
    peer = ask(ctx, lambda agent: agent.put(path, body, PeerView))
    if ctx.json:
        emit_json({"peer": msgspec.to_builtins(peer)})
    elif not ctx.quiet:
        print_err(f"{peer.name}: {_rights_text(peer)}")


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


for _one in (invites, revoke, pending, accept, refuse):
    command.add_command(_one)
