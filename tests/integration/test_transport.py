"""What everything between two nodes stands on: errors, bounds, downloads, events, sockets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from peersync.core.errors import (
    AgentNotRunning,
    BadRequest,
    ConfigError,
    CorruptData,
    Denied,
    Locked,
    NotFound,
    PeerFailed,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.transport.app import PEER, control_app, json_response, people_app
from peersync.transport.body import read_body, read_message
from peersync.transport.client import PeerClient
from peersync.transport.health import Asked, Check, health_routes
from peersync.transport.listener import Limits, listen_tcp, listen_unix
from peersync.transport.local import AgentClient
from peersync.transport.problems import from_problem
from peersync.transport.sse import EventParser, EventRing, serve_events
from peersync.wire.address import Address
from peersync.wire.messages import DescribeRequest, Ok
from tests.integration.two_nodes import Node, listening, set_up

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


@asynccontextmanager
async def served(a: Node, b: Node, *routes: web.RouteDef) -> AsyncIterator[PeerClient]:
    """A client of b for routes that a serves; both know each other."""
    await a.book.store(b.as_peer(address="127.0.0.1:1"))
    async with listening(a, routes), b.client_to(a.as_peer()) as client:
        yield client


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
        assert 0.4 < await seconds_until_closed(address, *pieces) < 3


async def test_a_tls_handshake_that_does_not_come_is_not_waited_for(a: Node) -> None:
    async with listening(a, limits=Limits(handshake_s=0.5)):
        assert 0.3 < await seconds_until_closed(a.address) < 3


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


# --- downloads ----------------------------------------------------------------------------
CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def sending(data: bytes, *, announced: int | None = None) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced is not None:
            response.content_length = announced
        await response.prepare(request)
        await response.write(data)
        if announced is not None and announced > len(data) and request.transport:
            await asyncio.sleep(0.05)
            request.transport.close()
        return response

    return handler


async def fetched(client: PeerClient) -> bytes:
    pieces = client.download("/x", expected_size=len(CONTENT), digest=DIGEST)
    return b"".join([piece async for piece in pieces])


async def test_a_download_arrives_whole(a: Node, b: Node) -> None:
    async with served(a, b, web.get("/x", sending(CONTENT))) as client:
        assert await fetched(client) == CONTENT


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (sending(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])), "SHA-256"),
        (sending(CONTENT[:-1]), "it has 299999 bytes"),
        (sending(CONTENT + b"x"), "more than the 300000 bytes"),
        (sending(CONTENT[:200_000], announced=len(CONTENT)), "it ended after"),
    ],
    ids=["flipped bit", "short", "long", "cut"],
)
async def test_a_damaged_download_is_never_taken_for_whole(
    handler: Handler, reason: str, a: Node, b: Node
) -> None:
    async with served(a, b, web.get("/x", handler)) as client:
        with pytest.raises(CorruptData, match=reason):
            await fetched(client)


async def test_an_answer_whose_handler_fails_halfway_is_cut(a: Node, b: Node) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CONTENT[:1000])
        raise DiskGone("the disk went away")

    async with served(a, b, web.get("/x", handler)) as client:
        with pytest.raises(CorruptData):
            await fetched(client)


class DiskGone(RuntimeError):
    """A bug, as far as the transport knows."""


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

    async with served(a, b, web.get("/x", endless)) as client, asyncio.timeout(3):
        with pytest.raises(PeerUnreachable, match="broke in the middle"):
            await read_for_ever(client)


async def test_what_the_reader_of_a_stream_raises_is_its_own(a: Node, b: Node) -> None:
    async with served(a, b, web.get("/x", sending(CONTENT))) as client:
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


# --- the agent's socket -------------------------------------------------------------------
async def test_the_socket_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "s"
    async with listen_unix(control_app([]), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    async with listen_unix(control_app([]), path, mode=0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_the_socket_of_a_dead_agent_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with AgentClient(path) as agent:
        with pytest.raises(AgentNotRunning, match="no agent is running"):
            await agent.get("/x", Ok)
        async with listen_unix(control_app([]), path):
            with pytest.raises(NotFound):
                await agent.get("/x", Ok)


async def test_a_second_agent_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listen_unix(control_app([]), path):
        with pytest.raises(Locked, match=f"pid {os.getpid()}") as caught:
            async with listen_unix(control_app([]), path):
                pytest.fail("two agents on one socket")
        assert caught.value.data["holder"] == {"pid": os.getpid()}
        assert path.exists()


async def test_a_file_in_the_place_of_the_socket_is_not_deleted(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="not a socket"):
        async with listen_unix(control_app([]), path):
            pytest.fail("listening on a file")
    assert path.read_text() == "data"


async def test_no_agent_is_said_with_the_command_that_starts_it(tmp_path: Path) -> None:
    async with AgentClient(tmp_path / "none") as agent:
        with pytest.raises(AgentNotRunning) as caught:
            await agent.get("/x", Ok)
    assert "peersync agent" in str(caught.value.hint)


async def test_a_port_in_use_is_said_before_anything_runs() -> None:
    async with listen_tcp(control_app([]), "127.0.0.1", 0) as address:
        with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
            async with listen_tcp(control_app([]), *address):
                pytest.fail("two listeners on one port")


# --- health -------------------------------------------------------------------------------
@asynccontextmanager
async def people(*, ready: bool, show: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    async def checks(asked: Asked) -> list[Check]:
        return [Check("database shop", ready, f"lag {asked.max_lag_s}")]

    registry = CollectorRegistry()
    Counter("peersync_things", "Things.", registry=registry).inc(3)
    app = people_app(health_routes(checks, registry, show_checks=show))
    async with (
        listen_tcp(app, "127.0.0.1", 0) as address,
        aiohttp.ClientSession(f"http://{address}") as session,
    ):
        yield session


async def test_health_says_yes_or_no_and_nothing_else_to_the_network() -> None:
    async with people(ready=True) as good, people(ready=False) as bad:
        async with good.get("/healthz") as response:
            assert (response.status, await response.text()) == (200, '{"ok":true}')
        async with good.get("/readyz") as response:
            assert (response.status, await response.text()) == (200, '{"ready":true}')
        async with bad.get("/readyz") as response:
            assert (response.status, await response.text()) == (503, '{"ready":false}')
        async with good.get("/metrics") as response:
            assert "peersync_things_total 3.0" in await response.text()


async def test_the_checks_are_named_where_the_asker_is_local() -> None:
    async with people(ready=False, show=True) as session:
        async with session.get("/readyz?max_lag=2min") as response:
            told = await response.json()
        assert told["checks"] == [{"name": "database shop", "ok": False, "text": "lag 120.0"}]
        async with session.get("/readyz?max_lag=soon") as response:
            assert response.status == 400


async def test_another_host_name_is_refused_and_answers_carry_the_headers() -> None:
    async with people(ready=True) as session:
        async with session.get("/healthz", headers={"Host": "evil.example:8790"}) as response:
            assert response.status == 403
        async with session.get("/healthz", headers={"Host": "localhost:8790"}) as response:
            assert response.status == 200
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["Server"] == "peersync"
            assert response.headers["X-Request-ID"]
        crafted = {"X-Request-ID": "x y\\n" * 30}
        async with session.get("/healthz", headers=crafted) as response:
            assert response.headers["X-Request-ID"] not in crafted.values()


async def test_read_body_takes_exactly_its_limit(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return json_response({"ok": len(await read_body(request, limit=1000)) == 1000})

    app = control_app([web.post("/x", handler)])
    async with listen_unix(app, tmp_path / "s") as path, AgentClient(path) as agent:
        assert (await agent.post("/x", "x" * 998, Ok)).ok  # two quotes come on top
