"""Signing and proving a succession of certificates. Does no I/O, and keeps nothing.

What it is for, and its form, is in `wire.succession`. Refused is everything that does not
lead, signature by signature, from the certificate that a node is to the one that it shows.
"""

from __future__ import annotations

import hashlib
import ssl

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from peersync.core.errors import BadRequest, Denied
from peersync.wire.succession import Step, Succession, statement

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def fingerprint(certificate: str | bytes) -> str:
    """SHA-256 over the DER form, as 64 hex digits. Takes PEM (str) or DER (bytes).

    Raises BadRequest when it is not exactly one certificate.
    """
    try:
        if isinstance(certificate, str):
            if certificate.count("-----BEGIN") != 1:
                raise ValueError("not exactly one PEM block")
            certificate = ssl.PEM_cert_to_DER_cert(certificate.strip())
        x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise BadRequest("this is not a certificate", detail=str(error)) from error
    return hashlib.sha256(certificate).hexdigest()


def extend(
    before: Succession | None, current: str, key: ec.EllipticCurvePrivateKey, new: str
) -> Succession:
    """The succession with one more step. `key` belongs to `current`; certificates are PEM."""
    first, steps = (before.first, before.steps) if before else (current, ())
    signed = statement(fingerprint(first), len(steps) + 1, fingerprint(new))
    step = Step(new, key.sign(signed, _ALGORITHM).hex())
    return Succession(first=first, steps=(*steps, step))


def prove(succession: Succession) -> tuple[str, str]:
    """The node's id, and the PEM of the certificate that it has now.

    Denied when a signature is wrong, BadRequest when something is no certificate.
    """
    node_id, previous = fingerprint(succession.first), succession.first
    for number, step in enumerate(succession.steps, 1):
        signed = statement(node_id, number, fingerprint(step.certificate))
        try:
            _public_key(previous).verify(bytes.fromhex(step.signature), signed, _ALGORITHM)
        except (InvalidSignature, ValueError) as error:
            raise Denied(
                "this certificate was not signed with the key of the one before it",
                node_id=node_id, number=number,
            ) from error  # fmt: skip
        previous = step.certificate
    return node_id, previous


def belongs(certificate: str, node_id: str, succession: Succession | None) -> bool:
    """Whether a certificate (PEM) is the one of this node. BadRequest when it is none."""
    if succession is None:
        return fingerprint(certificate) == node_id
    try:
        proved, current = prove(succession)
    except Denied:
        return False
    return proved == node_id and fingerprint(current) == fingerprint(certificate)


def goes_on(succession: Succession, known: Succession | None) -> bool:
    """Whether it is what is known with nothing or more after it; another branch is not."""
    before = known.steps if known else ()
    return [fingerprint(s.certificate) for s in succession.steps[: len(before)]] == [
        fingerprint(s.certificate) for s in before
    ]


def _public_key(certificate: str) -> ec.EllipticCurvePublicKey:
    key = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Denied("only certificates with keys of peersync's own kind (P-256) can be followed")
    return key
