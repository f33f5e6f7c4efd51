"""Both sides of pairing: who invites, and who joins.

Owns the open invites (`state_dir/invites.json`, so that they survive a restart) and the
call that a joiner makes. What is proved and how is decided in `wire.pairing`. A right proof
stores the other node here, and the answer to it stores this node there: one step for both.
An invite works for one node; the same node may ask again, because an answer can be lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from peersync.core.errors import BadRequest, ConfigError, Denied, PeersyncError
from peersync.transport.app import PAIR_PATH
from peersync.transport.diagnosis import connection_failure
from peersync.transport.files import read_private, write_private
from peersync.transport.identity import Identity, fingerprint, short_form
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.problems import from_problem
from peersync.wire import pairing as wire
from peersync.wire.address import parse_peer_address
from peersync.wire.codec import decode, encode
from peersync.wire.pairing import Invite, PairReply, PairRequest
from peersync.wire.succession import Succession

SCHEMA_VERSION = 1
MAX_OPEN = 32
KEEP_ENDED_S = 24 * 3600.0  # so that a late joiner is told why
MAX_BYTES = 256 * 1024
JOIN_TIMEOUT_S = 30.0

_log = logging.getLogger("peersync.pairing")
_AGAIN = "ask for a new line on the other server: peersync peer invite"


class _Stored(msgspec.Struct, frozen=True):
    """An invite as the inviter keeps it: without its secret."""

    id: str
    key: str
    expires_at: float
    wrong_proofs: int = 0
    used_by: str | None = None

    def __repr__(self) -> str:
        return f"_Stored(id={self.id[:8]}, expires_at={self.expires_at})"

    def is_open(self, now: float) -> bool:
        return (
            self.used_by is None
            and now < self.expires_at
            and self.wrong_proofs < wire.MAX_WRONG_PROOFS
        )


class _File(msgspec.Struct):
    schema_version: int
    invites: list[_Stored]


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
        self._path = state_dir / "invites.json"
        self._invites = _read(self._path)
        self._lock = asyncio.Lock()

    async def invite(self, address: str | None = None) -> tuple[Invite, float]:
        """A new invite and the time (unix, seconds) at which it ends."""
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
            if sum(stored.is_open(now) for stored in self._invites.values()) >= MAX_OPEN:
                raise BadRequest(
                    f"{MAX_OPEN} invites are open already", hint="each ends after 15 minutes"
                )
            stored = _Stored(wire.invite_id(secret), wire.invite_key(secret), now + wire.LIFETIME_S)
            await self._keep(stored)
        return invite, stored.expires_at

    async def answer(self, request: PairRequest) -> PairReply:
        """The inviter's side of one attempt; Denied says why it failed."""
        joiner = fingerprint(request.certificate)
        if request.address is not None:
            parse_peer_address(request.address)
        async with self._lock:
            stored = self._usable(request.invite, joiner)
            await self._check_proof(stored, request, joiner)
            peer = self._peer(
                request.name, request.certificate, request.address, request.succession
            )
            self.book.check(peer.name, peer.node_id)
            self._refuse_own_name(request.name)
            # Used before stored: a crash in between costs a second attempt of the same node,
            # never a second node.
            await self._keep(msgspec.structs.replace(stored, used_by=joiner))
            await self.book.store(peer)
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
        key, nonce = wire.invite_key(invite.secret), secrets.token_hex(16)
        address = advertise or self.advertise
        ids = {"inviter": invite.fingerprint, "joiner": self.identity.certificate_id}
        proof = wire.joiner_proof(key, **ids, name=self.name, address=address, nonce=nonce)
        request = PairRequest(
            invite=wire.invite_id(invite.secret),
            name=self.name,
            certificate=self.identity.cert_pem,
            address=address,
            nonce=nonce,
            proof=proof,
            succession=self.identity.succession,
        )
        reply = await _ask(invite, request)
        expected = wire.inviter_proof(key, **ids, name=reply.name, nonces=(nonce, reply.nonce))
        if not (
            wire.same_proof(expected, reply.proof)
            and fingerprint(reply.certificate) == invite.fingerprint
        ):
            raise Denied(f"{invite.address} could not prove that it made this line", hint=_AGAIN)
        self._refuse_own_name(reply.name)
        peer = self._peer(reply.name, reply.certificate, str(invite.address), reply.succession)
        return await self.book.store(peer)

    def _usable(self, invite_id: str, joiner: str) -> _Stored:
        stored = self._invites.get(invite_id)
        if stored is None:
            raise Denied("this server made no such invite, or it is long gone", hint=_AGAIN)
        if stored.wrong_proofs >= wire.MAX_WRONG_PROOFS:
            raise Denied("this invite is void after too many wrong proofs", hint=_AGAIN)
        if self._clock() >= stored.expires_at:
            raise Denied("this invite has expired; it lives for 15 minutes", hint=_AGAIN)
        if stored.used_by not in (None, joiner):
            raise Denied("this invite was used already; each works once", hint=_AGAIN)
        return stored

    async def _check_proof(self, stored: _Stored, request: PairRequest, joiner: str) -> None:
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
            raise Denied("the proof of the invite's secret is wrong", hint=_AGAIN)

    def _refuse_own_name(self, name: str) -> None:
        if name == self.name:
            raise Denied(
                f"both nodes are called {name!r}", hint="give one of them another node.name"
            )

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

    async def _keep(self, stored: _Stored) -> None:
        forget = self._clock() - KEEP_ENDED_S
        invites = {k: v for k, v in self._invites.items() if v.expires_at > forget}
        invites[stored.id] = stored
        data = msgspec.json.encode(_File(SCHEMA_VERSION, [*invites.values()]))
        await asyncio.to_thread(write_private, self._path, data)
        self._invites = invites


def _read(path: Path) -> dict[str, _Stored]:
    data = read_private(path, limit=MAX_BYTES)
    if data is None:
        return {}
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read", detail=str(error), hint=f"delete it: rm {path}"
        ) from error
    return {stored.id: stored for stored in file.invites}


async def _ask(invite: Invite, request: PairRequest) -> PairReply:
    where = f"the server at {invite.address}"
    timeout = aiohttp.ClientTimeout(total=JOIN_TIMEOUT_S)
    pin = aiohttp.Fingerprint(bytes.fromhex(invite.fingerprint))
    try:
        async with (
            aiohttp.ClientSession(
                f"https://{invite.address}",
                connector=aiohttp.TCPConnector(ssl=pin),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.post(PAIR_PATH, data=encode(request), allow_redirects=False) as response,
        ):
            body = await response.content.read(wire.MAX_PAIR_BYTES + 1)
            while not response.content.at_eof() and len(body) <= wire.MAX_PAIR_BYTES:
                body += await response.content.read(wire.MAX_PAIR_BYTES)
    except aiohttp.ServerFingerprintMismatch as error:
        raise _imposter(invite, error.got.hex()) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise connection_failure(error, where) from error
    if response.status != 200:
        raise _refused(from_problem(response.status, body), where)
    return decode(body, PairReply, limit=wire.MAX_PAIR_BYTES)


def _imposter(invite: Invite, got: str) -> Denied:
    return Denied(
        f"the server at {invite.address} shows another certificate than the one in the line:"
        f" expected {short_form(invite.fingerprint)}, got {short_form(got)}",
        hint="check the address; if it is right, somebody is in between",
        expected=invite.fingerprint,
        got=got,
    )


def _refused(told: PeersyncError, where: str) -> PeersyncError:
    return type(told)(
        f"{where} refused: {told.message}", detail=told.detail, hint=told.hint, **told.data
    )
