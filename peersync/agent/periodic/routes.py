"""The routes of periodic sync: what peers may ask, and what people and scripts of this node may.

Bodies are decoded against their messages, with bounds; names are looked up. Everything that
takes long answers in pieces or holds no connection of the database meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web

from peersync.agent.periodic.answers import (
    STATES,
    Lag,
    LinkProof,
    LinkView,
    NowAnswer,
    PausedLinks,
)
from peersync.agent.periodic.barrier import Barrier
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.links import Local, linked, read_links, read_local
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.messages import PositionReply, PositionRequest
from peersync.agent.periodic.positions import Positions
from peersync.agent.script_api import DatabaseQuery
from peersync.core.errors import PeersyncError
from peersync.postgres.sqlfiles import queries
from peersync.transport.app import PEER, json_response
from peersync.transport.body import read_message
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.query import read_query
from peersync.wire.feed import MEDIA_TYPE, FeedRequest
from peersync.wire.messages import Message, Name

BODY_BYTES = 1024 * 1024  # a vector of 10,000 origins fits
STILL_HERE_S = 15.0
_SQL = queries("links")


class NowRequest(Message, frozen=True, kw_only=True, rename="camel"):
    """`peer` and `database`: None for all. `timeout_s` is of each link."""

    peer: Name | None = None
    database: Name | None = None
    wait: bool = False
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0


class PauseRequest(Message, frozen=True, kw_only=True, rename="camel"):
    """`peer` and `database`: None for all."""

    paused: bool
    peer: Name | None = None
    database: Name | None = None
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = ""


class PeriodicApi:
    """The handlers; `peer_routes` and `admin_routes` list them."""

    def __init__(self, periodic: Periodic, book: PeerBook, positions: Positions) -> None:
        self._periodic = periodic
        self._book = book
        self._positions = positions

    def peer_routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/sync/changes", self._changes),
            web.post("/api/sync/position", self._position),
        ]

    def admin_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/sync/lag", self._lag),
            web.post("/api/admin/sync/now", self._now),
            web.post("/api/admin/sync/pause", self._pause),
        ]

    # --- peers ----------------------------------------------------------------------------
    async def _changes(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, FeedRequest, limit=BODY_BYTES)
        peer = request[PEER]
        peer.require("pull", asked.database)
        self._periodic.hub(asked.database)
        response = web.StreamResponse(headers={"Content-Type": MEDIA_TYPE})

        async def begin() -> Callable[[bytes], Awaitable[None]]:
            await response.prepare(request)
            return response.write

        feeds = self._periodic.feeds[asked.database]
        await feeds.changes(peer, asked, begin, ahead=request.query.get("ahead") == "1")
        await response.write_eof()
        return response

    async def _position(self, request: web.Request) -> web.Response:
        asked = await read_message(request, PositionRequest, limit=BODY_BYTES)
        peer = request[PEER]
        peer.require("pull", asked.database)
        self._periodic.hub(asked.database)
        return json_response(await self._periodic.feeds[asked.database].position(peer, asked))

    # --- people ---------------------------------------------------------------------------
    async def links(self) -> list[LinkView]:
        """Every link of every database that can be reached, the worst first."""
        async with asyncio.TaskGroup() as group:
            reads = [
                group.create_task(self._links_of(hub), name=f"links-{hub.name}")
                for hub in self._periodic.hubs.values()
            ]
        views = [view for read in reads for view in read.result()]
        return sorted(views, key=lambda v: (STATES.index(v.state), v.database, v.peer))

    async def _links_of(self, hub: Hub) -> list[LinkView]:
        async def ask(peer: Peer, local: Local) -> PositionReply:
            return await self._positions.ask(hub, peer, local)

        try:
            patience_s = self._periodic.patience_s
            return await read_links(hub, self._book.peers(), ask, patience_s=patience_s)
        except PeersyncError:  # `status` says what is wrong with the database
            return []

    async def _lag(self, request: web.Request) -> web.Response:
        wanted = self._databases(read_query(request, DatabaseQuery).database)
        return json_response(Lag(links=[v for v in await self.links() if v.database in wanted]))

    async def _now(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, NowRequest, limit=BODY_BYTES)
        peers, databases = self._peers(asked.peer), self._databases(asked.database)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._prove(asked, peers, databases), name="sync-now")
            while not work.done():
                await asyncio.wait([work], timeout=STILL_HERE_S)
                if not work.done():
                    await response.write(b" ")  # the caller sees that somebody is still here
        await response.write(msgspec.json.encode(work.result()))
        await response.write_eof()
        return response

    async def _prove(self, asked: NowRequest, peers: list[Peer], databases: list[str]) -> NowAnswer:
        links: list[LinkProof] = []
        for name in databases:
            barrier = Barrier(self._periodic.hub(name), self._positions)
            try:
                if stopped := await self._stopped(self._periodic.hub(name), peers):
                    links += stopped
                    continue
                links += await barrier.run(peers, wait=asked.wait, timeout_s=asked.timeout_s)
            except PeersyncError as error:
                failed = LinkProof(database=name, peer="–", result="failed")
                links.append(
                    msgspec.structs.replace(failed, problem=error.message, hint=error.hint)
                )
        return NowAnswer(result=_summed(links), links=links)

    async def _stopped(self, hub: Hub, peers: list[Peer]) -> list[LinkProof]:
        """The links of a database that may not go on: there is nothing to wait for."""
        async with hub.database.acquire(f"reading the members of {hub.name}") as conn:
            local = await read_local(conn)
        if local is None or local.replica.state == "active":
            return []
        state, reason = local.replica.state, local.replica.reason
        words = f"{hub.name} is {state} on this node" + (f": {reason}" if reason else "")
        return [
            LinkProof(
                database=hub.name,
                peer=peer.name,
                result="failed",
                problem=words,
                hint="peersync jobs list"
                if state == "joining"
                else f"peersync rebaseline {peer.name} --database {hub.name}",
            )
            for peer, _ in linked(local, peers)
        ]

    async def _pause(self, request: web.Request) -> web.Response:
        asked = await read_message(request, PauseRequest, limit=BODY_BYTES)
        peers, databases = self._peers(asked.peer), self._databases(asked.database)
        done: list[tuple[str, str]] = []
        for name in databases:
            hub = self._periodic.hub(name)
            async with hub.database.acquire(f"pausing links of {name}") as conn:
                local = await read_local(conn)
                for peer, _ in linked(local, peers) if local else ():
                    await conn.execute(
                        _SQL["pause"], peer.node_id, asked.paused, asked.requested_by
                    )
                    done.append((name, peer.name))
            self._periodic.refresh(name)
        return json_response(PausedLinks(paused=asked.paused, links=done))

    def _peers(self, name: str | None) -> list[Peer]:
        return [*self._book.peers()] if name is None else [self._book.get(name)]

    def _databases(self, name: str | None) -> list[str]:
        if name is None:
            return [*self._periodic.hubs]
        self._periodic.hub(name)
        return [name]


def _summed(links: list[LinkProof]) -> str:
    """The worst of them."""
    results = {link.result for link in links}
    for result in ("failed", "timeout", "partly"):
        if result in results:
            return result
    if not results & {"proved", "asked"}:
        return "partly"
    return "done"
