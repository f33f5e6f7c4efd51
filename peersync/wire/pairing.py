"""Pairing: the invite line, and the proofs by which two nodes learn to trust each other.

Two nodes that have never met share one thing: a line that a person carried from one to the
other. It holds the inviter's address, the fingerprint of its certificate and a secret of
160 bits. The joiner pins that certificate, so it talks to the inviter and to nobody else.
Each side then proves the secret by an HMAC over both certificates and what is to be stored,
so neither can be given another's certificate. The secret itself never crosses the wire.

Pure: no clock, no randomness, no sockets. Secrets and nonces come in as arguments.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Annotated

import msgspec

from peersync.config.model import NodeName
from peersync.core.errors import BadRequest
from peersync.wire.address import Address, parse_peer_address
from peersync.wire.messages import Digest, Message
from peersync.wire.succession import MAX_CERTIFICATE_BYTES, Succession

SCHEME = "psync1"
SECRET_BYTES = 20
LIFETIME_S = 15 * 60
MAX_WRONG_PROOFS = 5
MAX_PAIR_BYTES = 32 * 1024

_SECRET_CHARS = 32  # 20 bytes in base32
_CHECK_CHARS = 6
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_SECRET = re.compile(rf"[a-z2-7]{{{_SECRET_CHARS + _CHECK_CHARS}}}")
_ALIKE = str.maketrans("01i", "oll")
_AGAIN = "ask for a new line on the other server: peersync peer invite"

Nonce = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
Certificate = Annotated[str, msgspec.Meta(min_length=64, max_length=MAX_CERTIFICATE_BYTES)]
PeerAddress = Annotated[str, msgspec.Meta(max_length=262)]


class Invite(msgspec.Struct, frozen=True):
    """What the line says. `secret` is 32 characters of base32 and shows itself nowhere."""

    address: Address
    fingerprint: str
    secret: str

    def __repr__(self) -> str:
        return f"Invite(address={self.address}, fingerprint={self.fingerprint!r}, secret=***)"

    def line(self) -> str:
        """The one line to paste: psync1:HOST:PORT:FINGERPRINT:SECRET."""
        head = f"{SCHEME}:{self.address}:{self.fingerprint}:{self.secret}"
        return head + _check(head)


class PairRequest(Message, frozen=True, kw_only=True):
    """The joiner's side. `address` is where the joiner can be reached, if anywhere.

    `succession` is there once the certificate is not the node's first.
    """

    invite: Digest
    name: NodeName
    certificate: Certificate
    address: PeerAddress | None
    nonce: Nonce
    proof: Digest
    succession: Succession | None = None


class PairReply(Message, frozen=True, kw_only=True):
    """The inviter's side; its certificate must be the one that the joiner has pinned."""

    name: NodeName
    certificate: Certificate
    nonce: Nonce
    proof: Digest
    succession: Succession | None = None


def encode_secret(random: bytes) -> str:
    """The secret of a line from 20 random bytes."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"an invite's secret has {SECRET_BYTES} bytes")
    return base64.b32encode(random).decode().lower()


def parse_invite(text: str) -> Invite:
    """Reads a pasted line; BadRequest says what is wrong with it, and never repeats it.

    White space is dropped: terminals break long lines. The last characters of the secret
    are a check over the whole line, so that one wrong character is noticed here.
    """
    line = "".join(text.split()).strip("\"'")
    if not line.startswith(f"{SCHEME}:"):
        reason = f'it does not begin with "{SCHEME}:"' if line else "it is empty"
        raise _mangled(reason)
    place, _, secret = line.removeprefix(f"{SCHEME}:").rpartition(":")
    where, _, fingerprint = place.rpartition(":")
    if not where:
        raise _mangled("a part is missing; it has HOST, PORT, FINGERPRINT and SECRET")
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise _mangled(f"the fingerprint must have 64 hex digits, here are {len(fingerprint)}")
    if not _SECRET.fullmatch(secret):
        wanted = _SECRET_CHARS + _CHECK_CHARS
        raise _mangled(f"its last part must have {wanted} characters, here are {len(secret)}")
    head, check = line[:-_CHECK_CHARS], line[-_CHECK_CHARS:]
    if not hmac.compare_digest(_check(head), check):
        raise _mangled("a character was changed on the way (the check does not match)")
    return Invite(parse_peer_address(where), fingerprint, secret[:_SECRET_CHARS])


def invite_id(secret: str) -> str:
    """The public name of an invite: says which one is meant, and nothing about the secret."""
    return _hash("id", secret)


def invite_key(secret: str) -> str:
    """The key of the proofs, which the inviter stores instead of the secret.

    Who reads it can pair as long as the invite lives; it lies beside the private key, under
    the same mode.
    """
    return _hash("key", secret)


def joiner_proof(
    key: str, *, inviter: str, joiner: str, name: str, address: str | None, nonce: str
) -> str:
    """The joiner's HMAC. `inviter` and `joiner` are certificate fingerprints."""
    return _prove(key, "joiner", inviter, joiner, name, address or "", nonce)


def inviter_proof(
    key: str, *, inviter: str, joiner: str, name: str, nonces: tuple[str, str]
) -> str:
    """The inviter's HMAC, over the joiner's nonce and its own."""
    return _prove(key, "inviter", inviter, joiner, name, *nonces)


def same_proof(one: str, other: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def look_alike(one: str, other: str) -> bool:
    """Whether two names that differ are easily taken for each other: server-1 and server-l."""
    return one != other and _drawn(one) == _drawn(other)


def _drawn(name: str) -> str:
    plain = re.sub("-+", "-", name.translate(_ALIKE)).strip("-")
    return plain.replace("rn", "m").replace("vv", "w")


def _prove(key: str, *parts: str) -> str:
    # Lengths first: no two lists of parts may give the same bytes.
    text = "".join(f"{len(part.encode())}:{part}" for part in (SCHEME, *parts))
    return hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).hexdigest()


def _hash(purpose: str, secret: str) -> str:
    return hashlib.sha256(f"{SCHEME} {purpose} {secret}".encode()).hexdigest()


def _check(head: str) -> str:
    digest = hashlib.sha256(head.encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_CHECK_CHARS]


def _mangled(reason: str) -> BadRequest:
    return BadRequest(f"this is not an invite line: {reason}", hint=_AGAIN)
