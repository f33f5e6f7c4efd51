"""`peersync notify`: try the channels, see what lasts and what was held back, and have quiet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import (
    ago,
    clean,
    emit_json,
    flat,
    indented,
    print_err,
    print_out,
    print_table,
)
from peersync.core.errors import BadRequest
from peersync.core.schedule import parse_span

if TYPE_CHECKING:
    from peersync.agent.notify.api import ChannelTest, ChannelView, IncidentView, NotifyView


@click.group("notify")
def command() -> None:
    """Try the channels of notifications, see what lasts, and have quiet for a while."""


@command.command("test")
@click.argument("channel", required=False)
@click.pass_obj
def test(ctx: Context, channel: str | None) -> int:
    """Send a test message to CHANNEL, or to all. Exit code 1 when one does not take it."""
    tests = asyncio.run(_test(ctx, channel))
    if ctx.json:
        emit_json({"tests": msgspec.to_builtins(tests)})
    for one in () if ctx.json else tests:
        if one.error is not None:
            _print_failure(one)
        elif not ctx.quiet:
            print_out(f"✔ {one.channel}: sent ({one.seconds:.1f} s)")
    return 0 if all(one.sent for one in tests) else 1


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> int:
    """List the channels, how they do, and what lasts at the moment."""
    view = asyncio.run(_list(ctx))
    if ctx.json:
        emit_json(view)
    else:
        _print(ctx, view)
    return 0


@command.command("quiet")
@click.argument("until")
@click.pass_obj
def quiet(ctx: Context, until: str) -> int:
    """Say nothing UNTIL a time ("2h", "22:30", "2026-12-24 08:00"); "off" ends it.

    What still lasts then is said then. Heartbeats go on.
    """
    now = datetime.now().astimezone()
    view = asyncio.run(_quiet(ctx, None if until == "off" else quiet_until(until, now)))
    if ctx.json:
        emit_json(view)
    elif not ctx.quiet:
        print_out(_quiet_words(view) or "Notifications are sent.")
    return 0


@command.command("dismiss")
@click.argument("key")
@click.pass_obj
def dismiss(ctx: Context, key: str) -> int:
    """Forget the incident KEY, which `peersync notify list` shows, without a word to anybody.

    For what nothing will ever end by itself, as a failed run of a script that is no more.
    """
    view = asyncio.run(_dismiss(ctx, key))
    if ctx.json:
        emit_json(view)
    elif not ctx.quiet:
        print_out(f"Forgotten: {clean(key)}")
    return 0


def quiet_until(text: str, now: datetime) -> datetime:
    """A span, a time of day (the next one), or a date with a time, in the zone of `now`."""
    if text[:1].isdigit() and text[-1:] in "smhd":
        return now + timedelta(seconds=parse_span(text))
    try:
        if len(text) <= len("00:00:00") and ":" in text:
            at = datetime.combine(now.date(), datetime.strptime(text, "%H:%M").time(), now.tzinfo)
            return at if at > now else at + timedelta(days=1)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(
            f"{text[:50]!r} is no time",
            hint='for example 2h, 22:30, "2026-12-24 08:00", or off',
        ) from None
    return at if at.tzinfo is not None else at.astimezone()


async def _test(ctx: Context, channel: str | None) -> list[ChannelTest]:
    from peersync.agent.notify.api import ChannelTest

    async with ctx.agent() as agent:
        body = {"channel": channel}
        return await agent.post("/api/admin/notify/test", body, list[ChannelTest])


async def _list(ctx: Context) -> NotifyView:
    from peersync.agent.notify.api import NotifyView

    async with ctx.agent() as agent:
        return await agent.get("/api/admin/notify", NotifyView)


async def _dismiss(ctx: Context, key: str) -> NotifyView:
    from peersync.agent.notify.api import NotifyView

    async with ctx.agent() as agent:
        return await agent.post("/api/admin/notify/dismiss", {"key": key}, NotifyView)


async def _quiet(ctx: Context, until: datetime | None) -> NotifyView:
    from peersync.agent.notify.api import NotifyView

    body = {"until": until.isoformat() if until else None}
    async with ctx.agent() as agent:
        return await agent.post("/api/admin/notify/quiet", body, NotifyView)


def _print_failure(one: ChannelTest) -> None:
    assert one.error is not None
    print_err(f"✘ {one.channel}: {indented(one.error.message)}")
    for words in (one.error.detail, one.error.hint):
        if words:
            print_err(f"    {indented(words)}")


def _print(ctx: Context, view: NotifyView) -> None:
    now = datetime.now(UTC)
    if not view.channels:
        print_err("no channel is configured: add a [[channel]], see docs/notifications.md")
        return
    if words := _quiet_words(view):
        print_out(words)
    columns = ("channel", "kind", "state", "last sent", "waiting", "held back")
    print_table(columns, [_row(one, now) for one in view.channels], color=ctx.color)
    for one in view.channels:
        if one.error is not None:
            more = f": {flat(one.error.detail)}" if one.error.detail else ""
            print_err(f"{one.name}: {indented(one.error.message)}{more}")
    for incident in view.incidents:
        _print_incident(incident, now)
    if not view.incidents and not ctx.quiet:
        print_out("Nothing is wrong at the moment.")


def _row(one: ChannelView, now: datetime) -> tuple[object, ...]:
    state = f"fails ({one.failures})" if one.failures else "works" if one.sent else "not used yet"
    last = ago(datetime.fromisoformat(one.last_sent), now) if one.last_sent else None
    return one.name, one.kind, state, last, one.waiting, one.held_back


def _print_incident(incident: IncidentView, now: datetime) -> None:
    print_out("")
    since = ago(datetime.fromisoformat(incident.since), now)
    said = "" if incident.said_at else ", not said yet"
    print_out(f"{clean(incident.title)} ({incident.event}, {since}{said})")
    for label, words in (
        ("impact", incident.impact),
        ("says", incident.problem),
        ("next", incident.hint),
        ("key", incident.key),
    ):
        if words:
            print_out(f"  {label + ':':<8}{flat(words)}")


def _quiet_words(view: NotifyView) -> str | None:
    if view.quiet_until is None:
        return None
    until = datetime.fromisoformat(view.quiet_until).astimezone()
    return f"Quiet until {until:%Y-%m-%d %H:%M:%S %Z}. To end it: peersync notify quiet off"
