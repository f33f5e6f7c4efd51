"""The routes of complete syncs, for people and scripts of this node (docs/api.md)."""

from __future__ import annotations

import asyncio
import hashlib
import re

import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.orchestration.complete import CompleteSyncs
from peersync.agent.orchestration.outcome import CompleteRequest, CompleteView
from peersync.agent.script_api import SMALL_BYTES, OfDatabaseQuery
from peersync.core.errors import BadRequest, KeyReused
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query

_KEY = re.compile(r"[\x20-\x7e]{1,200}")


class CancelRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/complete-sync/{id}/cancel`."""

    requested_by: str = "api"


class CompleteApi:
    """The handlers; `routes` lists them."""

    def __init__(self, syncs: CompleteSyncs, databases: Databases) -> None:
        self._syncs = syncs
        self._databases = databases
        self._asking = asyncio.Lock()  # a repeated request waits for the answer to the first

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/complete-sync", self._start),
            web.get("/api/complete-sync/history", self._history),
            web.get("/api/complete-sync/{id}", self._show),
            web.post("/api/complete-sync/{id}/cancel", self._cancel),
        ]

    async def _start(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, CompleteRequest, limit=SMALL_BYTES)
        if wanted.dry_run:
            return json_response(await self._syncs.plan(wanted))
        key = request.headers.get("Idempotency-Key")
        view = await (self._syncs.start(wanted) if key is None else self._once(wanted, key))
        response = json_response(view, status=202)
        response.headers["Location"] = f"/api/complete-sync/{view.id}"
        return response

    async def _once(self, wanted: CompleteRequest, key: str) -> CompleteView:
        """The same key gives the same run for a day. Raises KeyReused for another request."""
        if not _KEY.fullmatch(key):
            raise BadRequest("an Idempotency-Key has 1 to 200 printable ASCII characters")
        digest = hashlib.sha256(msgspec.json.encode(wanted)).hexdigest()
        async with self._asking:
            earlier = await self._syncs.by_request_key(wanted.database, key)
            if earlier is None:
                noted = {"idempotency_key": key, "request_digest": digest}
                return await self._syncs.start(wanted, noted=noted)
        if earlier[1] != digest:
            raise KeyReused(
                f"the Idempotency-Key {key!r} was used for another request",
                hint="Give each request a key of its own; repeat it with the same body.",
            )
        return earlier[0]

    async def _history(self, request: web.Request) -> web.Response:
        asked = read_query(request, OfDatabaseQuery)
        name = asked.database
        database = self._databases.get(name).name if name is not None else None
        return json_response(await self._syncs.history(asked.limit, database=database))

    async def _show(self, request: web.Request) -> web.Response:
        return json_response(await self._syncs.find(request.match_info["id"]))

    async def _cancel(self, request: web.Request) -> web.Response:
        asked = await read_message(request, CancelRequest, limit=SMALL_BYTES)
        view = await self._syncs.find(request.match_info["id"])
        ended = await self._syncs.cancel(view.database, view.id, by=asked.requested_by)
        return json_response(ended, status=202)
