"""What everything between two nodes stands on: errors in words, and bounds on requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from peersync.core.errors import (
    BadRequest,
    Denied,
    Locked,
    NotFound,
    PeerFailed,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.transport.app import PEER, control_app, json_response, people_app
from peersync.transport.body import read_message
from peersync.transport.listener import Limits, listen_tcp, listen_unix
from peersync.transport.local import AgentClient
from peersync.transport.problems import from_problem
from peersync.wire.address import Address
from peersync.wire.messages import DescribeRequest, Ok
from tests.integration.two_nodes import Node, listening, served, set_up

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def all_errors(kind: type[PeersyncError] = PeersyncError) -> Iterator[type[PeersyncError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__.startswith("peersync."):
            yield from all_errors(child)


@pytest.fixture
def a(tmp_path: Path) -> Node:
    return set_up(tmp_path, "server-a")


@pytest.fixture
def b(tmp_path: Path) -> Node:
    return set_up(tmp_path, "server-b")


def raising(error: Exception) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        raise error

    return handler


# --- errors -------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.__name__)
async def test_an_error_of_the_agent_reaches_the_command_as_it_was_raised(
    kind: type[PeersyncError], tmp_path: Path
) -> None:
    error = kind("what happened", detail="ERROR: 42", hint="do this", holder={"pid": 7}, n=[1, "x"])
    app = control_app([web.get("/x", raising(error))])
    async with listen_unix(app, tmp_path / "s") as path, AgentClient(path) as agent:
        with pytest.raises(PeersyncError) as caught:
            await agent.get("/x", Ok)
    told = caught.value
    assert type(told) is kind
    assert (told.message, told.detail, told.hint) == ("what happened", "ERROR: 42", "do this")
    assert told.data == {"holder": {"pid": 7}, "n": [1, "x"]}


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.__name__)
async def test_an_error_of_a_peer_names_the_peer(
    kind: type[PeersyncError], a: Node, b: Node
) -> None:
    error = kind("what happened", hint="do this")
    async with served(a, b, web.get("/x", raising(error))) as client:
        with pytest.raises(PeersyncError, match="server-a: what happened") as caught:
            await client.call("GET", "/x", None, Ok)
    if issubclass(kind, (Denied, Locked, NotFound, BadRequest, ProtocolError)):
        assert type(caught.value) is kind
    else:
        assert type(caught.value) is PeerFailed
        assert caught.value.data["peer_code"] == kind.code
        assert caught.value.hint == "on server-a: do this"


async def test_a_bug_goes_out_as_an_id_and_its_traceback_stays_in_the_log(
    a: Node, b: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(a, b, web.get("/x", raising(RuntimeError("canary-in-a-bug")))) as client:
        with pytest.raises(PeerFailed, match="internal error request-0001") as caught:
            await client.call("GET", "/x", None, Ok, headers={"X-Request-ID": "request-0001"})
    assert "canary" not in repr(caught.value.__dict__) + str(caught.value)
    assert "internal error request-0001" in caplog.text
    assert "canary-in-a-bug" in caplog.text


async def test_an_unknown_route_is_not_found(a: Node, b: Node) -> None:
    async with served(a, b) as client:
        with pytest.raises(NotFound, match="no such route"):
            await client.call("GET", "/nowhere", None, Ok)


def test_an_answer_that_explains_nothing_is_a_protocol_error() -> None:
    assert isinstance(from_problem(502, b"<html>Bad Gateway</html>"), ProtocolError)
    assert isinstance(from_problem(500, b'{"data":' + b"[" * 60_000), ProtocolError)
    hostile = (
        b'{"type":"","title":"","status":500,"detail":"\\u001b[2J","code":"locked",'
        b'"data":{"message":"x","detail":"y","k":"\\u0007"}}'
    )
    told = from_problem(500, hostile)
    assert isinstance(told, Locked)
    assert "\x1b" not in told.message
    assert told.data == {"k": "\ufffd"}


async def test_an_answer_of_another_form_is_a_protocol_error(a: Node, b: Node) -> None:
    async def handler(request: web.Request) -> web.Response:
        return json_response({"ok": request[PEER].name})

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/")

    async with served(a, b, web.get("/x", handler), web.get("/moved", elsewhere)) as client:
        with pytest.raises(ProtocolError, match="not a valid Ok"):
            await client.call("GET", "/x", None, Ok)
        with pytest.raises(ProtocolError, match="status 302"):
            await client.call("GET", "/moved", None, Ok)


async def test_a_silent_peer_is_given_up_after_the_read_timeout(a: Node, b: Node) -> None:
    async def handler(_request: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return json_response(Ok())

    async with served(a, b, web.get("/x", handler)) as client:
        with pytest.raises(PeerUnreachable, match="did not answer in time"):
            await client.call("GET", "/x", None, Ok, read_timeout_s=0.2)


async def test_a_name_that_does_not_resolve_is_said_so(a: Node, b: Node) -> None:
    async with b.client_to(a.as_peer(address="no-such-host.invalid:8791")) as client:
        with pytest.raises(PeerUnreachable, match="cannot be resolved"):
            await client.call("GET", "/x", None, Ok)


async def test_a_port_of_something_else_is_said_so(a: Node, b: Node) -> None:
    async with listen_tcp(people_app([]), "127.0.0.1", 0) as address:
        client = b.client_to(a.as_peer(address=str(address)))
        with pytest.raises(PeerUnreachable, match="does not speak TLS"):
            await client.call("GET", "/x", None, Ok)
        await client.close()


# --- bounds on requests -------------------------------------------------------------------
async def describe(request: web.Request) -> web.Response:
    message = await read_message(request, DescribeRequest, limit=1000, timeout_s=0.5)
    return json_response({"ok": message.database == "shop"})


async def test_a_body_is_bounded_and_has_a_deadline(tmp_path: Path) -> None:
    app = control_app([web.post("/x", describe)])

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" "
            await asyncio.sleep(0.2)

    async def flood() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with (
        listen_unix(app, tmp_path / "s") as path,
        aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(path))) as s,
    ):
        for body, words in (
            (b'{"database":"shop"}', '{"ok":true}'),
            (b" " * 1001, "larger than the 1000 bytes"),
            (flood(), "larger than the 1000 bytes"),
            (drip(), "did not arrive within 0.5 s"),
            (b'{"database":1}', "not a valid DescribeRequest"),
        ):
            async with s.post("/x", data=body) as response:
                assert words in await response.text()


async def test_a_compressed_request_is_refused_unread(a: Node, b: Node) -> None:
    async with served(a, b, web.post("/x", describe)) as client:
        for coding in ("gzip", "zstd", "br"):
            with pytest.raises(BadRequest, match="Content-Encoding"):
                headers = {"Content-Encoding": coding}
                await client.call("POST", "/x", b"\x00" * 100, Ok, headers=headers)


async def seconds_until_closed(address: Address, *pieces: bytes) -> float:
    """How long a server keeps a plain connection on which these pieces come, 0.2 s apart."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection(*address)
    try:
        for piece in pieces:
            writer.write(piece)
            try:
                async with asyncio.timeout(0.2):
                    if await reader.read(1) == b"":
                        return time.monotonic() - started
            except TimeoutError:
                continue
        async with asyncio.timeout(10):
            while await reader.read(1000):
                pass
    finally:
        writer.close()
    return time.monotonic() - started


