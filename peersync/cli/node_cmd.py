"""`peersync node`: this server as others know it."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import click

from peersync.cli.context import Context
from peersync.cli.output import emit_json, print_err
from peersync.core.errors import Locked

_STOP = "systemctl stop peersync-agent, then type this again"


@click.group("node")
def command() -> None:
    """This server as others know it."""


@command.command("reset-identity")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def reset_identity(ctx: Context, yes: bool) -> None:
    """Make this server another node than the one that it was copied from.

    For a cloned machine, and only on the clone. It forgets its peers and must be paired again;
    each database then takes part again with peersync rebaseline PEER. The earlier identity and
    the peer book are kept beside the new ones.
    """
    from peersync.transport.identity import load_identity, retire_identity

    node = ctx.config.node
    _refuse_beside_an_agent(Path(node.socket))
    earlier = load_identity(Path(node.state_dir))
    if not yes:
        ctx.refuse_unattended()
        click.confirm(
            f"Give up the identity {earlier.short_id} of {node.name}, and all its peers?",
            abort=True,
            err=True,
        )
    made = retire_identity(Path(node.state_dir), node.name, now=datetime.datetime.now(datetime.UTC))
    if ctx.json:
        emit_json({"node": node.name, "earlier": earlier.node_id, "nodeId": made.node_id})
        return
    print_err(f"{node.name} is {made.short_id} now, and was {earlier.short_id}.")
    print_err("next: start the agent, pair again (peersync peer join INVITE), then, for each")
    print_err("database that was in periodic sync: peersync rebaseline PEER --database NAME")


@command.command("rotate-certificate")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rotate_certificate(ctx: Context, yes: bool) -> None:
    """Give this server a new key and certificate. It stays the same node.

    The new certificate is signed with the old key, which is then deleted. Peers accept it by that
    signature, when they next meet: nothing is paired anew, and no database is joined anew. After
    a theft of the key this is not enough: peersync node reset-identity, and pair again.
    """
    from peersync.transport.identity import load_identity, rotate_identity, short_form

    node = ctx.config.node
    _refuse_beside_an_agent(Path(node.socket))
    earlier = load_identity(Path(node.state_dir))
    if not yes:
        ctx.refuse_unattended()
        click.confirm(
            f"Replace the certificate {short_form(earlier.certificate_id)} of {node.name}?",
            abort=True,
            err=True,
        )
    made = rotate_identity(Path(node.state_dir), now=datetime.datetime.now(datetime.UTC))
    if ctx.json:
        emit_json(
            {
                "node": node.name,
                "nodeId": made.node_id,
                "earlier": earlier.certificate_id,
                "certificate": made.certificate_id,
            }
        )
        return
    old, new = short_form(earlier.certificate_id), short_form(made.certificate_id)
    print_err(f"{node.name} has the certificate {new} now, and had {old}; it is the same node.")
    print_err("next: systemctl start peersync-agent, then: peersync peer list --probe")


def _refuse_beside_an_agent(path: Path) -> None:
    if _answers(path):
        raise Locked("the agent of this node is running", hint=_STOP)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
