"""Why a call to a peer failed, in words that an operator can act on.

Owns the translation of aiohttp's and the system's errors. Two of them say too little: a
server that does not trust our certificate just closes the connection (TLS 1.3 tells the
client that the handshake went well before the server has looked), and a wrong certificate
is refused without being shown. For these two the peer is asked once more, with a bare
handshake that sends nothing.
"""

from __future__ import annotations

import asyncio
import ssl

import aiohttp

from peersync.core.errors import (
    Denied,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
)
from peersync.transport.identity import Identity, fingerprint, short_form
from peersync.transport.peers import Peer
from peersync.transport.tls import anonymous_context, client_context
from peersync.wire.address import Address, parse_peer_address

PROBE_S = 1.0  # a refusal follows the handshake at once

# Order matters: the first class that fits is the most specific one.
_TIMEOUTS = (aiohttp.ServerTimeoutError, TimeoutError)
_CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)


async def explain(
    error: Exception, peer: Peer, identity: Identity, *, timeout_s: float
) -> PeersyncError:
    """The error to raise instead. `timeout_s` bounds what is asked to find out."""
    where = f"{peer.name} ({peer.address})"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return await _wrong_certificate(peer, timeout_s)
    if isinstance(error, _CUT) and not isinstance(error, aiohttp.ClientConnectorError):
        if await does_not_trust_us(peer, identity, timeout_s):
            return _mute_refusal(peer, identity)
        return PeerUnreachable(
            f"{where} closed the connection before it had answered",
            hint=f"look at its agent: on {peer.name} run: systemctl status peersync-agent",
        )
    return connection_failure(error, where)


def connection_failure(error: Exception, where: str) -> PeersyncError:
    """What can be said without asking again. `where` is a name and an address."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return PeerUnreachable(
            f"the host name of {where} cannot be resolved",
            detail=str(error.os_error),
            hint="check DNS or /etc/hosts; pair again if its address has changed",
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return PeerUnreachable(
            f"{where} does not speak TLS as peersync does",
            detail=str(error.certificate_error if hasattr(error, "certificate_error") else error),
            hint="is this the peers' port (node.listen, 8791), and nothing else's?",
        )
    if isinstance(error, _TIMEOUTS):
        return PeerUnreachable(
            f"{where} did not answer in time",
            detail=str(error) or None,
            hint="check the network, the firewall and whether the server is overloaded",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return PeerUnreachable(
            f"{where} cannot be reached: {error.os_error.strerror or error.os_error}",
            hint="check that its agent runs (systemctl status peersync-agent), that it listens"
            " on this address (node.listen), and the firewalls between",
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return PeerUnreachable(f"the connection to {where} broke in the middle of an answer")
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
        return ProtocolError(f"{where} does not answer in HTTP as a peer does", detail=str(error))
    return PeerUnreachable(f"the connection to {where} failed", detail=str(error) or repr(error))


def _mute_refusal(peer: Peer, identity: Identity) -> Denied:
    return Denied(
        f"{peer.name} closed the connection during authentication; it may not trust this"
        f" server's certificate (fingerprint {identity.short_id})",
        hint=f"on {peer.name} run: peersync peer list",
        fingerprint=identity.node_id,
        peer=peer.name,
    )


async def _wrong_certificate(peer: Peer, timeout_s: float) -> Denied:
    assert peer.address is not None
    got = await shown_fingerprint(parse_peer_address(peer.address), timeout_s)
    return Denied(
        f"{peer.name} ({peer.address}) shows another certificate than the one that was paired:"
        f" expected {short_form(peer.certificate_id)}, got {short_form(got) if got else 'none'}",
        hint="if that server was set up anew, pair again; if not, somebody is in between",
        expected=peer.certificate_id,
        got=got,
    )


async def shown_fingerprint(address: Address, timeout_s: float) -> str | None:
    """Which certificate answers at an address; None when no handshake was possible."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(*address, ssl=anonymous_context())
    except (OSError, TimeoutError):
        return None
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True)
        return fingerprint(certificate) if certificate else None
    finally:
        writer.close()


async def does_not_trust_us(peer: Peer, identity: Identity, timeout_s: float) -> bool:
    """Whether the peer lets in a client without a certificate, and cuts one with ours."""
    assert peer.address is not None
    address = parse_peer_address(peer.address)
    with_ours = await _is_cut(address, client_context(identity, peer), timeout_s)
    return with_ours and not await _is_cut(address, anonymous_context(), timeout_s)


async def _is_cut(address: Address, context: ssl.SSLContext, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(*address, ssl=context)
    except (OSError, TimeoutError):
        return True
    try:
        async with asyncio.timeout(PROBE_S):
            return not await reader.read(1)
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        writer.close()
