"""What comes piece by piece from a peer or the agent: downloads and events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from peersync.core.errors import (
    PeerUnreachable,
    ProtocolError,
)
from peersync.transport.app import control_app
from peersync.transport.client import PeerClient
from peersync.transport.listener import listen_unix
from peersync.transport.local import AgentClient
from peersync.transport.sse import EventParser, EventRing, serve_events
from tests.integration.two_nodes import Node, served, set_up

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def a(tmp_path: Path) -> Node:
    return set_up(tmp_path, "server-a")


@pytest.fixture
def b(tmp_path: Path) -> Node:
    return set_up(tmp_path, "server-b")


# --- downloads ----------------------------------------------------------------------------
CONTENT = os.urandom(300_000)


async def sending(_request: web.Request) -> web.Response:
    return web.Response(body=CONTENT)


async def cutting(request: web.Request) -> web.StreamResponse:
    """Announces all of it, and goes away in the middle."""
    response = web.StreamResponse()
    response.content_length = len(CONTENT)
    await response.prepare(request)
    await response.write(CONTENT[:200_000])
    assert request.transport is not None
    request.transport.close()
    return response


async def failing(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(CONTENT[:1000])
    raise DiskGone("the disk went away")


class DiskGone(RuntimeError):
    """A bug, as far as the transport knows."""


async def fetched(client: PeerClient) -> bytes:
    async with client.open_stream("/x") as stream:
        return b"".join([piece async for piece in stream])


async def test_a_download_arrives_whole(a: Node, b: Node) -> None:
    async with served(a, b, web.get("/x", sending)) as client:
        assert await fetched(client) == CONTENT


@pytest.mark.parametrize("handler", [cutting, failing])
async def test_a_download_that_is_cut_is_never_taken_for_whole(
    handler: Handler, a: Node, b: Node
) -> None:
    async with served(a, b, web.get("/x", handler)) as client:
        with pytest.raises(PeerUnreachable):
            await fetched(client)


async def test_the_open_download_of_a_removed_peer_is_cut(a: Node, b: Node) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.01)

    async def read_for_ever(client: PeerClient) -> None:
        async with client.open_stream("/x") as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count == 3:
                    await a.book.remove("server-b")

    async with served(a, b, web.get("/x", endless)) as client, asyncio.timeout(20):
        with pytest.raises(PeerUnreachable, match="broke in the middle"):
            await read_for_ever(client)


async def test_what_the_reader_of_a_stream_raises_is_its_own(a: Node, b: Node) -> None:
    async with served(a, b, web.get("/x", sending)) as client:
        with pytest.raises(OSError, match="no space left"):
            async with client.open_stream("/x"):
                raise OSError(28, "no space left")


# --- events -------------------------------------------------------------------------------
async def test_a_reader_gets_what_it_missed_and_what_comes(tmp_path: Path) -> None:
    ring = EventRing("e1")

    async def events(request: web.Request) -> web.StreamResponse:
        return await serve_events(request, ring)

    app = control_app([web.get("/events", events)])
    for number in range(3):
        ring.publish("progress", {"n": number, "text": "a\nb\u2028c"})
    async with listen_unix(app, tmp_path / "s") as path, AgentClient(path) as agent:
        seen = []
        async for event in agent.events("/events", after="e1-1"):
            seen.append((event.id, event.event))
            if event.id == "e1-3":
                ring.publish("done", {})
                ring.close()
        assert seen == [("e1-2", "progress"), ("e1-3", "progress"), ("e1-4", "done")]
        everything = [event.id async for event in agent.events("/events", after="other-2")]
        assert everything == ["e1-1", "e1-2", "e1-3", "e1-4"]


async def test_a_slow_reader_loses_the_oldest_events_and_is_told_how_many() -> None:
    ring = EventRing("e", size=10)
    ring.publish("n", 0)
    reader = ring.read()
    assert (await anext(reader)).data == "0"
    for number in range(1, 101):
        ring.publish("n", number)  # returns at once, whoever reads
    ring.close()
    rest = [event async for event in reader]
    assert (rest[0].event, rest[0].data) == ("lost", '{"lost":90}')
    assert [event.data for event in rest[1:]] == [str(n) for n in range(91, 101)]
    assert ring.lost_total == 90


async def test_a_reader_that_went_away_is_forgotten(tmp_path: Path) -> None:
    ring = EventRing("e")
    ring.publish("n", 0)

    async def events(request: web.Request) -> web.StreamResponse:
        return await serve_events(request, ring, ping_s=0.1)

    async with listen_unix(control_app([web.get("/e", events)]), tmp_path / "s") as path:
        async with AgentClient(path) as agent:
            stream = agent.events("/e")
            await anext(stream)
            assert len(ring._waiters) == 1
            await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while ring._waiters:
                await asyncio.sleep(0.05)


def test_events_are_parsed_whatever_the_pieces() -> None:
    raw = b': ping\r\n\r\nid: e-1\r\nevent: x\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:y\n\n'
    for size in (1, 2, 7, len(raw)):
        parser = EventParser()
        events = [
            event for at in range(0, len(raw), size) for event in parser.feed(raw[at : at + size])
        ]
        assert [(e.id, e.event, e.data) for e in events] == [
            ("e-1", "x", '{"a":\n1}'),
            ("e-1", "message", "y"),
        ]
    with pytest.raises(ProtocolError, match="larger than"):
        EventParser().feed(b"data: " + b"x" * 1_100_000)
