"""Calls to one peer: mTLS with its pinned certificate, and every failure in our own words.

Owns one aiohttp session a peer. The second edge of HTTP where errors are translated: what
comes out of here is a PeersyncError that names the peer, the address and what to check.
It does not retry; who calls knows whether that can help. One exception: a call that found a
certificate unknown is repeated once it is known, for nobody has read it yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec
from multidict import CIMultiDictProxy

from peersync import __version__
from peersync.core.errors import PeersyncError, PeerUnreachable, ProtocolError
from peersync.transport.connector import NO_ADDRESS, PeerConnector
from peersync.transport.diagnosis import connection_failure, explain
from peersync.transport.identity import Identity
from peersync.transport.peers import Peer
from peersync.transport.problems import MAX_PROBLEM_BYTES, from_peer, retry_after_s
from peersync.transport.renewal import Renewal
from peersync.transport.tls import client_context
from peersync.transport.ways import Ways
from peersync.wire.address import parse_peer_address
from peersync.wire.codec import decode, encode
from peersync.wire.messages import MAX_MESSAGE_BYTES

T = TypeVar("T")

PIECE_BYTES = 64 * 1024
KEEP_IDLE_S = 15.0  # below the listener's deadline, so that it is we who close

Body = msgspec.Struct | bytes | None

_FOREIGN = (aiohttp.ClientError, TimeoutError, OSError)


class PeerStream:
    """The body of an answer as it comes in. Iterate it once."""

    def __init__(self, response: aiohttp.ClientResponse, client: PeerClient) -> None:
        self._response = response
        self._client = client

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_chunked(PIECE_BYTES):
                yield piece
        except _FOREIGN as error:
            raise await self._client.explain(error) from error


class PeerClient:
    """`async with PeerClient(...) as client`. Timeouts are in seconds.

    `read_timeout_s` is the longest silence on a connection; no call has a total limit. With
    `ways` it also uses the connections that the peer opened; without, it dials its address.
    With `renewal` new certificates get through, the peer's and our own.
    """

    def __init__(
        self,
        peer: Peer,
        identity: Identity,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        connections: int = 8,
        ways: Ways | None = None,
        renewal: Renewal | None = None,
    ) -> None:
        self.peer = peer
        self._identity = identity
        self._connect_s = connect_timeout_s
        self._read_s = read_timeout_s
        self._connections = connections
        self._ways = ways
        self._renewal = renewal
        self._connector: PeerConnector | None = None
        self._context = client_context(identity, peer)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(
        self,
        method: str,
        path: str,
        body: Body,
        reply_type: type[T],
        *,
        read_timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Sends a message (or raw bytes) and reads one. Raises what the peer raised.

        PeerUnreachable, Denied or ProtocolError when the two could not talk.
        """
        response = await self._send(method, path, body, read_timeout_s, headers)
        async with response:
            data = await self._read(response, MAX_MESSAGE_BYTES)
        return decode(data, reply_type)

    @asynccontextmanager
    async def open_stream(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Body = None,
        read_timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[PeerStream]:
        """An answer whose body is read piece by piece, of any length."""
        # What the caller raises inside the block is its own and passes untranslated.
        async with await self._send(method, path, body, read_timeout_s, headers) as response:
            yield PeerStream(response, self)

    async def explain(self, error: Exception) -> PeersyncError:
        """An error of aiohttp or of the system as ours; may ask the peer once more."""
        if self._connector is not None and self._connector.by_line:
            return self._line_broke(error)
        return await explain(error, self.peer, self._identity, timeout_s=self._connect_s)

    def _line_broke(self, error: Exception) -> PeersyncError:
        # Its address says nothing about a connection that it opened: it is not asked there.
        where = f"{self.peer.name}, on a connection that it opened"
        if isinstance(error, (aiohttp.ServerDisconnectedError, ConnectionError)):
            return PeerUnreachable(f"{where}, closed it before it had answered")
        return connection_failure(error, where)

    async def _send(
        self,
        method: str,
        path: str,
        body: Body,
        read_timeout_s: float | None,
        headers: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        """A successful answer whose head has come; use it in `async with`."""
        data, sent = _payload(body)
        sent.update(headers or {})
        timeout = self._timeout(read_timeout_s)
        mends = 2  # the peer's certificate may be unknown here, and then ours there
        while True:
            try:
                response = await self._request(method, path, data, sent, timeout)
                break
            except _FOREIGN as error:
                if not mends or not await self._made_known(error):
                    raise await self.explain(error) from error
                mends -= 1
        if 200 <= response.status < 300:
            return response
        async with response:
            problem = await self._read(response, MAX_PROBLEM_BYTES)
        refusal = from_peer(self.peer.name, response.status, problem)
        if (wait_s := retry_after_s(response.headers.get("Retry-After"))) is not None:
            refusal.data["retry_after_s"] = wait_s
        raise refusal

    async def _request(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        return await self._open_session().request(
            method, path, data=data, headers=headers, timeout=limits, allow_redirects=False
        )

    async def _made_known(self, error: Exception) -> bool:
        """Whether a certificate was unknown on one side, and is known now."""
        if self._renewal is None or (self._connector is not None and self._connector.by_line):
            return False
        known = await self._renewal.mended(error, self.peer, timeout_s=self._connect_s)
        if known is None:
            return False
        if known.cert_pem != self.peer.cert_pem:
            self.peer, self._context = known, client_context(self._identity, known)
            await self.close()
        return True

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        data = bytearray()
        async for piece in PeerStream(response, self):
            data += piece
            if len(data) > limit:
                raise ProtocolError(f"{self.peer.name} sent more than {limit} bytes")
        return bytes(data)

    def _open_session(self) -> aiohttp.ClientSession:
        if self.peer.address is None and self._ways is None:
            raise PeerUnreachable(
                f"{self.peer.name} has no address here: only it can connect to this server",
                hint="start this on the other server, or pair again with an address",
            )
        if self._session is None:
            address = self.peer.address
            self._connector = PeerConnector(
                self.peer,
                self._ways,
                self._context,
                wait_s=self._connect_s,
                limit=self._connections,
                keep_idle_s=KEEP_IDLE_S,
            )
            self._session = aiohttp.ClientSession(
                f"https://{parse_peer_address(address) if address else NO_ADDRESS}",
                connector=self._connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"peersync/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _timeout(self, read_timeout_s: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self._connect_s, sock_read=read_timeout_s or self._read_s
        )


def _payload(body: Body) -> tuple[bytes | None, dict[str, str]]:
    if body is None:
        return None, {}
    if isinstance(body, bytes):
        return body, {"Content-Type": "application/octet-stream"}
    return encode(body), {"Content-Type": "application/json"}
