"""What people and scripts ask about table sets, over the Unix socket (docs/api.md).

A run goes on in the agent when who asked goes away: its record says how it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from peersync.agent.orchestration.sets import SetsRequest, SetsResult, TableSets
from peersync.agent.script_api import LimitQuery
from peersync.core.errors import Cancelled
from peersync.postgres.sets import SetRun
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query

SMALL_BYTES = 1024 * 1024
STILL_HERE_S = 15.0


class SetQuery(LimitQuery, frozen=True, kw_only=True):
    """`set`: the runs of all without it."""

    set: str | None = None


class SetsHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    runs: list[SetRun]


class SetsApi:
    """The handlers; `routes` lists them."""

    def __init__(self, sets: TableSets, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self._sets = sets
        self._spawn = spawn

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/sets", self._list),
            web.post("/api/admin/sets/plan", self._plan),
            web.post("/api/admin/sets/run", self._run),
            web.get("/api/admin/sets/history", self._history),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response(await self._sets.plan(SetsRequest()))

    async def _plan(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SetsRequest, limit=SMALL_BYTES)
        return json_response(await self._sets.plan(wanted, ask=True))

    async def _run(self, request: web.Request) -> web.StreamResponse:
        wanted = await read_message(request, SetsRequest, limit=SMALL_BYTES)
        await self._sets.plan(wanted)  # what is wrong with the request is an answer of its own
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        found: list[SetsResult] = []

        async def work() -> None:
            found.append(await self._sets.run(wanted))

        task = self._spawn(work(), name="table-sets")
        while not task.done():
            await asyncio.wait([task], timeout=STILL_HERE_S)
            if not task.done():
                await response.write(b" ")  # the caller sees that somebody is still here
        if not found:
            raise Cancelled("the agent stopped, or its log has the reason")
        await response.write(msgspec.json.encode(found[0]))
        await response.write_eof()
        return response

    async def _history(self, request: web.Request) -> web.Response:
        asked = read_query(request, SetQuery)
        runs = await self._sets.history(asked.limit, asked.set)
        return json_response(SetsHistory(runs=runs))
