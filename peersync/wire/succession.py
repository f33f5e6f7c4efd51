"""The succession of a node's certificates: how it proves that a new one is its own.

A node is the fingerprint of its first certificate, for ever. Each later certificate is signed
with the key of the one before it, so whoever has pinned any of them can tell that the newest
belongs to the same node, however long it was away. Nothing in here is secret.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from peersync.wire.messages import Message

MAX_STEPS = 20  # one a year for longer than a certificate lasts; a pairing message holds them all
MAX_SUCCESSION_BYTES = 32 * 1024
MAX_CERTIFICATE_BYTES = 8 * 1024

Pem = Annotated[str, msgspec.Meta(min_length=64, max_length=MAX_CERTIFICATE_BYTES)]
Signature = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16,256}$")]


class Step(msgspec.Struct, frozen=True):
    """A certificate, signed with the key of the one before it (ECDSA, SHA-256; DER in hex)."""

    certificate: Pem
    signature: Signature


class Succession(Message, frozen=True, kw_only=True):
    """`first` is the certificate whose fingerprint is the node; the last step's is in use."""

    first: Pem
    steps: Annotated[tuple[Step, ...], msgspec.Meta(min_length=1, max_length=MAX_STEPS)]


def statement(node_id: str, number: int, certificate_id: str) -> bytes:
    """What is signed: that `certificate_id` is the certificate `number` of this very node."""
    return f"peersync succession\n{node_id}\n{number}\n{certificate_id}\n".encode()
