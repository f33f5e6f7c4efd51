"""The other end of a reverse line: connects to a peer, turns round, and answers its requests.

The peer's certificate is proved by the handshake, as for every call. What the peer then asks
on the line goes through the same application as what it asks at the listener: the same
certificate is looked up, the same rights hold.
"""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType
from typing import Self

from peersync.core.errors import PeersyncError, PeerUnreachable, ProtocolError
from peersync.transport.answer import Answer
from peersync.transport.listener import ProtocolFactory
from peersync.transport.peers import Peer
from peersync.transport.problems import from_peer
from peersync.transport.relay import Relay, watch_closely
from peersync.wire.address import parse_peer_address

LINE_PATH = "/api/sync/line"
LINE_PROTOCOL = "peersync-line"
FAREWELL_S = 2.0  # a line that has fallen silent is closed; nobody may be there to say goodbye


class OpenLine:
    """`async with await open_line(...) as line`: it is cut when the block ends."""

    def __init__(self, relay: Relay, ended: asyncio.Event) -> None:
        self._relay = relay
        self._ended = ended

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._relay.transport is not None:
            self._relay.transport.abort()


async def open_line(
    peer: Peer, context: ssl.SSLContext, make_server: ProtocolFactory, *, timeout_s: float
) -> OpenLine:
    """`context` is `client_context` of this peer; `make_server` answers its requests.

    PeerUnreachable, or what the peer says when it wants no line.
    """
    assert peer.address is not None
    address = parse_peer_address(peer.address)
    turn = _Turn(peer, make_server)
    relay = turn.relay = Relay(turn)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(
                lambda: relay,
                address.host,
                address.port,
                ssl=context,
                ssl_shutdown_timeout=FAREWELL_S,
            )
            await turn.done
    except BaseException as error:
        if relay.transport is not None:
            relay.transport.abort()
        if isinstance(error, (OSError, TimeoutError)):  # ssl.SSLError is an OSError
            raise PeerUnreachable(
                f"no line to {peer.name} ({peer.address}) could be opened",
                detail=str(error) or None,
            ) from error
        raise
    return OpenLine(relay, turn.ended)


class _Turn(asyncio.Protocol):
    """The first user of a line: asks for the turn, and hands over in the moment of the answer."""

    relay: Relay

    def __init__(self, peer: Peer, make_server: ProtocolFactory) -> None:
        self._peer = peer
        self._make_server = make_server
        self._answer = Answer()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        watch_closely(transport)
        head = (
            f"POST {LINE_PATH} HTTP/1.1",
            "Host: peersync",
            "Connection: Upgrade",
            f"Upgrade: {LINE_PROTOCOL}",
            "Content-Length: 0",
        )
        transport.write("\r\n".join([*head, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            if not self._answer.feed(data):
                return
            if self._answer.status != 101:
                raise self._refusal()
            # In this very moment: the next bytes may be here already.
            self.relay.hand_over(self._make_server(), self._answer.rest)
        except (PeersyncError, ConnectionError) as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("it closed the connection"))
        self.done.exception()  # seen: nobody may wait for it any more
        self.ended.set()

    def _refusal(self) -> PeersyncError:
        if 200 <= self._answer.status < 400:
            return ProtocolError(f"{self._peer.name} knows no lines")
        return from_peer(self._peer.name, self._answer.status, self._answer.body)
