"""The overview over HTTP: one page of it, and the stream that every open page listens to."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web
from aiohttp_sse import sse_response

from peersync.agent.people.collector import Collector
from peersync.agent.people.lookout import Lookout
from peersync.agent.people.overview import MOST_PEERS, PEERS, make_overview
from peersync.transport.app import json_response
from peersync.transport.query import read_query
from peersync.transport.sse import SEND_TIMEOUT_S, NotStored

PING_S: Final = 10.0
LOOK_S: Final = 1.0  # how often it is looked whether the page is still there
FRESH_S: Final = 2.0
WAIT_S: Final = 3.0
FILTER_CHARS: Final = 100


class OverviewQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of peers. `filter`: a part of a peer's or a database's name, or a state."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_PEERS)] = PEERS
    offset: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    filter: Annotated[str, msgspec.Meta(max_length=FILTER_CHARS)] = ""


class OverviewApi:
    """The handlers; `routes` lists them."""

    def __init__(self, lookout: Lookout, collector: Collector) -> None:
        self._lookout = lookout
        self._collector = collector

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/overview", self._overview),
            web.get("/api/admin/events", self._events, allow_head=False),
        ]

    async def _overview(self, request: web.Request) -> web.Response:
        asked = read_query(request, OverviewQuery)
        if not self._collector.works:
            await self._lookout.refresh(max_age_s=FRESH_S, wait_s=WAIT_S)
        facts = self._lookout.facts()
        return json_response(
            make_overview(facts, limit=asked.limit, offset=asked.offset, wanted=asked.filter)
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        after = request.headers.get("Last-Event-ID") or request.query.get("after")
        board = self._collector.board
        stream = sse_response(
            request, ping_interval=PING_S, send_timeout=SEND_TIMEOUT_S, response_cls=NotStored
        )
        async with stream as response:
            self._collector.listen()
            async for event in board.read(after, alive=lambda: _is_there(request), tick_s=LOOK_S):
                await response.send(event.data, id=event.id, event=event.event)
            return response


def _is_there(request: web.Request) -> bool:
    """Whether the browser has not closed the connection; a ping alone would find out later."""
    return request.transport is not None and not request.transport.is_closing()
