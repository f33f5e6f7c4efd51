"""TLS between nodes: version 1.3, pinned certificates on both ends, no authority.

Owns the two kinds of context. A context only decides who gets through the handshake;
who may do what is decided for each request, from the peer book. Dates in certificates are
not looked at: trust ends by `peer remove`, and a server with a wrong clock must still be
able to talk to its peers.
"""

from __future__ import annotations

import ssl

from peersync.core.errors import ConfigError
from peersync.transport.identity import Identity
from peersync.transport.peers import Peer, PeerBook

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL; the ssl module has no name for it.
NO_CHECK_TIME = 0x200000


def server_context(identity: Identity, book: PeerBook) -> ssl.SSLContext:
    """The peers' listener: knows the certificates of the book, and learns new ones live.

    A certificate is optional, because a node that is about to be paired has none that we
    know; ssl cannot let an unknown one in. There are no session tickets, which would
    outlive a removed peer.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    for peer in book.peers():
        _trust(context, peer)
    book.watch(stored=lambda peer: _trust(context, peer))
    return context


def client_context(identity: Identity, peer: Peer) -> ssl.SSLContext:
    """For calls to one peer: exactly its certificate is accepted, and ours is shown."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, identity)
    context.check_hostname = False  # the certificate itself is pinned, its name says nothing
    context.verify_mode = ssl.CERT_REQUIRED
    _trust(context, peer)
    return context


def anonymous_context() -> ssl.SSLContext:
    """Without a certificate, and accepting any: for pairing, where the caller pins the
    fingerprint itself, and for asking which certificate a server shows. Sends no secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: ssl._SSLMethod, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= NO_CHECK_TIME
    try:
        context.load_cert_chain(identity.cert_path, identity.key_path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"the identity in {identity.cert_path.parent} cannot be used", detail=str(error)
        ) from error
    return context


def _trust(context: ssl.SSLContext, peer: Peer) -> None:
    context.load_verify_locations(cadata=peer.cert_pem)