@pytest.mark.parametrize(
    "pieces",
    [(), (b"GET /healthz HT",), (b"GET /x HTTP/1.1\r\nHost: localhost\r\n", *[b"A: b\r\n"] * 30)],
    ids=["silent", "half a line", "dripping headers"],
)
async def test_a_request_that_does_not_come_is_not_waited_for(pieces: tuple[bytes, ...]) -> None:
    limits = Limits(request_s=0.6)
    async with listen_tcp(people_app([]), "127.0.0.1", 0, limits=limits) as address:
        assert 0.4 < await seconds_until_closed(address, *pieces) < 5  # they take 6 s to come


async def test_a_tls_handshake_that_does_not_come_is_not_waited_for(a: Node) -> None:
    async with listening(a, limits=Limits(handshake_s=0.5)):
        assert 0.3 < await seconds_until_closed(a.address) < 9


async def test_one_address_has_a_bounded_number_of_connections() -> None:
    limits = Limits(per_address=3)
    async with listen_tcp(people_app([]), "127.0.0.1", 0, limits=limits) as address:
        writers = [(await asyncio.open_connection(*address))[1] for _ in range(3)]
        try:
            reader, extra = await asyncio.open_connection(*address)
            with pytest.raises(ConnectionResetError):
                extra.write(b"GET / HTTP/1.1\r\n\r\n")
                if await reader.read(1) == b"":
                    raise ConnectionResetError
            extra.close()
            writers.pop().close()
            await asyncio.sleep(0.1)
            reader, again = await asyncio.open_connection(*address)
            writers.append(again)
            again.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404")
        finally:
            for writer in writers:
                writer.close()
