"""Who may take a backup from this node: a peer with the right, or one that was offered a push.

An offer is for one peer, one database and one session, and is made by whoever starts a
push on this node. After a restart of the agent the session's record says what was offered.
"""

from __future__ import annotations

from typing import NamedTuple

from peersync.agent.databases import Databases
from peersync.postgres.history import History
from peersync.transport.peers import Peer


class Offer(NamedTuple):
    """What was offered to whom, and who asked for it here."""

    peer_id: str
    database: str
    by: str
    sync_type: str


class Offers:
    """The pushes that were started here, by session."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._offers: dict[str, Offer] = {}

    def make(self, session: str, offer: Offer) -> None:
        self._offers[session] = offer

    def withdraw(self, session: str) -> None:
        """The peer did not take it, or the session has ended."""
        self._offers.pop(session, None)

    def get(self, session: str) -> Offer | None:
        return self._offers.get(session)

    async def require(self, peer: Peer, database: str, session: str | None) -> None:
        """Raises Denied unless the peer may pull, or was offered this database."""
        if session is not None:
            offer = self._offers.get(session) or await self._recorded(session, database)
            if offer is not None and (offer.peer_id, offer.database) == (peer.node_id, database):
                self._offers[session] = offer
                return
        peer.require("pull", database)

    async def _recorded(self, session: str, database: str) -> Offer | None:
        if database not in self._databases.names():
            return None
        entry = await History(await self._databases.ready(database)).get(session)
        if entry is None or (entry.role, entry.action) != ("source", "push"):
            return None
        if entry.completed_at is not None and not entry.resumable:
            return None
        return Offer(entry.peer_id, entry.database, entry.requested_by, entry.sync_type)
