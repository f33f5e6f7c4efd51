"""What people, scripts and cron ask about bulk syncs, over the Unix socket (docs/api.md).

A run answers 202 with its record, which can be asked for again until it says how it ended;
nothing here waits for it.
"""

from __future__ import annotations

from aiohttp import web

from peersync.agent.orchestration.bulk import BulkSyncs
from peersync.agent.orchestration.bulk_outcome import BulkRequest
from peersync.agent.script_api import LimitQuery
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query

SMALL_BYTES = 1024 * 1024


class BulkApi:
    """The handlers; `routes` lists them."""

    def __init__(self, bulks: BulkSyncs) -> None:
        self._bulks = bulks

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/admin/bulk-sync", self._start),
            web.get("/api/admin/bulk-sync", self._list),
            web.get("/api/admin/bulk-sync/{id}", self._show),
            web.post("/api/admin/bulk-sync/{id}/cancel", self._cancel),
        ]

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, BulkRequest, limit=SMALL_BYTES)
        if wanted.dry_run:
            return json_response(await self._bulks.plan(wanted))
        view = await self._bulks.start(wanted)
        response = json_response(view, status=202)
        response.headers["Location"] = f"/api/admin/bulk-sync/{view.id}"
        return response

    async def _list(self, request: web.Request) -> web.Response:
        return json_response(await self._bulks.history(read_query(request, LimitQuery).limit))

    async def _show(self, request: web.Request) -> web.Response:
        return json_response(await self._bulks.get(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        return json_response(await self._bulks.cancel(request.match_info["id"]), status=202)
