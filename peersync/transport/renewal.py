"""How a node's new certificate gets to its peers: they ask for it, and they are told.

Owns the one route for both, and the moment in which it is needed: a call that failed because
one side does not know the other's certificate. Whoever can connect does it, so it works from
either end, and for a peer that was away as well, whenever it comes back. What is exchanged
proves itself (`wire.succession`), so neither end needs to be known to the other.
"""

from __future__ import annotations

import logging

import aiohttp
from aiohttp import web

from peersync.core.errors import NotFound, PeersyncError
from peersync.transport.app import SUCCESSION_PATH, json_response
from peersync.transport.body import read_message
from peersync.transport.diagnosis import does_not_trust_us
from peersync.transport.identity import Identity, short_form
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.tls import anonymous_context
from peersync.wire.address import parse_peer_address
from peersync.wire.codec import decode, encode
from peersync.wire.messages import Message
from peersync.wire.succession import MAX_SUCCESSION_BYTES, Succession

log = logging.getLogger("peersync.renewal")

READ_S = 10.0
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, PeersyncError)


class Taken(Message, frozen=True, kw_only=True):
    """`certificate`: the fingerprint that is known for the node now."""

    certificate: str


def renewal_routes(identity: Identity, book: PeerBook) -> list[web.RouteDef]:
    """For the peers' listener; open to those whose certificate is not known (any more)."""

    async def show(_request: web.Request) -> web.Response:
        if identity.succession is None:
            raise NotFound("this node has its first certificate still")
        return json_response(identity.succession)

    async def take(request: web.Request) -> web.Response:
        told = await read_message(request, Succession, limit=MAX_SUCCESSION_BYTES, timeout_s=READ_S)
        peer = await _renew(book, told)
        return json_response(Taken(certificate=peer.certificate_id))

    return [web.get(SUCCESSION_PATH, show), web.post(SUCCESSION_PATH, take)]


class Renewal:
    """For the calls of one node: what can be done when a certificate is not known."""

    def __init__(self, identity: Identity, book: PeerBook) -> None:
        self._identity = identity
        self._book = book

    async def mended(self, error: Exception, peer: Peer, *, timeout_s: float) -> Peer | None:
        """The peer as it is known now, when a call that failed with `error` can be repeated.

        `peer` is what the caller had pinned. None where the failure was something else.
        """
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return await self._ask(peer, timeout_s)
        cut = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        if not cut or isinstance(error, aiohttp.ClientConnectorError):
            return None
        if self._identity.succession is None or peer.address is None:
            return None
        if not await does_not_trust_us(peer, self._identity, timeout_s):
            return None
        return peer if await self._tell(peer, self._identity.succession, timeout_s) else None

    async def _ask(self, peer: Peer, timeout_s: float) -> Peer | None:
        known = self._book.find(peer.node_id)
        if known is not None and known.certificate_id != peer.certificate_id:
            return known  # it has told us, since the caller's connection was made
        try:
            body = await _exchange(peer, None, timeout_s)
            renewed = await _renew(self._book, decode(body, Succession, limit=MAX_SUCCESSION_BYTES))
        except _FAILURES as error:
            log.debug("%s did not prove its certificate: %s", peer.name, error)
            return None
        changed = renewed.node_id == peer.node_id and renewed.certificate_id != peer.certificate_id
        return renewed if changed else None

    async def _tell(self, peer: Peer, succession: Succession, timeout_s: float) -> bool:
        try:
            body = await _exchange(peer, succession, timeout_s)
            known = decode(body, Taken, limit=MAX_SUCCESSION_BYTES).certificate
        except _FAILURES as error:
            log.debug("%s did not take our certificate: %s", peer.name, error)
            return False
        return known == self._identity.certificate_id


async def _renew(book: PeerBook, succession: Succession) -> Peer:
    ids = {peer.certificate_id for peer in book.peers()}
    peer = await book.renew(succession)
    if peer.certificate_id not in ids:
        log.info(
            "%s has a new certificate (%s), signed with its earlier key",
            peer.name, short_form(peer.certificate_id),
        )  # fmt: skip
    return peer


async def _exchange(peer: Peer, told: Succession | None, timeout_s: float) -> bytes:
    """Asks for a succession, or tells ours, on a connection that nobody authenticates.

    Neither is secret, and both prove themselves.
    """
    assert peer.address is not None
    limits = aiohttp.ClientTimeout(total=timeout_s + READ_S, sock_connect=timeout_s)
    async with (
        aiohttp.ClientSession(
            f"https://{parse_peer_address(peer.address)}",
            connector=aiohttp.TCPConnector(ssl=anonymous_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=limits,
            auto_decompress=False,
            trust_env=False,
        ) as session,
        session.request(
            "POST" if told else "GET", SUCCESSION_PATH,
            data=encode(told) if told else None, allow_redirects=False, raise_for_status=True,
        ) as response,
    ):  # fmt: skip
        body = bytearray()
        async for piece in response.content.iter_chunked(64 * 1024):
            body += piece
            if len(body) > MAX_SUCCESSION_BYTES:
                raise NotFound(f"{peer.name} sent more than a succession may have")
        return bytes(body)
