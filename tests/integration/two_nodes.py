"""Nodes without databases for the tests of the transport: identity, peer book, listener."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from peersync.transport.app import listen_peers
from peersync.transport.client import PeerClient
from peersync.transport.identity import Identity, create_identity, load_identity
from peersync.transport.listener import DEFAULT_LIMITS, Limits
from peersync.transport.pairing import PairingDesk
from peersync.transport.peer_routes import pair_routes
from peersync.transport.peers import Peer, PeerBook
from peersync.wire.address import Address

Clock = Callable[[], float]


@dataclass
class Node:
    """One end. `address` is where it listens; all of it is real."""

    name: str
    state_dir: Path
    identity: Identity
    book: PeerBook
    desk: PairingDesk
    address: Address

    def client(self, name: str, *, read_timeout_s: float = 10.0) -> PeerClient:
        return self.client_to(self.book.get(name), read_timeout_s=read_timeout_s)

    def client_to(self, peer: Peer, *, read_timeout_s: float = 10.0) -> PeerClient:
        return PeerClient(peer, self.identity, connect_timeout_s=5, read_timeout_s=read_timeout_s)

    def as_peer(self, *, address: str | None = None, cert_of: Node | None = None) -> Peer:
        """This node as an entry of another's book; with another's certificate if asked."""
        identity = (cert_of or self).identity
        return Peer(
            name=self.name,
            node_id=identity.node_id,
            cert_pem=identity.cert_pem,
            address=address or str(self.address),
            added_at="2026-01-01T00:00:00+00:00",
        )


def set_up(root: Path, name: str, clock: Clock = time.time) -> Node:
    """Blocks: call it outside the loop, or where a test says so."""
    state_dir = root / name
    directory = state_dir / "identity"
    identity = (
        create_identity(state_dir, name) if not directory.exists() else load_identity(state_dir)
    )
    book = PeerBook(state_dir / "peers.json", identity.node_id)
    desk = PairingDesk(book, identity, state_dir=state_dir, name=name, advertise=None, clock=clock)
    return Node(name, state_dir, identity, book, desk, Address("127.0.0.1", 0))


@asynccontextmanager
async def listening(
    node: Node, routes: Iterable[web.RouteDef] = (), *, limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[Node]:
    """The node's peers' listener on a free port of loopback."""
    every = [*pair_routes(node.desk), *routes]
    async with listen_peers(
        node.book, node.identity, every, "127.0.0.1", 0, limits=limits
    ) as address:
        node.address = address
        node.desk.advertise = str(address)
        yield node


@asynccontextmanager
async def served(a: Node, b: Node, *routes: web.RouteDef) -> AsyncIterator[PeerClient]:
    """A client of b for routes that a serves; both know each other."""
    await a.book.store(b.as_peer(address="127.0.0.1:1"))
    async with listening(a, routes), b.client_to(a.as_peer()) as client:
        yield client
