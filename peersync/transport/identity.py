"""This node's identity: a self-signed certificate, and the key that only it has.

Owns the files below `state_dir/identity`. The SHA-256 fingerprint of the certificate *is*
the node: peers pin it, and whoever has the key is the node. So an identity is made once,
never overwritten, and refused when others could have read the key.

A certificate can be followed by another (`rotate_identity`): the node stays the fingerprint of
its first one, and `succession.json` proves with signatures that the newest is its own. That
file is the moment of the change: before it is replaced the old key counts, after it the new.
"""

from __future__ import annotations

import datetime
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peersync.core.errors import BadRequest, ConfigError, Denied
from peersync.transport.files import (
    hand_over,
    make_private_directory,
    read_private,
    sync_directory,
    write_private,
)
from peersync.transport.succession import belongs, extend, fingerprint
from peersync.wire.succession import MAX_STEPS, MAX_SUCCESSION_BYTES, Succession

__all__ = [
    "Identity",
    "create_identity",
    "fingerprint",
    "load_identity",
    "retire_identity",
    "rotate_identity",
    "short_form",
]

LIFETIME = datetime.timedelta(days=3652)
MAX_BYTES = 64 * 1024
SHORT_GROUPS = 4


@dataclass(frozen=True)
class Identity:
    """Who this node is. `node_id` has 64 hex digits; the key stays in its file.

    `succession` is None as long as the certificate is the first one.
    """

    node_id: str
    name: str
    cert_pem: str
    cert_path: Path
    key_path: Path
    succession: Succession | None = None

    @property
    def certificate_id(self) -> str:
        """The fingerprint of the certificate in use; the node's id until the first rotation."""
        return fingerprint(self.cert_pem)

    @property
    def short_id(self) -> str:
        return short_form(self.node_id)


def short_form(node_id: str) -> str:
    """Four groups of four digits, for people to compare: 3f9a-01bc-77e2-d410."""
    return "-".join(node_id[4 * n : 4 * n + 4] for n in range(SHORT_GROUPS))


def identity_directory(state_dir: Path) -> Path:
    return state_dir / "identity"


def load_identity(state_dir: Path) -> Identity:
    """Reads the identity that `init` made; ConfigError when there is none, or it is damaged."""
    directory = identity_directory(state_dir)
    succession = _read_succession(directory)
    cert_path, key_path = _paths(directory, len(succession.steps) if succession else 0)
    cert = read_private(cert_path, limit=MAX_BYTES)
    if cert is None or read_private(key_path, limit=MAX_BYTES) is None:
        raise ConfigError(
            f"this node has no identity in {directory}",
            hint="peersync init makes one; or set node.state_dir to where it is",
        )
    pem = cert.decode("ascii", "replace")
    try:
        node_id = fingerprint(succession.first if succession else pem)
        if not belongs(pem, node_id, succession):
            raise BadRequest("it is not the one that succession.json leads to")
    except (BadRequest, Denied) as error:
        raise ConfigError(
            f"{cert_path} is not the certificate of this node", detail=error.detail or error.message
        ) from error
    subject = x509.load_pem_x509_certificate(cert).subject
    name = subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return Identity(node_id, str(name), pem, cert_path, key_path, succession)


def rotate_identity(state_dir: Path, *, now: datetime.datetime) -> Identity:
    """Gives this node a new key and certificate, signed with the old key, which is deleted.

    The agent must not run. Cut off anywhere, the node has the old identity or the new one.
    """
    earlier, directory = load_identity(state_dir), identity_directory(state_dir)
    number = len(earlier.succession.steps) + 1 if earlier.succession else 1
    if number > MAX_STEPS:
        raise ConfigError(
            f"this node has had {MAX_STEPS} certificates after its first",
            hint="peersync node reset-identity, then pair again",
        )
    key, cert_path, key_path = ec.generate_private_key(ec.SECP256R1()), *_paths(directory, number)
    pem = _certificate(key, earlier.name, now)
    old = serialization.load_pem_private_key(earlier.key_path.read_bytes(), password=None)
    assert isinstance(old, ec.EllipticCurvePrivateKey)
    succession = extend(earlier.succession, earlier.cert_pem, old, pem.decode())
    for path, data in ((key_path, _key_pem(key)), (cert_path, pem)):
        path.unlink(missing_ok=True)  # of an attempt that was cut off
        _write_new(path, data)
        hand_over(path, state_dir)
    sync_directory(directory)
    write_private(directory / "succession.json", msgspec.json.encode(succession))
    for path in (*directory.glob("node*.key"), *directory.glob("node*.crt")):
        if path not in (key_path, cert_path):
            path.unlink()
    sync_directory(directory)
    return load_identity(state_dir)


def _paths(directory: Path, number: int) -> tuple[Path, Path]:
    """Certificate and key; `number` 0 is the first one."""
    stem = f"node-{number}" if number else "node"
    return directory / f"{stem}.crt", directory / f"{stem}.key"


def _read_succession(directory: Path) -> Succession | None:
    data = read_private(directory / "succession.json", limit=MAX_SUCCESSION_BYTES)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Succession)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{directory / 'succession.json'} cannot be read", detail=str(error),
            hint="restore the directory from a backup, or: peersync node reset-identity",
        ) from error  # fmt: skip


def retire_identity(state_dir: Path, name: str, *, now: datetime.datetime) -> Identity:
    """Puts identity and peer book aside, never deletes them, and makes a new identity."""
    suffix = f".retired-{now:%Y%m%dT%H%M%S}"
    for path in (identity_directory(state_dir), state_dir / "peers.json"):
        if path.exists():
            path.rename(path.with_name(path.name + suffix))
    sync_directory(state_dir)
    return create_identity(state_dir, name, now=now)


def create_identity(
    state_dir: Path, name: str, *, now: datetime.datetime | None = None
) -> Identity:
    """Makes key and certificate (P-256, ten years); ConfigError when there are some already."""
    directory = identity_directory(state_dir)
    make_private_directory(directory)
    cert_path, key_path = _paths(directory, 0)
    if any(path.exists() for path in (cert_path, key_path, directory / "succession.json")):
        raise ConfigError(
            f"this node has an identity already, in {directory}",
            hint="peers know this server by it; it is never overwritten",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _certificate(key, name, now or datetime.datetime.now(datetime.UTC))
    _write_new(key_path, _key_pem(key))
    _write_new(cert_path, pem)
    for path in (directory, key_path, cert_path):
        hand_over(path, state_dir)
    sync_directory(directory)
    return Identity(fingerprint(pem.decode()), name, pem.decode(), cert_path, key_path)


def _certificate(key: ec.EllipticCurvePrivateKey, name: str, now: datetime.datetime) -> bytes:
    public = key.public_key()
    # Two nodes may have the same name; OpenSSL looks certificates up by subject, so the
    # subject must differ.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, secrets.token_hex(16)),
        ]
    )
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_new(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
