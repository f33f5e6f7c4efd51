"""`peersync sync direction`: which way the rows of a database go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, print_err, print_out
from peersync.core.errors import NotFound

if TYPE_CHECKING:
    from peersync.agent.periodic.members_api import MembersView

PATH = "/api/admin/members"
LINKS = {
    "receive": "one-way: takes from {peer}, gives nothing of its own",
    "give": "one-way: gives to {peer}, which gives nothing of its own",
    "none": "one-way on both sides: no rows go either way",
}
WORDS = {
    "both": "gives its changes, and takes those of others",
    "receive": "only receives: what is changed here goes to nobody",
    "give": "only gives: no change of others comes here",
}
WARNINGS = {
    "receive": "What is changed in {name} of this server from now on goes to nobody. The next "
    "change that comes\nfor such a row takes its place; what it had here is kept as a conflict.",
    "give": "No change of others comes into {name} of this server from now on, and none is passed "
    "on to servers\nthat are linked with this one only.",
}
MEMBERS = {"receive": ", only receives", "give": ", only gives"}
BACK = "The way back takes all rows anew: peersync rebaseline PEER --both-ways"


def show_direction(ctx: Context, name: str) -> None:
    _print(ctx, asyncio.run(_view(ctx, name)))


def set_direction(ctx: Context, name: str, direction: str, *, yes: bool) -> None:
    """Asks first, where something is given up by it."""
    if not yes and direction in WARNINGS and asyncio.run(_view(ctx, name)).group is not None:
        ctx.refuse_unattended()
        print_err(WARNINGS[direction].format(name=name))
        print_err(BACK)
        click.confirm("Go on?", abort=True, err=True)
    _print(ctx, asyncio.run(_change(ctx, name, direction)))


def _print(ctx: Context, view: MembersView) -> None:
    own = next((member for member in view.members if member.own), None)
    if own is None:
        raise NotFound(
            f"{view.database} takes part in no periodic sync here",
            hint="peersync join PEER --receive-only makes it one that only receives",
        )
    if ctx.json:
        emit_json(view)
    elif not ctx.quiet:
        print_out(f"{view.database} of this server {WORDS[own.direction]}")


async def _view(ctx: Context, name: str) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView

    async with ctx.agent() as agent:
        return await agent.get(PATH, MembersView, params={"database": name})


async def _change(ctx: Context, name: str, direction: str) -> MembersView:
    from peersync.agent.periodic.members_api import MembersView

    body = {"database": name, "direction": direction, "requestedBy": user_name()}
    async with ctx.agent() as agent:
        return await agent.post(f"{PATH}/direction", body, MembersView)
