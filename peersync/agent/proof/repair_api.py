"""What people and scripts of this node ask about repairs (docs/api.md)."""

from __future__ import annotations

from aiohttp import web

from peersync.agent.proof.repair_view import RepairRequest, RepairView
from peersync.agent.proof.repairs import Repairs
from peersync.agent.script_api import SMALL_BYTES, OfDatabaseQuery
from peersync.transport.app import json_response
from peersync.transport.body import ASKER, read_message
from peersync.transport.query import read_query


class RepairApi:
    """The handlers; `routes` lists them."""

    def __init__(self, repairs: Repairs) -> None:
        self._repairs = repairs

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/admin/repair", self._start),
            web.get("/api/admin/repair", self._list),
            web.get("/api/admin/repair/{id}", self._show),
            web.post("/api/admin/repair/{id}/apply", self._apply),
            web.post("/api/admin/repair/{id}/cancel", self._cancel),
        ]

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, RepairRequest, limit=16 * SMALL_BYTES)
        return _taken(await self._repairs.start(wanted))

    async def _list(self, request: web.Request) -> web.Response:
        asked = read_query(request, OfDatabaseQuery)
        return json_response(await self._repairs.history(asked.limit, asked.database))

    async def _show(self, request: web.Request) -> web.Response:
        return json_response(await self._repairs.get(request.match_info["id"]))

    async def _apply(self, request: web.Request) -> web.Response:
        return _taken(await self._repairs.apply(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        by = str(request.get(ASKER) or "")
        return json_response(await self._repairs.cancel(request.match_info["id"], by), status=202)


def _taken(view: RepairView) -> web.Response:
    response = json_response(view, status=202)
    response.headers["Location"] = f"/api/admin/repair/{view.id}"
    return response
