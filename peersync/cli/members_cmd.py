"""`peersync members`: which servers keep a database in step, and who is waited for no more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, print_err, print_table
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.agent.periodic.members_api import MembersView

_DATABASE = click.option("--database", metavar="NAME", help="Which; needed when there are several.")


@click.group("members")
def command() -> None:
    """Show which servers keep a database in step, or stop waiting for one."""


@command.command("list")
@_DATABASE
@click.pass_obj
def list_(ctx: Context, database: str | None) -> int:
    """List the members of the group, with what they have of each other."""
    _print(ctx, asyncio.run(_list(ctx, ctx.database_name(database))))
    return 0


@command.command("expire")
@click.argument("node")
@_DATABASE
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def expire(ctx: Context, node: str, database: str | None, yes: bool) -> int:
    """Keep no more changes for NODE, which is away for too long.

    When NODE comes back it has to take everything anew (peersync rebaseline there); changes that
    it has made meanwhile are kept and sent.
    """
    name = ctx.database_name(database)
    if not yes:
        if not ctx.interactive:
            raise BadRequest("nobody is here to confirm this", hint="add --yes")
        click.confirm(f"Keep no more changes of {name} for {node}?", abort=True, err=True)
    _print(ctx, asyncio.run(_expire(ctx, name, node)))
    return 0


async def _list(ctx: Context, database: str) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView
    from peersync.transport.local import AgentClient

    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        return await agent.get("/api/admin/members", MembersView, params={"database": database})


async def _expire(ctx: Context, database: str, node: str) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView
    from peersync.transport.local import AgentClient

    body = {"database": database, "member": node, "requestedBy": user_name()}
    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        return await agent.post("/api/admin/members/expire", body, MembersView)


def _print(ctx: Context, view: MembersView) -> None:
    import msgspec

    if ctx.json:
        emit_json(msgspec.to_builtins(view))
    elif view.group is None:
        if not ctx.quiet:
            print_err(f"{view.database} takes part in no periodic sync: peersync join PEER")
    else:
        rows = [
            (
                f"{m.name} (this node)" if m.own else m.name,
                m.state,
                str(m.applied),
                str(m.has),
                m.sponsor or "–",
            )
            for m in view.members
        ]
        columns = ("node", "state", "its position here", "ours it has", "joined by")
        print_table(columns, rows, color=ctx.color)
