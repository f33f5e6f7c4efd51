"""Reverse lines over real sockets: who gets one, what runs on it, and what becomes of dead ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from peersync.core.errors import (
    Denied,
    Locked,
    NotFound,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.transport.answer import Answer
from peersync.transport.app import PEER, json_response, listen_peers, peer_app
from peersync.transport.body import read_message
from peersync.transport.client import PeerClient
from peersync.transport.line_routes import REACH_PATH, ReachReply, line_routes
from peersync.transport.linedial import LINE_PATH, OpenLine, open_line
from peersync.transport.lines import Lines, Times, make_line
from peersync.transport.listener import Limits, ProtocolFactory, serve_given
from peersync.transport.peer_routes import pair_routes, ping_peer
from peersync.transport.peers import Peer
from peersync.transport.tls import client_context, server_context
from peersync.transport.ways import Ways
from peersync.wire.address import Address
from peersync.wire.messages import DescribeRequest, Ok
from tests.integration.two_nodes import Node, set_up
from tests.plugins.proxy import Proxy
from tests.plugins.waiting import soon

DATA = bytes(range(256)) * 20_000
QUICK = Times(ping_s=0.2, answer_s=1.5, fresh_s=0.0)
EAGER = Times(ping_s=60, answer_s=20, fresh_s=0.0)  # on a slow machine an answer takes its time


async def who(request: web.Request) -> web.Response:
    return json_response({"asks": request[PEER].name})


async def data(request: web.Request) -> web.StreamResponse:
    start = request.http_range.start or 0
    return web.Response(body=DATA[start:], headers={"Content-Range": f"bytes {start}-"})


async def echo(request: web.Request) -> web.Response:
    asked = await read_message(request, DescribeRequest)
    return json_response({"asks": asked.database})


async def poll(_request: web.Request) -> web.Response:
    await asyncio.sleep(0.5)
    return json_response(Ok())


ROUTES = [
    web.get("/who", who), web.get("/data", data), web.post("/echo", echo), web.get("/poll", poll)
]  # fmt: skip


@dataclass
class Walled:
    """`inside` opens lines to `outside`, which has no other way to it."""

    inside: Node
    outside: Node
    lines: Lines
    ways: Ways
    client: PeerClient
    make_server: ProtocolFactory
    stack: AsyncExitStack
    opened: list[OpenLine] = field(default_factory=list)

    async def open(self, address: str | None = None) -> OpenLine:
        """A line from the inner node, through `address` if given."""
        peer = self.outside.as_peer(address=address)
        context = client_context(self.inside.identity, peer)
        line = await open_line(peer, context, self.make_server, timeout_s=20)
        self.opened.append(await self.stack.enter_async_context(line))
        return line

    @property
    def held(self) -> int:
        return self.lines.count(self.inside.identity.node_id)


@asynccontextmanager
async def walled(
    root: Path, *, times: Times = EAGER, silence_s: float = 45.0, connect_s: float = 20.0
) -> AsyncIterator[Walled]:
    inside, outside = await new_node(root, "inside"), await new_node(root, "outside")
    lines = Lines(wanted=lambda: 10, times=times)
    ways = Ways(lines, lambda peer: ping_peer(peer, outside.identity))
    async with AsyncExitStack() as stack:
        inner = peer_app(inside.book, [*pair_routes(inside.desk), *ROUTES])
        make_server = await stack.enter_async_context(
            serve_given(inner, Limits(request_s=silence_s))
        )
        hidden = without_address(inside.as_peer())
        await outside.book.store(hidden)
        outside.address = await stack.enter_async_context(
            listen_peers(
                outside.book,
                outside.identity,
                line_routes(ways),
                "127.0.0.1",
                0,
                lines=lines,
            )
        )
        await inside.book.store(outside.as_peer())
        client = await stack.enter_async_context(
            PeerClient(hidden, outside.identity, connect_timeout_s=connect_s, ways=ways)
        )
        yield Walled(inside, outside, lines, ways, client, make_server, stack)


async def new_node(root: Path, name: str) -> Node:
    return await asyncio.to_thread(set_up, root, name)


def without_address(peer: Peer) -> Peer:
    return Peer(
        name=peer.name, node_id=peer.node_id, cert_pem=peer.cert_pem, address=None,
        added_at=peer.added_at,
    )  # fmt: skip


# --- what runs on a line --------------------------------------------------------------------
async def test_requests_go_over_lines_as_they_go_over_calls(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        for _ in range(3):
            await both.open()
        client = both.client
        assert await client.call("GET", "/who", None, dict) == {"asks": "outside"}
        told = await client.call("POST", "/echo", DescribeRequest(database="shop"), dict)
        assert told == {"asks": "shop"}
        async with client.open_stream("/data") as stream:
            assert b"".join([piece async for piece in stream]) == DATA
        headers = {"Range": f"bytes={len(DATA) - 5}-"}
        async with client.open_stream("/data", headers=headers) as stream:
            assert b"".join([piece async for piece in stream]) == DATA[-5:]
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(client.call("GET", "/poll", None, Ok))
        with pytest.raises(PeerUnreachable, match=r"inside, on a connection .* in time"):
            await client.call("GET", "/poll", None, Ok, read_timeout_s=0.1)
        with pytest.raises(NotFound):
            await client.call("GET", "/nothing", None, Ok)


async def test_a_request_waits_for_a_line_that_comes(tmp_path: Path) -> None:
    async with walled(tmp_path) as both, asyncio.TaskGroup() as group:
        asked = group.create_task(both.client.call("GET", "/who", None, dict))
        await asyncio.sleep(0.1)
        await both.open()
        assert await asked == {"asks": "outside"}


async def test_without_a_line_the_peer_cannot_be_reached(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        hidden = both.client.peer
        async with PeerClient(
            hidden, both.outside.identity, connect_timeout_s=0.2, ways=both.ways
        ) as client:
            with pytest.raises(PeerUnreachable, match="no connection that it opened is free"):
                await client.call("GET", "/who", None, dict)


async def test_a_request_that_comes_with_the_answer_is_not_lost(tmp_path: Path) -> None:
    inside, outside = await new_node(tmp_path, "inside"), await new_node(tmp_path, "outside")
    await outside.book.store(inside.as_peer())
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # one record of TLS: both arrive in the same moment
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: peersync-line\r\n\r\n"
            b"GET /who HTTP/1.1\r\nHost: peersync\r\n\r\n"
        )
        await answers.put(await reader.readuntil(b"}"))
        writer.close()

    context = server_context(outside.identity, outside.book)
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    async with server, serve_given(peer_app(inside.book, ROUTES), Limits()) as make_server:
        outside.address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        peer = outside.as_peer()
        await inside.book.store(peer)
        line = await open_line(
            peer, client_context(inside.identity, peer), make_server, timeout_s=5
        )
        async with line, asyncio.timeout(5):
            answer = await answers.get()
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b'{"asks":"outside"}')


def test_an_answer_is_read_however_it_is_cut() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    answer = Answer()
    assert [answer.feed(data[i : i + 1]) for i in range(len(data))] == [False] * 42 + [True]
    assert (answer.status, answer.body, answer.rest) == (200, b"hello", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Answer().feed(data)


# --- who gets one ---------------------------------------------------------------------------
async def test_a_line_of_an_unknown_certificate_is_refused(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        stranger = await new_node(tmp_path, "stranger")
        peer = both.outside.as_peer()
        with pytest.raises(PeerUnreachable):
            await open_line(
                peer, client_context(stranger.identity, peer), both.make_server, timeout_s=5
            )
        assert both.held == 0


async def test_the_lines_of_a_removed_peer_are_cut_and_new_ones_refused(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        waiting, used = await both.open(), await both.open()
        assert await both.client.call("GET", "/who", None, dict)
        await both.outside.book.remove("inside")
        async with asyncio.timeout(20):
            await waiting.wait_ended()
            await used.wait_ended()
        with pytest.raises(Denied, match="does not know node"):
            await both.open()
        await soon("no line is held", lambda: both.held == 0)


async def test_a_peer_that_is_removed_on_the_inner_side_is_refused_there(tmp_path: Path) -> None:
    async with walled(tmp_path, connect_s=1.0) as both:
        await both.open()
        await both.inside.book.remove("outside")
        with pytest.raises(PeersyncError):
            await both.client.call("GET", "/who", None, dict)


async def test_a_line_under_another_nodes_name_is_not_used(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        other = await new_node(tmp_path, "other")

        async def steal(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(status=101)
            await answer.prepare(request)
            assert request.transport is not None
            node_id = both.inside.identity.node_id
            await both.lines.hold(make_line(node_id, request.transport, EAGER))
            return answer

        await both.outside.book.store(other.as_peer(address="127.0.0.1:1"))
        await other.book.store(both.outside.as_peer())
        thief = peer_app(other.book, [*pair_routes(other.desk), *ROUTES])
        async with (
            listen_peers(
                both.outside.book,
                both.outside.identity,
                [web.post(LINE_PATH, steal)],
                "127.0.0.1",
                0,
            ) as address,
            serve_given(thief, Limits()) as make_server,
        ):
            peer = both.outside.as_peer(address=str(address))
            context = client_context(other.identity, peer)
            async with await open_line(peer, context, make_server, timeout_s=5):
                with pytest.raises(Denied, match="another node's"):
                    await both.client.call("GET", "/who", None, dict)


async def test_a_hundred_lines_are_too_many(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        refused = 0
        for _ in range(100):
            try:
                await both.open()
            except Locked:
                refused += 1
        assert refused == 80
        assert both.held == 20
        assert await both.client.call("GET", "/who", None, dict)


async def test_a_line_is_not_turned_round_again(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        await both.open()
        with pytest.raises(NotFound):
            await both.client.call(
                "POST", LINE_PATH, None, Ok, headers={"Upgrade": "peersync-line"}
            )
        with pytest.raises(NotFound):
            await both.client.call("POST", REACH_PATH, None, ReachReply)


# --- dead lines -----------------------------------------------------------------------------
async def test_a_half_open_line_eats_no_request(tmp_path: Path) -> None:
    async with walled(tmp_path, times=Times(ping_s=60, answer_s=1.5, fresh_s=0.0)) as both:
        with Proxy(*both.outside.address) as proxy:
            await both.open()
            for _ in range(9):  # each would cost 1.5 s, were they found out one by one
                await both.open(proxy.address)
            proxy.hole_after = 0
            started = time.monotonic()
            assert await both.client.call("GET", "/who", None, dict) == {"asks": "outside"}
            assert time.monotonic() - started < 9 * 1.5
            await soon("one line is held", lambda: both.held == 1)
            proxy.heal()


async def test_both_ends_notice_that_an_idle_line_is_dead(tmp_path: Path) -> None:
    async with walled(tmp_path, times=QUICK, silence_s=1.5) as both:
        with Proxy(*both.outside.address) as proxy:
            line = await both.open(proxy.address)
            await asyncio.sleep(2.5)
            assert both.held == 1, "an idle line that works does not last"
            proxy.hole_after = 0
            await soon("no line is held", lambda: both.held == 0)
            async with asyncio.timeout(20):
                await line.wait_ended()
            proxy.heal()


async def test_after_a_break_the_next_request_takes_another_line(tmp_path: Path) -> None:
    async with walled(tmp_path) as both:
        with Proxy(*both.outside.address) as proxy:
            await both.open()
            await both.open(proxy.address)
            with pytest.raises(PeerUnreachable, match="inside, on a connection that it opened"):
                async with both.client.open_stream("/data") as stream:
                    async for _ in stream:
                        proxy.cut()
            assert await both.client.call("GET", "/who", None, dict) == {"asks": "outside"}


# --- can you reach me? ----------------------------------------------------------------------
async def test_the_address_of_who_asks_is_tried_rarely(tmp_path: Path) -> None:
    async with (
        walled(tmp_path) as both,
        PeerClient(both.outside.as_peer(), both.inside.identity) as asking,
    ):
        dials = 0

        async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal dials
            dials += 1
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await both.outside.book.store(both.inside.as_peer(address=f"127.0.0.1:{port}"))
            replies = [await asking.call("POST", REACH_PATH, None, ReachReply) for _ in range(9)]
        assert {(reply.reachable, reply.lines) for reply in replies} == {(False, 10)}
        assert 1 <= dials <= 3, "each question is a dial"


async def test_a_peer_that_answers_at_its_address_needs_no_lines(tmp_path: Path) -> None:
    async with walled(tmp_path, times=QUICK) as both:
        line = await both.open()
        inside = both.inside
        async with listen_peers(
            inside.book, inside.identity, pair_routes(inside.desk), "127.0.0.1", 0
        ) as address:
            await both.outside.book.store(inside.as_peer(address=str(address)))
            async with PeerClient(both.outside.as_peer(), inside.identity) as asking:
                reply = await asking.call("POST", REACH_PATH, None, ReachReply)
            assert reply.reachable
            peer = both.outside.book.get("inside")
            assert both.ways.way(peer) == "direct"
            await soon("no line is held", lambda: both.held == 0)
            async with asyncio.timeout(20):
                await line.wait_ended()
