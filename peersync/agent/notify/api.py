"""What people ask about notifications: what lasts, how the channels do, a test, and quiet."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Annotated, Final

import msgspec
from aiohttp import web

from peersync.agent.notify.sender import Tries
from peersync.agent.notify.watcher import Watcher
from peersync.agent.notify.webhook import iso
from peersync.core.errors import BadRequest, NotFound, PeersyncError
from peersync.core.incidents import Incident
from peersync.core.results import ErrorRecord
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.wire.messages import Name

BODY_BYTES: Final = 4096
LONGEST_QUIET_S: Final = 366 * 86_400


class IncidentView(msgspec.Struct, frozen=True, kw_only=True):
    """What lasts. `said_at` is null before it was said. `key` names it, to dismiss it."""

    key: str
    event: str
    title: str
    impact: str
    since: str
    said_at: str | None = None
    database: str | None = None
    peer: str | None = None
    problem: str | None = None
    hint: str | None = None


class ChannelView(msgspec.Struct, frozen=True, kw_only=True):
    """One channel. `failures`: in a row. `waiting`: messages. `held_back`: notices."""

    name: str
    kind: str
    events: tuple[str, ...]
    sent: int
    last_sent: str | None
    waiting: int
    held_back: int
    dropped: int
    failures: int
    error: ErrorRecord | None = None


class NotifyView(msgspec.Struct, frozen=True, kw_only=True):
    """`quiet_until`: null where nothing is held back on purpose."""

    quiet_until: str | None
    channels: tuple[ChannelView, ...]
    incidents: tuple[IncidentView, ...]


class ChannelTest(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a channel took a test message."""

    channel: str
    sent: bool
    seconds: float
    error: ErrorRecord | None = None


class TestRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/notify/test`; null is all channels, one after the other."""

    __test__ = False  # pytest: this is none

    channel: Name | None = None


class QuietRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/notify/quiet`; null ends it."""

    until: datetime | None = None


class DismissRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/notify/dismiss`."""

    key: Annotated[str, msgspec.Meta(max_length=500)]


class NotifyApi:
    """The handlers; `routes` lists them."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/notify", self._list),
            web.post("/api/admin/notify/test", self._test),
            web.post("/api/admin/notify/quiet", self._quiet),
            web.post("/api/admin/notify/dismiss", self._dismiss),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response(self._view())

    async def _test(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, TestRequest, limit=BODY_BYTES)
        names = list(self._watcher.tries) if wanted.channel is None else [wanted.channel]
        if wanted.channel is not None and wanted.channel not in self._watcher.tries:
            listed = ", ".join(self._watcher.tries) or "none"
            raise NotFound(
                f"there is no channel {wanted.channel!r}", detail=f"configured: {listed}"
            )
        self._require_channels()
        async with asyncio.TaskGroup() as group:
            tests = [
                group.create_task(self._tested(name), name=f"test-channel-{name}") for name in names
            ]
        return json_response([test.result() for test in tests])

    def _require_channels(self) -> None:
        if not self._watcher.tries:
            raise BadRequest(
                "no channel is configured",
                hint="add a [[channel]] to the configuration (docs/notifications.md), then: "
                "systemctl restart peersync-agent",
            )

    async def _tested(self, name: str) -> ChannelTest:
        began = time.monotonic()
        error = None
        try:
            await self._watcher.test(name)
        except PeersyncError as exc:
            error = ErrorRecord.of(exc)
        seconds = round(time.monotonic() - began, 3)
        return ChannelTest(channel=name, sent=error is None, seconds=seconds, error=error)

    async def _quiet(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, QuietRequest, limit=BODY_BYTES)
        self._require_channels()
        if wanted.until is None:
            await self._watcher.quiet(0.0)
            return json_response(self._view())
        if wanted.until.tzinfo is None:
            raise BadRequest("until must have a time zone")
        until = wanted.until.timestamp()
        if not 0 < until - time.time() <= LONGEST_QUIET_S:
            raise BadRequest("until must lie in the future, and within a year")
        await self._watcher.quiet(until)
        return json_response(self._view())

    async def _dismiss(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, DismissRequest, limit=BODY_BYTES)
        self._require_channels()
        if not await self._watcher.dismiss(wanted.key):
            raise NotFound(f"there is no incident {wanted.key!r}", hint="peersync notify list")
        return json_response(self._view())

    def _view(self) -> NotifyView:
        memory = self._watcher.incidents.memory
        quiet = memory.quiet_until if memory.quiet_until > time.time() else None
        return NotifyView(
            quiet_until=iso(quiet) if quiet else None,
            channels=tuple(self._channel(tries) for tries in self._watcher.tries.values()),
            incidents=tuple(_incident(i) for i in self._watcher.incidents.open()),
        )

    def _channel(self, tries: Tries) -> ChannelView:
        health, settings = tries.health, tries.settings
        kept = self._watcher.incidents.memory.channels.get(settings.name)
        return ChannelView(
            name=settings.name,
            kind=settings.kind,
            events=settings.events,
            sent=health.sent,
            last_sent=iso(health.last_sent) if health.last_sent is not None else None,
            waiting=len(kept.waiting) if kept else 0,
            held_back=kept.held_back if kept else 0,
            dropped=health.dropped,
            failures=health.failures,
            error=ErrorRecord.of(health.error) if health.error is not None else None,
        )


def _incident(incident: Incident) -> IncidentView:
    fact = incident.fact
    return IncidentView(
        key=fact.key,
        event=fact.event,
        title=fact.title,
        impact=fact.impact,
        since=iso(fact.since),
        said_at=iso(incident.said_at) if incident.said_at is not None else None,
        database=fact.database,
        peer=fact.peer,
        problem=fact.problem,
        hint=fact.hint,
    )
