"""`peersync node`: this server as others know it."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import click

from peersync.cli.context import Context
from peersync.cli.output import emit_json, print_err
from peersync.core.errors import BadRequest, Locked


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
    if _answers(Path(node.socket)):
        raise Locked(
            "the agent of this node is running",
            hint="systemctl stop peersync-agent, then type this again",
        )
    earlier = load_identity(Path(node.state_dir))
    if not yes:
        if not ctx.interactive:
            raise BadRequest("nobody is here to confirm this", hint="add --yes")
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


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
