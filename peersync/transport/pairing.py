"""Both sides of pairing: who invites, and who joins.

Owns what becomes of an attempt. What is proved and how is decided in `wire.pairing`; invitations
are kept by `invites`; a joiner's call is made by `introduction`. A right proof stores the other
node here, and the answer to it stores this node there: one step for both. An invite works for one
node; the same node may ask again, because an answer can be lost. With one that asks first, whoever
has proved the secret waits until a person here has compared the fingerprint, and asks again till
then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from peersync.core.errors import (
    BadRequest,
    Denied,
    Locked,
    NotFound,
    PairingWaits,
    PeersyncError,
)
from peersync.transport.identity import Identity, fingerprint, short_form
from peersync.transport.introduction import introduce
from peersync.transport.invites import (
    AGAIN,
    MAX_OPEN,
    MAX_REFUSED_EACH,
    MAX_WAITING,
    MAX_WAITING_EACH,
    Invites,
    InviteState,
    StoredInvite,
    Waiting,
)
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.succession import belongs
from peersync.wire import pairing as wire
from peersync.wire.address import parse_peer_address
from peersync.wire.pairing import Invite, PairReply, PairRequest
from peersync.wire.succession import Succession

LEAST_ID = 8  # digits of an id that are enough

_log = logging.getLogger("peersync.pairing")


class PairingDesk:
    """`name` and `advertise` (HOST:PORT or None) are what other nodes are told of this one."""

    def __init__(
        self,
        book: PeerBook,
        identity: Identity,
        *,
        state_dir: Path,
        name: str,
        advertise: str | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.book = book
        self.identity = identity
        self.name = name
        self.advertise = advertise
        self._clock = clock
        self._invites = Invites(state_dir)
        self._lock = asyncio.Lock()

    # --- invitations ----------------------------------------------------------------------
    async def invite(
        self, address: str | None = None, *, confirm: bool = False, by: str = ""
    ) -> tuple[Invite, float]:
        """A new invite and the time (unix, seconds) at which it ends.

        `confirm`: who uses it waits until somebody here accepts it.
        """
        reached_at = address or self.advertise
        if reached_at is None:
            raise BadRequest(
                "this node does not know the address under which others reach it",
                hint="peersync peer invite --address HOST:8791, or set node.advertise",
            )
        secret = wire.encode_secret(secrets.token_bytes(wire.SECRET_BYTES))
        certificate_id = self.identity.certificate_id
        invite = Invite(parse_peer_address(reached_at), certificate_id, secret)
        async with self._lock:
            now = self._clock()
            if sum(stored.is_open(now) for stored in self._invites.all()) >= MAX_OPEN:
                raise BadRequest(
                    f"{MAX_OPEN} invites are open already",
                    hint="each ends after 15 minutes; or: peersync peer revoke ID",
                )
            stored = StoredInvite(
                id=wire.invite_id(secret),
                key=wire.invite_key(secret),
                expires_at=now + wire.LIFETIME_S,
                made_at=now,
                made_by=by,
                address=str(invite.address),
                confirm=confirm,
            )
            await self._keep(stored)
        return invite, stored.expires_at

    def invites(self) -> list[tuple[StoredInvite, InviteState]]:
        """Newest first, also those that ended within a day, each with its state now."""
        now = self._clock()
        found = [(stored, stored.state(now)) for stored in self._invites.all()]
        return sorted(found, key=lambda one: one[0].made_at or 0.0, reverse=True)

    async def revoke(self, prefix: str) -> StoredInvite:
        """Ends an invite, and turns away who waits with it. NotFound, or Locked: it is over."""
        async with self._lock:
            found = [one for one in self._invites.all() if one.id.startswith(prefix)]
            if len(found) != 1 or len(prefix) < LEAST_ID:
                raise NotFound(f"there is no invite {prefix[:64]!r}", hint="peersync peer invites")
            stored, now = found[0], self._clock()
            if not stored.is_open(now) and not stored.waits(now):
                raise Locked(
                    f"invite {stored.id[:LEAST_ID]} is over already: {stored.state(now)}",
                    hint="a node that was paired by it: peersync peer remove NAME",
                )
            stored = msgspec.structs.replace(stored, revoked=True, waiting=())
            await self._keep(stored)
        _log.info("invite %s was revoked", stored.id[:8])
        return stored

    # --- who waits for a person -----------------------------------------------------------
    def pending(self) -> list[tuple[StoredInvite, Waiting]]:
        """Who has proved an invite that asks first, the oldest first."""
        now = self._clock()
        found = [(stored, w) for stored in self._invites.all() for w in stored.waits(now)]
        return sorted(found, key=lambda one: one[1].asked_at)

    def problem_of(self, waiting: Waiting) -> str | None:
        """Why it could not be accepted as things are."""
        try:
            self._peer_to_be(waiting.request)
        except PeersyncError as error:
            return error.message
        return None

    def looks_like(self, waiting: Waiting) -> str | None:
        """Another node's name, or this one's, for which its own could be taken."""
        others = [p.name for p in self.book.peers() if p.node_id != node_id(waiting)]
        alike = (n for n in (self.name, *others) if wire.look_alike(n, waiting.request.name))
        return next(alike, None)

    async def accept(self, joiner: str) -> Peer:
        """Makes a node that waits a peer. It has the answer when it asks again."""
        async with self._lock:
            stored, waiting = self._waiting(joiner)
            peer = self._peer_to_be(waiting.request)
            # Stored before used: a crash in between leaves a node that can be accepted once more.
            peer = await self.book.store(peer)
            accepted = msgspec.structs.replace(
                stored, used_by=waiting.joiner, accepted_at=self._clock(), waiting=()
            )
            await self._keep(accepted)
        _log.info("paired with %s (%s), accepted here", peer.name, short_form(peer.node_id))
        return peer

    async def refuse(self, joiner: str) -> tuple[StoredInvite, Waiting]:
        """Turns a node that waits away: it can have nothing by this invite any more."""
        async with self._lock:
            stored, waiting = self._waiting(joiner)
            left = tuple(w for w in stored.waiting if w.joiner != waiting.joiner)
            refused = (*stored.refused, waiting.joiner)
            await self._keep(msgspec.structs.replace(stored, waiting=left, refused=refused))
        _log.info("%s (%s) was refused", waiting.request.name, short_form(waiting.joiner))
        return stored, waiting

    def _waiting(self, joiner: str) -> tuple[StoredInvite, Waiting]:
        """By its certificate's fingerprint, whose beginning is enough, or by its name."""
        plain = joiner.replace("-", "")
        found = [
            (stored, w)
            for stored, w in self.pending()
            if w.request.name == joiner
            or (len(plain) >= LEAST_ID and any(i.startswith(plain) for i in (w.joiner, node_id(w))))
        ]
        if len(found) != 1:
            words = f"{len(found)} nodes that wait are" if found else "no node waits that is"
            raise NotFound(f"{words} {joiner[:64]!r}", hint="peersync peer pending")
        return found[0]

    # --- an attempt -----------------------------------------------------------------------
    async def answer(self, request: PairRequest, came_from: str = "") -> PairReply:
        """The inviter's side of one attempt; Denied says why it failed, PairingWaits that it
        has to be accepted by a person first."""
        joiner = fingerprint(request.certificate)
        if request.address is not None:
            parse_peer_address(request.address)
        async with self._lock:
            stored = self._usable(request.invite, joiner)
            await self._check_proof(stored, request, joiner)
            peer = self._peer_to_be(request)
            if stored.confirm and stored.used_by is None:
                raise await self._let_wait(stored, request, joiner, came_from)
            if stored.accepted_at is not None:
                self._refuse_removed(peer)
            elif stored.paired and self.book.find(peer.node_id) is None:
                raise _used_already()  # it was removed since: its line must not bring it back
            else:
                # Used before stored: a crash in between costs a second attempt of the same node,
                # never a second node.
                stored = msgspec.structs.replace(stored, used_by=joiner)
                await self._keep(stored)
                await self.book.store(peer)
                await self._keep(msgspec.structs.replace(stored, paired=True))
        _log.info("paired with %s (%s)", request.name, short_form(peer.node_id))
        nonce = secrets.token_hex(16)
        proof = wire.inviter_proof(
            stored.key,
            inviter=self.identity.certificate_id,
            joiner=joiner,
            name=self.name,
            nonces=(request.nonce, nonce),
        )
        return PairReply(
            name=self.name,
            certificate=self.identity.cert_pem,
            nonce=nonce,
            proof=proof,
            succession=self.identity.succession,
        )

    async def join(self, line: str, advertise: str | None = None) -> Peer:
        """Pairs with the node that made `line`; both know each other when this returns."""
        invite = wire.parse_invite(line)
        if invite.fingerprint == self.identity.certificate_id:
            raise BadRequest(
                "this line was made on this very node",
                hint="paste it on the other server: peersync peer join LINE",
            )
        reply = await introduce(invite, self.identity, self.name, advertise or self.advertise)
        self._refuse_own_name(reply.name)
        peer = self._peer(reply.name, reply.certificate, str(invite.address), reply.succession)
        return await self.book.store(peer)

    def _usable(self, invite_id: str, joiner: str) -> StoredInvite:
        stored = self._invites.find(invite_id)
        if stored is None:
            raise Denied("this server made no such invite, or it is long gone", hint=AGAIN)
        stored.refuse_unusable(joiner, self._clock())
        return stored

    async def _let_wait(
        self, stored: StoredInvite, request: PairRequest, joiner: str, came_from: str
    ) -> PairingWaits:
        """Notes who asks, once; what is told to it. Denied where too many wait."""
        now = self._clock()
        if stored.waiter(joiner, now) is None:
            if (
                len(self.pending()) >= MAX_WAITING
                or len(stored.waits(now)) >= MAX_WAITING_EACH
                or len(stored.refused) >= MAX_REFUSED_EACH
            ):
                raise Denied("too many nodes wait there to be accepted", hint=AGAIN)
            new = Waiting(joiner=joiner, request=request, came_from=came_from, asked_at=now)
            await self._keep(msgspec.structs.replace(stored, waiting=(*stored.waits(now), new)))
            _log.info("%s (%s) waits to be accepted", request.name, short_form(node_id(new)))
        return PairingWaits(
            f"{self.name} asks an admin there first: accept {request.name} by its fingerprint",
            hint=f"on {self.name}: peersync peer pending; then the same command here again",
        )

    def _refuse_removed(self, peer: Peer) -> None:
        """What a person has accepted stays as it was accepted, and ends with `peer remove`."""
        known = self.book.find(peer.node_id)
        if known is None or known.name != peer.name or known.cert_pem != peer.cert_pem:
            raise _used_already()

    async def _check_proof(self, stored: StoredInvite, request: PairRequest, joiner: str) -> None:
        expected = wire.joiner_proof(
            stored.key,
            inviter=self.identity.certificate_id,
            joiner=joiner,
            name=request.name,
            address=request.address,
            nonce=request.nonce,
        )
        if not wire.same_proof(expected, request.proof):
            await self._keep(msgspec.structs.replace(stored, wrong_proofs=stored.wrong_proofs + 1))
            _log.warning("a wrong proof for invite %s", stored.id[:8])
            raise Denied("the proof of the invite's secret is wrong", hint=AGAIN)

    def _refuse_own_name(self, name: str) -> None:
        if name == self.name:
            raise Denied(
                f"both nodes are called {name!r}", hint="give one of them another node.name"
            )

    def _peer_to_be(self, request: PairRequest) -> Peer:
        """What would be stored of who asks; Denied, or BadRequest, where it can't be."""
        peer = self._peer(request.name, request.certificate, request.address, request.succession)
        if not belongs(peer.cert_pem, peer.node_id, peer.succession):
            raise BadRequest("the certificate is not the one of this node id")
        self.book.check(peer.name, peer.node_id)
        self._refuse_own_name(request.name)
        return peer

    def _peer(
        self, name: str, certificate: str, address: str | None, succession: Succession | None
    ) -> Peer:
        return Peer(
            name=name,
            node_id=fingerprint(succession.first if succession else certificate),
            succession=succession,
            cert_pem=certificate,
            address=address,
            added_at=datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds"),
        )

    async def _keep(self, stored: StoredInvite) -> None:
        await self._invites.keep(stored, self._clock())


def node_id(waiting: Waiting) -> str:
    """The node's id, as people see it everywhere else."""
    request = waiting.request
    return fingerprint(request.succession.first if request.succession else request.certificate)


def _used_already() -> Denied:
    return Denied("this invite was used already; each works once", hint=AGAIN)
