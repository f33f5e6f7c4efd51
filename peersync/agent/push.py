"""Pushes: a database of this node is taken by a peer, because somebody asked for it here.

The peer does the work, as it does when it pulls; this node offers its database for one
session, and shows the peer's own account of it. So both agents know the same numbers, and
all that a pull can do (resume, cancel, verify) a push can, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from peersync.agent.databases import Databases
from peersync.agent.jobview import Started
from peersync.agent.offers import Offer, Offers
from peersync.agent.plan import Plan
from peersync.core.errors import BadRequest, NotFound
from peersync.postgres.history import Entry, History
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook
from peersync.wire.messages import Ok, Options, ReceiveRequest, RestoreRequest, SyncType

RECEIVE_PATH = "/api/sync/receive-backup"
RESTORE_PATH = "/api/sync/restore-backup"
_PLAN_TIMEOUT_S = 120.0


class Pushes:
    """Starts them, and passes on what is asked of those that were started."""

    def __init__(
        self,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        offers: Offers,
    ) -> None:
        self._databases = databases
        self._book = book
        self._client_for = client_for
        self._offers = offers

    async def plan(self, peer_name: str, database: str, options: Options) -> Plan:
        """What the peer would do. Raises what it refuses with."""
        peer = self._book.get(peer_name)
        self._databases.get(database)
        session = secrets.token_hex(16)
        self._offers.make(session, Offer(peer.node_id, database, by="", sync_type="manual"))
        try:
            request = ReceiveRequest(
                session=session, database=database, options=options, dry_run=True
            )
            return (await self._call(peer, request)).plan
        finally:
            self._offers.withdraw(session)

    async def start(
        self,
        peer_name: str,
        database: str,
        options: Options,
        *,
        by: str,
        sync_type: SyncType,
        session: str | None = None,
    ) -> Started:
        """The peer has begun when this returns. Raises Denied, Locked … as the peer says.

        `session`: a new id, where somebody has to know it before.
        """
        peer = self._book.get(peer_name)
        history = History(await self._databases.ready(database))
        session = session or secrets.token_hex(16)
        # Before the peer is asked: it comes for the rows before it has answered.
        self._offers.make(session, Offer(peer.node_id, database, by, sync_type))
        await history.create(
            session,
            role="source",
            action="push",
            peer_id=peer.node_id,
            peer_name=peer.name,
            requested_by=by,
            options=options,
            sync_type=sync_type,
            plan=None,
        )
        request = ReceiveRequest(
            session=session,
            database=database,
            options=options,
            requested_by=by,
            sync_type=sync_type,
        )
        try:
            return await self._call(peer, request)
        except BaseException:
            self._offers.withdraw(session)
            await history.forget(session)
            raise

    async def _call(self, peer: Peer, request: ReceiveRequest) -> Started:
        return await self._client_for(peer).call(
            "POST", RECEIVE_PATH, request, Started, read_timeout_s=_PLAN_TIMEOUT_S
        )

    async def forget(self, entry: Entry) -> None:
        """Takes back the record and the offer of one that the peer knows nothing of."""
        self._offers.withdraw(entry.session)
        await History(self._databases.get(entry.database)).forget(entry.session)

    async def cancel(self, entry: Entry, by: str) -> None:
        """BadRequest for what the peer does by itself."""
        if entry.completed_at is not None:
            return
        if entry.action != "push":
            raise BadRequest(
                f"{entry.peer} pulls in job {entry.session[:8]}; it is its to cancel",
                hint=f"On {entry.peer}: peersync jobs cancel {entry.session[:8]}\n"
                f"To stop giving to it at all: peersync peer deny {entry.peer} --pull",
            )
        wanted = RestoreRequest(session=entry.session, action="cancel", requested_by=by)
        await self._ask(entry, wanted)

    async def resume(self, entry: Entry) -> None:
        """BadRequest for what the peer does by itself, or says that it can't."""
        if entry.action != "push":
            raise BadRequest(
                f"{entry.peer} pulled in job {entry.session[:8]}; it is its to take up again",
                hint=f"On {entry.peer}: peersync jobs resume {entry.session[:8]}",
            )
        await self._ask(entry, RestoreRequest(session=entry.session, action="resume"))
        history = History(self._databases.get(entry.database))
        await history.reopen_given(entry.session, entry.completed_at)

    async def _ask(self, entry: Entry, request: RestoreRequest) -> None:
        peer = self._book.find(entry.peer_id)
        if peer is None:
            raise BadRequest(f"the peer of job {entry.session[:8]} is not known any more")
        await self._client_for(peer).call("POST", RESTORE_PATH, request, Ok)


def refuse_others(peer: Peer, session: str, entry: Entry | None) -> None:
    """Raises unless this is the record of what the peer has pushed here, and may."""
    if entry is None or (entry.role, entry.action, entry.peer_id) != (
        "target",
        "push",
        peer.node_id,
    ):
        raise NotFound(f"{peer.name} has no push {session[:8]} here")
    peer.require("push", entry.database)
