"""Sockets that are listened on, and the guard that stands before aiohttp.

Owns the three kinds of listener (peers over mTLS, people on loopback, the CLI's Unix
socket), the deadline for a request's head, the cap on connections from one address, and
the closing of a removed peer's connections. It knows no routes.

aiohttp has no deadline for a request that never comes or drips in; its keep-alive timer
does close such a connection, because the timer runs from the moment of connection until a
whole head has been read. So that timer is the deadline, for idle connections too.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from peersync.core.errors import ConfigError
from peersync.transport.identity import fingerprint
from peersync.transport.relay import Relay
from peersync.transport.unixsocket import BoundSocket
from peersync.wire.address import Address, network_of

BACKLOG = 128
LINGER_S = 2.0
ACCEPT_TURNS = 3  # of the loop, until a connection accepted just now is known to aiohttp


@dataclass(frozen=True)
class Limits:
    """Bounds of one listener. `request_s` is for the whole head, and for idle connections."""

    request_s: float = 30.0
    handshake_s: float = 10.0
    per_address: int = 128
    shutdown_s: float = 5.0


DEFAULT_LIMITS = Limits()


class Connections:
    """The open connections of a listener, by address and by the node at the other end."""

    def __init__(self) -> None:
        self._by_address: Counter[str] = Counter()
        self._counted: dict[asyncio.Transport, str] = {}
        self._nodes: dict[asyncio.Transport, str | None] = {}

    def admit(self, transport: asyncio.Transport, limit: int) -> bool:
        """Counts a new connection, unless its address has `limit` of them already.

        Of strangers a whole IPv6 /64 is one address, as it is for failed logins.
        """
        address = _address(transport)
        certificate = peer_certificate(transport)
        if address is not None:
            # Peers are known, and several may be in one network: each has its own bound.
            address = address if certificate else network_of(address)
            if self._by_address[address] >= limit:
                return False
            self._by_address[address] += 1
            self._counted[transport] = address
        self._nodes[transport] = fingerprint(certificate) if certificate else None
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        self._nodes.pop(transport, None)
        self.uncount(transport)

    def uncount(self, transport: asyncio.Transport) -> None:
        """From now on it does not count towards the cap of its address."""
        if (address := self._counted.pop(transport, None)) is not None:
            self._by_address[address] -= 1
            if self._by_address[address] <= 0:
                del self._by_address[address]

    def close_node(self, certificate_id: str) -> int:
        """Cuts every connection with this certificate at once; says how many there were."""
        theirs = [transport for transport, node in self._nodes.items() if node == certificate_id]
        for transport in theirs:
            transport.abort()
        return len(theirs)


def peer_certificate(transport: asyncio.BaseTransport) -> bytes | None:
    """The client's certificate in DER form, which the handshake has verified; None without."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) if tls else None


def _address(transport: asyncio.BaseTransport) -> str | None:
    name = transport.get_extra_info("peername")
    return name[0] if isinstance(name, tuple) else None  # a Unix socket has no address


class _Guard(Relay):
    """Passes one connection to aiohttp's protocol, or cuts it when there are too many."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections, limit: int) -> None:
        super().__init__(inner)
        self._connections = connections
        self._limit = limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not self._connections.admit(transport, self._limit):
            transport.abort()
            return
        super().connection_made(transport)

    def hand_over(self, user: asyncio.Protocol, data: bytes = b"") -> None:
        """Who takes a connection over bounds how many it has: several peers share an address."""
        if self.transport is not None:
            self._connections.uncount(self.transport)
        super().hand_over(user, data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:
            self._connections.forget(self.transport)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is not None:
            super().data_received(data)

    def eof_received(self) -> bool | None:
        return super().eof_received() if self.transport is not None else None


ProtocolFactory = Callable[[], asyncio.Protocol]


@asynccontextmanager
async def listen_tcp(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    connections: Connections | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Address]:
    """Serves `app` until the block ends; gives the address that was bound (port 0: any).

    ConfigError when the address cannot be had.
    """

    async def start(factory: ProtocolFactory) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        handshake_s = limits.handshake_s if tls else None
        try:
            return await loop.create_server(
                factory, host or None, port, ssl=tls, backlog=BACKLOG,
                reuse_address=True, ssl_handshake_timeout=handshake_s,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {Address(host, port)}: {error.strerror or error}",
                hint=f"who has the port: ss -ltnp 'sport = :{port}'"
                if error.errno == errno.EADDRINUSE
                else "see node.listen and node.admin in the configuration",
            ) from error

    async with _serve(app, start, connections or Connections(), limits) as server:
        bound = server.sockets[0].getsockname()
        yield Address(bound[0], bound[1])


@asynccontextmanager
async def listen_unix(
    app: web.Application, path: Path, *, mode: int = 0o600, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Path]:
    """Serves `app` on a Unix socket, which is removed at the end.

    The socket of an agent that died is replaced; Locked names the pid of one that lives.
    """
    bound = await asyncio.to_thread(BoundSocket, path, mode)

    async def start(factory: ProtocolFactory) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(factory, sock=bound.socket, backlog=BACKLOG)

    try:
        async with _serve(app, start, Connections(), limits):
            yield path
    finally:
        await asyncio.to_thread(bound.release)


@asynccontextmanager
async def _serve(
    app: web.Application,
    start: Callable[[ProtocolFactory], Awaitable[asyncio.Server]],
    connections: Connections,
    limits: Limits,
) -> AsyncIterator[asyncio.Server]:
    async with serve_given(app, limits) as make:
        server = await start(lambda: _Guard(make(), connections, limits.per_address))
        try:
            yield server
        finally:
            await _stop_accepting(server)


@asynccontextmanager
async def serve_given(app: web.Application, limits: Limits) -> AsyncIterator[ProtocolFactory]:
    """Serves `app` on connections that somebody else makes: one protocol for each of them."""
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=limits.request_s,
        lingering_time=LINGER_S,
        shutdown_timeout=limits.shutdown_s,
    )
    await runner.setup()
    assert runner.server is not None
    try:
        yield runner.server
    finally:
        await runner.cleanup()


async def _stop_accepting(server: asyncio.Server) -> None:
    """Closes the server, but not under a connection that was accepted in this very moment.

    asyncio (3.11) leaks such a connection: its transport can't attach to a closed server.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(ACCEPT_TURNS):
        await asyncio.sleep(0)
    server.close()
