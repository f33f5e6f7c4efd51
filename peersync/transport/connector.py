"""How a client gets a connection to its peer: it dials, or takes one that the peer opened.

For aiohttp both are the same: a TLS connection with the peer's certificate at the other end.
Only the making differs, and that is all that this connector replaces. Which way is tried
first is decided in `ways`.
"""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.tracing import Trace

from peersync.core.errors import PeerUnreachable
from peersync.transport.peers import Peer
from peersync.transport.ways import Ways

NO_ADDRESS = "peer.invalid"  # stands in a URL for a peer that has no address
_NOT_THERE = (aiohttp.ClientConnectorError, TimeoutError, OSError)


class PeerConnector(aiohttp.TCPConnector):
    """`wait_s` is how long a line is waited for. `by_line` says how the last one was had."""

    def __init__(
        self,
        peer: Peer,
        ways: Ways | None,
        context: ssl.SSLContext,
        *,
        wait_s: float,
        limit: int,
        keep_idle_s: float,
    ) -> None:
        super().__init__(ssl=context, limit=limit, keepalive_timeout=keep_idle_s)
        self.by_line = False
        self._peer = peer
        self._ways = ways
        self._wait_s = wait_s

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own
    ) -> ResponseHandler:
        ways, peer = self._ways, self._peer
        if ways is None:
            return await self._dial(req, traces, timeout)
        waited = ways.by_line(peer)
        if waited and (line := await self._take(ways)) is not None:
            return line
        if peer.address is None:
            raise _no_line(peer)
        try:
            connection = await self._dial(req, traces, timeout)
        except _NOT_THERE as error:
            ways.note(peer, direct=False)
            if not (ways.expected(peer) or ways.lines.count(peer.node_id)):
                raise
            if not waited and (line := await self._take(ways)) is not None:
                return line
            raise _no_line(peer) from error
        ways.note(peer, direct=True)
        return connection

    async def _dial(
        self, req: ClientRequest, traces: list[Trace], limits: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        self.by_line = False
        return await super()._create_connection(req, traces, limits)

    async def _take(self, ways: Ways) -> ResponseHandler | None:
        self.by_line = True
        line = await ways.lines.take(self._peer.node_id, self._wait_s)
        if line is None:
            return None
        handler = ResponseHandler(loop=asyncio.get_running_loop())
        line.give(handler, self._peer.certificate_id)
        return handler


def _no_line(peer: Peer) -> PeerUnreachable:
    where = f"its address {peer.address} does not answer" if peer.address else "it has no address"
    return PeerUnreachable(
        f"{peer.name} cannot be reached from here: {where}, and no connection that it opened is"
        " free",
        hint=f"check that its agent runs: on {peer.name} run: systemctl status peersync-agent",
    )
