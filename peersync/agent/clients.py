"""The connections to peers: one client for each, made when it is first needed.

Owns the clients and closes them, at the end: one that was replaced (another address, another
certificate, other settings) may still have requests under way. It asks nothing itself.
"""

from __future__ import annotations

from peersync.config.model import Config
from peersync.transport.client import PeerClient
from peersync.transport.identity import Identity
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.renewal import Renewal
from peersync.transport.ways import Ways


class Clients:
    """By peer. A peer whose address or certificate changes gets a new client."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        book: PeerBook,
        ways: Ways | None = None,
        renewal: Renewal | None = None,
    ) -> None:
        """Without `ways` peers are reached at their addresses only; `renewal` is for who may
        write the peer book."""
        self._ways = ways
        self._renewal = renewal
        self._config = config
        self._identity = identity
        self._clients: dict[str, PeerClient] = {}
        self._stale: list[PeerClient] = []
        book.watch(stored=self._forget, removed=self._forget)

    def get(self, peer: Peer) -> PeerClient:
        if peer.node_id not in self._clients:
            network = self._config.network
            self._clients[peer.node_id] = PeerClient(
                peer,
                self._identity,
                connect_timeout_s=network.connect_timeout_s,
                read_timeout_s=network.read_timeout_s,
                connections=self._config.full_sync.in_flight + 4 + 3 * len(self._config.database),
                ways=self._ways,
                renewal=self._renewal,
            )
        return self._clients[peer.node_id]

    def renew(self) -> None:
        """The settings of the network have changed: who asks from now on gets a new client."""
        self._stale += self._clients.values()
        self._clients.clear()

    def _forget(self, peer: Peer) -> None:
        if (client := self._clients.pop(peer.node_id, None)) is not None:
            self._stale.append(client)

    async def close(self) -> None:
        for client in [*self._clients.values(), *self._stale]:
            await client.close()
