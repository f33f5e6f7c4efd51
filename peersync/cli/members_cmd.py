"""`peersync members`: which servers keep a database in step, and who is waited for no more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.direction import MEMBERS
from peersync.cli.names import user_name
from peersync.cli.options import database_option
from peersync.cli.output import ago, emit_json, print_err, print_table

if TYPE_CHECKING:
    from peersync.agent.periodic.members_api import MembersView

_GONE = frozenset({"left", "expired"})


@click.group("members")
def command() -> None:
    """Show which servers keep a database in step, or stop waiting for one."""


@command.command("list")
@database_option
@click.option("--all", "everybody", is_flag=True, help="Also those that left or were expired.")
@click.pass_obj
def list_(ctx: Context, database: str | None, everybody: bool) -> int:
    """List the members of the group, with what they have of each other."""
    view = asyncio.run(_list(ctx, ctx.database_name(database)))
    if not everybody:
        here = tuple(m for m in view.members if m.own or m.state not in _GONE)
        view = msgspec.structs.replace(view, members=here)
    _print(ctx, view)
    return 0


@command.command("expire")
@click.argument("node")
@database_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force",
    is_flag=True,
    help="Also if NODE was heard in the last minute; without asking the others.",
)
@click.pass_obj
def expire(ctx: Context, node: str, database: str | None, yes: bool, force: bool) -> int:
    """Keep no more changes for NODE, which does not come back, or not soon.

    More than half of the members must miss it; of two members, the one where this is typed decides.
    When NODE comes back it takes everything anew (there: peersync rebaseline PEER); changes that it
    has made meanwhile are kept and sent.
    """
    name = ctx.database_name(database)
    if not yes:
        ctx.refuse_unattended()
        asyncio.run(_expire(ctx, name, node, force=force, dry_run=True))
        click.confirm(f"Keep no more changes of {name} for {node}?", abort=True, err=True)
    view = asyncio.run(_expire(ctx, name, node, force=force, dry_run=False))
    _print(ctx, view)
    waits = any(m.name == node and m.state == "expiring" for m in view.members)
    if waits and not ctx.json and not ctx.quiet:
        print_err(
            f"{node} is not expired yet: that takes the word of more than half of the members, "
            "which are asked for five minutes. If you are sure that no other part of the group "
            f"goes on without this one: peersync members expire {node} --database {name} --force"
        )
    elif not ctx.json and not ctx.quiet:
        own = next((m.name for m in view.members if m.own), "PEER")
        print_err(f"{node} was expired. When it is back: peersync rebaseline {own}, typed there")
    return 0


async def _list(ctx: Context, database: str) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView

    async with ctx.agent() as agent:
        return await agent.get("/api/admin/members", MembersView, params={"database": database})


async def _expire(
    ctx: Context, database: str, node: str, *, force: bool, dry_run: bool
) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView

    body = {
        "database": database,
        "member": node,
        "force": force,
        "dryRun": dry_run,
        "requestedBy": user_name(),
    }
    async with ctx.agent() as agent:
        return await agent.post("/api/admin/members/expire", body, MembersView)


def _print(ctx: Context, view: MembersView) -> None:
    if ctx.json:
        emit_json(view)
    elif view.group is None:
        if not ctx.quiet:
            print_err(f"{view.database} takes part in no periodic sync: peersync join PEER")
    else:
        rows = [
            (
                f"{m.name} (this node)" if m.own else m.name,
                m.state + MEMBERS.get(m.direction, ""),
                str(m.applied),
                str(m.has),
                None if m.own else _heard(m.heard_s),
                m.sponsor or "–",
            )
            for m in view.members
        ]
        columns = ("node", "state", "its position here", "ours it has", "heard", "joined by")
        print_table(columns, rows, color=ctx.color)


def _heard(seconds: float | None) -> str:
    now = datetime.now(UTC)
    return ago(now - timedelta(seconds=seconds) if seconds is not None else None, now)
