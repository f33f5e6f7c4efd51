"""What people and scripts of this node ask about verifications (docs/api.md)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from peersync.agent.proof.verifies import Verifies
from peersync.agent.proof.view import VerifyRequest, VerifyView
from peersync.agent.script_api import SMALL_BYTES, OfDatabaseQuery
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query
from peersync.wire.messages import Name


class ProofsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`database`, `peer`: all without them."""

    database: Name | None = None
    peer: Name | None = None


class ShowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`wait`: seconds to wait for its end, before it is shown as it is."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=30)] = 0


class VerifyApi:
    """The handlers; `routes` lists them."""

    def __init__(self, verifies: Verifies) -> None:
        self._verifies = verifies

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/admin/verify", self._start),
            web.get("/api/admin/verify", self._list),
            web.get("/api/admin/verify/{id}", self._show),
            web.get("/api/admin/verify/{id}/values", self._values),
            web.post("/api/admin/verify/{id}/cancel", self._cancel),
            web.get("/api/admin/proofs", self._proofs),
        ]

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, VerifyRequest, limit=16 * SMALL_BYTES)
        views: list[VerifyView] = await self._verifies.start(wanted)
        response = json_response(views, status=202)
        response.headers["Location"] = f"/api/admin/verify/{views[0].id}"
        return response

    async def _list(self, request: web.Request) -> web.Response:
        asked = read_query(request, OfDatabaseQuery)
        return json_response(await self._verifies.history(asked.limit, asked.database))

    async def _show(self, request: web.Request) -> web.Response:
        asked = read_query(request, ShowQuery)
        await self._verifies.wait(request.match_info["id"], asked.wait)
        return json_response(await self._verifies.get(request.match_info["id"]))

    async def _values(self, request: web.Request) -> web.Response:
        return json_response(await self._verifies.get(request.match_info["id"], values=True))

    async def _cancel(self, request: web.Request) -> web.Response:
        return json_response(await self._verifies.cancel(request.match_info["id"]), status=202)

    async def _proofs(self, request: web.Request) -> web.Response:
        asked = read_query(request, ProofsQuery)
        return json_response(await self._verifies.proofs(asked.database, asked.peer))
