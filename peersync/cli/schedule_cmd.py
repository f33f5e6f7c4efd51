"""`peersync schedule`: what this node starts by itself, when it last did, and when it will."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import clean, duration, emit_json, flat, print_err, print_out, print_table

if TYPE_CHECKING:
    from peersync.agent.orchestration.entries import ScheduleView
    from peersync.agent.orchestration.schedule_api import SchedulesView

PATH = "/api/admin/schedules"


@click.group()
def command() -> None:
    """List, pause, resume and run what this node starts by itself."""


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> int:
    """Show each with its last run and its next, in this server's time.

    Exit code 1 when the last run of one has failed.
    """

    told = asyncio.run(_list(ctx))
    if ctx.json:
        emit_json(told)
    elif told.schedules:
        columns = ("name", "at", "starts", "last", "result", "next")
        print_table(columns, [_row(one) for one in told.schedules], color=ctx.color)
        if not ctx.quiet:
            _print_troubles(told)
    elif not ctx.quiet:
        print_err("nothing is scheduled; see [[schedule]] in the configuration")
    return 1 if any(one.errors for one in told.schedules) else 0


@command.command()
@click.argument("name")
@click.pass_obj
def pause(ctx: Context, name: str) -> None:
    """Start NAME no more until `schedule resume`; what runs goes on."""
    view = asyncio.run(_post(ctx, name, "pause"))
    _say(ctx, view, f"{view.name} is paused")


@command.command()
@click.argument("name")
@click.pass_obj
def resume(ctx: Context, name: str) -> None:
    """Start NAME again at its times; what was due meanwhile is not made up for."""
    view = asyncio.run(_post(ctx, name, "resume"))
    _say(ctx, view, f"{view.name} is due {_local(view.next)}")


@command.command()
@click.argument("name")
@click.pass_obj
def run(ctx: Context, name: str) -> None:
    """Start NAME now, paused or not, and leave it running. Exit code 6: it is running already."""
    view = asyncio.run(_post(ctx, name, "run"))
    _say(ctx, view, f"{view.name} runs now: {view.what}; its end: peersync schedule list")


async def _list(ctx: Context) -> SchedulesView:
    from peersync.agent.orchestration.schedule_api import SchedulesView

    async with ctx.agent() as agent:
        return await agent.get(PATH, SchedulesView)


async def _post(ctx: Context, name: str, deed: str) -> ScheduleView:
    from peersync.agent.orchestration.entries import ScheduleView

    body = {"requestedBy": user_name()}
    async with ctx.agent() as agent:
        return await agent.post(f"{PATH}/{name}/{deed}", body, ScheduleView)


def _say(ctx: Context, view: ScheduleView, words: str) -> None:

    if ctx.json:
        emit_json(view)
    elif not ctx.quiet:
        print_out(words)


def _row(one: ScheduleView) -> tuple[object, ...]:
    took = f", {duration(one.seconds)}" if one.seconds is not None else ""
    return (
        one.name,
        one.at,
        one.what,
        _local(one.last),
        "running" if one.running_since else f"{one.result}{took}" if one.result else None,
        f"paused by {one.paused_by}" if one.paused_by else _local(one.next),
    )


def _print_troubles(told: SchedulesView) -> None:
    for one in told.schedules:
        if one.errors:
            times = f", {one.errors} times in a row" if one.errors > 1 else ""
            print_err(f"{one.name}: {flat(clean(one.message or 'it failed'))}{times}")
        elif one.recovered_after:
            print_err(f"{one.name}: recovered after {one.recovered_after} errors")
        if one.missed:
            print_err(f"{one.name}: {_local(one.missed)} was missed")


def _local(at: str | None) -> str | None:
    """In the zone of this server."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}" if at else None
