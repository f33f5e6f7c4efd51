"""The invitations of this node, and who waits with one to be accepted by a person.

Owns `state_dir/invites.json`, so that both survive a restart, and the copy of it in memory. An
invitation is kept without its secret. It decides nothing about proofs: that is `pairing`'s.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Literal

import msgspec

from peersync.core.errors import ConfigError, Denied
from peersync.transport.files import read_private, write_private
from peersync.wire import pairing as wire
from peersync.wire.pairing import PairRequest

SCHEMA_VERSION: Final = 1
MAX_OPEN: Final = 32
MAX_WAITING: Final = 16  # in all; each is up to 32 KiB
MAX_WAITING_EACH: Final = 4
MAX_REFUSED_EACH: Final = 16
KEEP_ENDED_S: Final = 24 * 3600.0  # so that a late joiner is told why
MAX_ENDED: Final = 200  # that nobody waits with; who makes one a minute must not fill the file
MAX_BYTES: Final = 1024 * 1024

InviteState = Literal["open", "used", "expired", "void", "revoked"]
AGAIN: Final = "ask for a new line on the other server: peersync peer invite"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has proved the secret of an invitation, and waits for a person here.

    `request` is what it sent; `joiner` the fingerprint of its certificate. Times in unix seconds.
    """

    joiner: str
    request: PairRequest
    came_from: str
    asked_at: float


class StoredInvite(msgspec.Struct, frozen=True, kw_only=True):
    """An invite as the inviter keeps it: without its secret. Times in unix seconds.

    `used_by`: the certificate that was paired by it; `paired`: it is known to have been stored.
    `refused`: those that a person turned away.
    """

    id: str
    key: str
    expires_at: float
    wrong_proofs: int = 0
    used_by: str | None = None
    made_at: float | None = None
    made_by: str = ""
    address: str = ""
    confirm: bool = False
    revoked: bool = False
    paired: bool = False
    accepted_at: float | None = None
    waiting: tuple[Waiting, ...] = ()
    refused: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"StoredInvite(id={self.id[:8]}, expires_at={self.expires_at})"

    def state(self, now: float) -> InviteState:
        if self.used_by is not None:
            return "used"
        if self.revoked:
            return "revoked"
        if self.wrong_proofs >= wire.MAX_WRONG_PROOFS:
            return "void"
        return "open" if now < self.expires_at else "expired"

    def is_open(self, now: float) -> bool:
        return self.state(now) == "open"

    def waits(self, now: float) -> tuple[Waiting, ...]:
        """Who waits with it now: what was asked in time may be answered for a day."""
        void = self.wrong_proofs >= wire.MAX_WRONG_PROOFS
        if self.revoked or void or self.used_by is not None:
            return ()
        return tuple(w for w in self.waiting if now < w.asked_at + KEEP_ENDED_S)

    def waiter(self, joiner: str, now: float) -> Waiting | None:
        return next((w for w in self.waits(now) if w.joiner == joiner), None)

    def refuse_unusable(self, joiner: str, now: float) -> None:
        """Raises Denied for a joiner that can have nothing by it any more."""
        if self.wrong_proofs >= wire.MAX_WRONG_PROOFS:
            raise Denied("this invite is void after too many wrong proofs", hint=AGAIN)
        if self.revoked:
            raise Denied("this invite was revoked on the server that made it", hint=AGAIN)
        if joiner in self.refused:
            raise Denied("an admin of that server has refused this one", hint=AGAIN)
        accepted = self.used_by == joiner and self.accepted_at is not None
        known = accepted or self.waiter(joiner, now) is not None
        if now >= self.expires_at + (KEEP_ENDED_S if known else 0.0):
            raise Denied("this invite has expired; it lives for 15 minutes", hint=AGAIN)
        if self.used_by not in (None, joiner):
            raise Denied("this invite was used already; each works once", hint=AGAIN)


class _File(msgspec.Struct):
    schema_version: int
    invites: list[StoredInvite]


class Invites:
    """All invitations that are open, or ended within a day, by id. Changes are on disk first."""

    def __init__(self, state_dir: Path) -> None:
        """Reads the file; ConfigError when it cannot be understood. Blocks."""
        self._path = state_dir / "invites.json"
        self._invites = _read(self._path)

    def all(self) -> tuple[StoredInvite, ...]:
        return tuple(self._invites.values())

    def find(self, invite_id: str) -> StoredInvite | None:
        return self._invites.get(invite_id)

    async def keep(self, stored: StoredInvite, now: float) -> None:
        """Adds or replaces one; forgets what ended a day ago, and of more than 200 the first."""
        kept = {k: v for k, v in self._invites.items() if _is_of_use(v, now)}
        kept[stored.id] = stored
        over = [k for k, v in kept.items() if k != stored.id and not v.is_open(now)]
        for key in [k for k in over if not kept[k].waits(now)][:-MAX_ENDED]:
            del kept[key]
        data = msgspec.json.encode(_File(SCHEMA_VERSION, [*kept.values()]))
        await asyncio.to_thread(write_private, self._path, data)
        self._invites = kept


def _is_of_use(stored: StoredInvite, now: float) -> bool:
    return stored.expires_at > now - KEEP_ENDED_S or bool(stored.waits(now))


def _read(path: Path) -> dict[str, StoredInvite]:
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
