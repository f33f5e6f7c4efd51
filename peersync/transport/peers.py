"""The peer book: which nodes this one knows, and what each may do.

Owns `state_dir/peers.json` and the copy of it in memory, from which every request is
authorised. A change is on disk before it counts. It opens no connections; who has to act
on a change (TLS trust, open connections) subscribes to it.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from peersync.config.model import NodeName
from peersync.core.errors import BadRequest, ConfigError, Denied, NotFound
from peersync.transport.files import make_private_directory, read_private, write_private
from peersync.transport.identity import short_form
from peersync.transport.succession import belongs, fingerprint, goes_on, prove
from peersync.wire.messages import Digest
from peersync.wire.succession import Succession

SCHEMA_VERSION = 1
MAX_BYTES = 8 * 1024 * 1024
ALL_DATABASES = "*"

Right = Literal["pull", "push", "schema"]
RIGHTS: tuple[Right, ...] = ("pull", "push", "schema")


class Rights(msgspec.Struct, frozen=True):
    """What a peer may do: pull from here, push into here, and have its DDL run here."""

    pull: bool = False
    push: bool = False
    schema: bool = False


# Schema is not given by default: DDL runs with the rights of this node's database role.
DEFAULT_RIGHTS = Rights(pull=True, push=True, schema=False)


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another node. `address` is HOST:PORT, or None when only it can connect to us.

    `succession` proves that `cert_pem` is the certificate of `node_id`, once it is not the first.
    """

    name: NodeName
    node_id: Digest
    cert_pem: str
    address: str | None
    added_at: str
    rights: dict[str, Rights] = msgspec.field(
        default_factory=lambda: {ALL_DATABASES: DEFAULT_RIGHTS}
    )
    succession: Succession | None = None

    @property
    def certificate_id(self) -> str:
        """The fingerprint of its certificate, which is pinned."""
        return fingerprint(self.cert_pem)

    def rights_for(self, database: str) -> Rights:
        """The rights for one database; those given for it by name replace those for all."""
        return self.rights.get(database) or self.rights.get(ALL_DATABASES) or Rights()

    def may(self, right: Right, database: str) -> bool:
        return bool(getattr(self.rights_for(database), right))

    def require(self, right: Right, database: str) -> None:
        """Raises Denied, with the command that would give the right."""
        if not self.may(right, database):
            raise Denied(
                f"{self.name} may not {_DEEDS[right]} for database {database!r}",
                hint="on the server that refused, if it should: peersync peer allow"
                f" {self.name} --{right} --database {database}",
                right=right,
                database=database,
            )


_DEEDS: dict[Right, str] = {
    "pull": "pull from this server",
    "push": "push into this server",
    "schema": "bring table definitions to this server",
}


class _File(msgspec.Struct):
    schema_version: int
    peers: list[Peer]


Watcher = Callable[[Peer], object]


