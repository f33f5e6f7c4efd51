"""What people and scripts ask about schedules, over the Unix socket (docs/api.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from peersync.agent.orchestration.entries import ScheduleView
from peersync.agent.orchestration.scheduler import Scheduler
from peersync.transport.app import json_response
from peersync.transport.body import read_message

SMALL_BYTES = 64 * 1024


class SchedulesView(msgspec.Struct, frozen=True, kw_only=True):
    """In the order of the configuration; those of table sets after all others."""

    schedules: list[ScheduleView]


class ScheduleRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """Of `pause`, `resume` and `run`."""

    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class ScheduleApi:
    """The handlers; `routes` lists them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/schedules", self._list),
            web.post("/api/admin/schedules/{name}/pause", self._pause),
            web.post("/api/admin/schedules/{name}/resume", self._resume),
            web.post("/api/admin/schedules/{name}/run", self._run),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response(SchedulesView(schedules=await self._scheduler.views()))

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._set_paused(request, paused=True)

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._set_paused(request, paused=False)

    async def _set_paused(self, request: web.Request, *, paused: bool) -> web.Response:
        asked = await read_message(request, ScheduleRequest, limit=SMALL_BYTES)
        name = request.match_info["name"]
        return json_response(
            await self._scheduler.pause(name, paused=paused, by=asked.requested_by)
        )

    async def _run(self, request: web.Request) -> web.Response:
        asked = await read_message(request, ScheduleRequest, limit=SMALL_BYTES)
        view = await self._scheduler.start(request.match_info["name"], by=asked.requested_by)
        return json_response(view, status=202)
