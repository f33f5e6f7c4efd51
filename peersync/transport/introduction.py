"""A joiner's call to the node that made its line: each proves to the other that it has the secret.

Owns the connection, pinned to the certificate in the line, and the two proofs. Nothing is stored
here: what becomes of the answer is decided in `pairing`.
"""

from __future__ import annotations

import secrets

import aiohttp

from peersync.core.errors import Denied, PairingWaits, PeersyncError
from peersync.transport.app import PAIR_PATH
from peersync.transport.diagnosis import connection_failure
from peersync.transport.identity import Identity, fingerprint, short_form
from peersync.transport.invites import AGAIN
from peersync.transport.problems import from_problem
from peersync.wire import pairing as wire
from peersync.wire.codec import decode, encode
from peersync.wire.pairing import Invite, PairReply, PairRequest

JOIN_TIMEOUT_S = 30.0


async def introduce(
    invite: Invite, identity: Identity, name: str, address: str | None
) -> PairReply:
    """The answer of the node that made the invite, once it has proved that it did.

    `name` and `address` (HOST:PORT or None) are what it is told of this node. Raises Denied,
    PairingWaits where a person there has to accept this node first, and what is wrong with the
    connection.
    """
    key, nonce = wire.invite_key(invite.secret), secrets.token_hex(16)
    ids = {"inviter": invite.fingerprint, "joiner": identity.certificate_id}
    proof = wire.joiner_proof(key, **ids, name=name, address=address, nonce=nonce)
    request = PairRequest(
        invite=wire.invite_id(invite.secret),
        name=name,
        certificate=identity.cert_pem,
        address=address,
        nonce=nonce,
        proof=proof,
        succession=identity.succession,
    )
    try:
        reply = await _ask(invite, request)
    except PairingWaits as waits:  # it is this very node that is to be compared over there
        waits.data.update(short_id=identity.short_id, peer_address=str(invite.address))
        raise
    expected = wire.inviter_proof(key, **ids, name=reply.name, nonces=(nonce, reply.nonce))
    if not (
        wire.same_proof(expected, reply.proof)
        and fingerprint(reply.certificate) == invite.fingerprint
    ):
        raise Denied(f"{invite.address} could not prove that it made this line", hint=AGAIN)
    return reply


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
    if isinstance(told, PairingWaits):
        return told
    return type(told)(
        f"{where} refused: {told.message}", detail=told.detail, hint=told.hint, **told.data
    )