class PeerBook:
    """All peers of this node, in the order in which they were added."""

    def __init__(self, path: Path, own_id: str) -> None:
        """Reads the book; ConfigError when the file cannot be understood. Blocks."""
        self._path = path
        self._own_id = own_id
        self._peers: dict[str, Peer] = _read(path)
        self._by_certificate = _by_certificate(self._peers)
        self._lock = asyncio.Lock()
        self._on_stored: list[Watcher] = []
        self._on_removed: list[Watcher] = []
        self._on_replaced: list[Watcher] = []

    def watch(
        self,
        *,
        stored: Watcher | None = None,
        removed: Watcher | None = None,
        replaced: Watcher | None = None,
    ) -> None:
        """Calls `stored` or `removed` after each change, from the event loop.

        `replaced` gets a peer as it was before its certificate changed.
        """
        if replaced:
            self._on_replaced.append(replaced)
        if stored:
            self._on_stored.append(stored)
        if removed:
            self._on_removed.append(removed)

    def peers(self) -> tuple[Peer, ...]:
        return tuple(self._peers.values())

    def find(self, node_id: str) -> Peer | None:
        """The peer that is this node, or None."""
        return self._peers.get(node_id)

    def find_certificate(self, certificate_id: str) -> Peer | None:
        """The peer whose certificate, now, has this fingerprint; None for one that it had."""
        return self._by_certificate.get(certificate_id)

    def get(self, name: str) -> Peer:
        """The peer with this name; NotFound says which names there are."""
        for peer in self._peers.values():
            if peer.name == name:
                return peer
        names = [peer.name for peer in self._peers.values()]
        near = difflib.get_close_matches(name, names, n=1)
        hint = "peersync peer list shows all of them"
        raise NotFound(
            f"there is no peer {name!r}", hint=f"did you mean {near[0]}?" if near else hint
        )

    def check(self, name: str, node_id: str) -> None:
        """Raises Denied when a peer of this name and identity could not be stored."""
        if node_id == self._own_id:
            raise Denied("a node cannot be its own peer", hint="run this on the other server")
        for other in self._peers.values():
            if other.name == name and other.node_id != node_id:
                raise Denied(
                    f"another peer is called {name!r} already ({short_form(other.node_id)})",
                    hint=f"give one of them another node.name, or: peersync peer remove {name}",
                )

    async def store(self, peer: Peer) -> Peer:
        """Adds a peer, or replaces what was known of it; a known peer keeps its rights."""
        if not belongs(peer.cert_pem, peer.node_id, peer.succession):
            raise BadRequest("the certificate is not the one of this node id")
        async with self._lock:
            self.check(peer.name, peer.node_id)
            known = self._peers.get(peer.node_id)
            if known is not None:
                peer = msgspec.structs.replace(
                    peer, rights=known.rights, added_at=known.added_at,
                    address=peer.address or known.address,
                )  # fmt: skip
            await self._commit({**self._peers, peer.node_id: peer})
        self._tell_stored(known, peer)
        return peer

    async def renew(self, succession: Succession) -> Peer:
        """Takes the new certificate of a peer, which proves by its succession that it is its own.

        Denied for a node that is no peer, and for a succession that does not go on where the
        known one ends: two have signed with one key then, and one of them is not that node.
        """
        node_id, certificate = prove(succession)
        async with self._lock:
            known = self._peers.get(node_id)
            if known is None:
                raise Denied(
                    f"this server does not know node {short_form(node_id)}",
                    hint="pair first: peersync peer invite",
                )
            if not goes_on(succession, known.succession):
                raise Denied(
                    f"{known.name} shows a certificate that does not follow the one that is known"
                    " here",
                    hint=f"if its state directory was restored from a backup, pair again; if not,"
                    f" somebody has had its key: peersync peer remove {known.name}",
                )
            if fingerprint(certificate) == known.certificate_id:
                return known
            peer = msgspec.structs.replace(known, cert_pem=certificate, succession=succession)
            await self._commit({**self._peers, node_id: peer})
        self._tell_stored(known, peer)
        return peer

    def _tell_stored(self, known: Peer | None, peer: Peer) -> None:
        if known is not None and known.cert_pem != peer.cert_pem:
            for watcher in self._on_replaced:
                watcher(known)
        for watcher in self._on_stored:
            watcher(peer)

    async def remove(self, name: str) -> Peer:
        """Forgets a peer. It is refused from its next request on."""
        async with self._lock:
            gone = self.get(name)
            await self._commit({k: v for k, v in self._peers.items() if k != gone.node_id})
        for watcher in self._on_removed:
            watcher(gone)
        return gone

    async def change_rights(self, name: str, database: str, changes: dict[Right, bool]) -> Peer:
        """Changes some rights for one database, or for all with "*"."""
        async with self._lock:
            peer = self.get(name)
            rights = msgspec.structs.replace(peer.rights_for(database), **changes)
            peer = msgspec.structs.replace(peer, rights={**peer.rights, database: rights})
            await self._commit({**self._peers, peer.node_id: peer})
        return peer

    async def _commit(self, peers: dict[str, Peer]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(SCHEMA_VERSION, [*peers.values()])))
        await asyncio.to_thread(write_private, self._path, data)
        self._peers, self._by_certificate = peers, _by_certificate(peers)


def _by_certificate(peers: dict[str, Peer]) -> dict[str, Peer]:
    return {peer.certificate_id: peer for peer in peers.values()}


def _read(path: Path) -> dict[str, Peer]:
    make_private_directory(path.parent)
    data = read_private(path, limit=MAX_BYTES)
    if data is None:
        return {}
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the peer book {path} cannot be read", detail=str(error),
            hint="restore it from a backup, or move it away and pair again",
        ) from error  # fmt: skip
    if file.schema_version > SCHEMA_VERSION:
        raise ConfigError(f"{path} was written by a newer peersync", hint="upgrade this node")
    for peer in file.peers:
        if not belongs(peer.cert_pem, peer.node_id, peer.succession):
            raise ConfigError(f"{path}: the certificate of {peer.name} is not its own")
    return {peer.node_id: peer for peer in file.peers}
