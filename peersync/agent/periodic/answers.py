"""What people are answered about links: values that a command reads without loading the rest."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

STATES: Final = (
    "failed", "unreachable", "conflict", "behind", "paused", "syncing", "never synced", "in sync",
    "expired",
)  # fmt: skip
FINE: Final = frozenset({"in sync", "syncing", "expired"})
Result = Literal["proved", "partly", "paused", "timeout", "failed", "asked"]


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """One database with one peer. null is not known. Ages and offsets in seconds.

    to_take, to_give: changes that this side, the peer has yet to apply. lag_s, peer_lag_s: the
    age of the oldest of them. clock_offset_s: how far the peer's clock is ahead. bytes_to_take,
    bytes_to_give: estimates of what those changes hold, as text and before compression. paused: by
    a person here, whatever the state is. direction: which way rows go; receive: this side takes,
    and gives nothing of its own; give: the other way round; none: neither. None is trouble.
    """

    database: str
    peer: str
    state: str
    problem: str | None = None
    hint: str | None = None
    to_take: int | None = None
    to_give: int | None = None
    lag_s: float | None = None
    peer_lag_s: float | None = None
    last_contact: str | None = None
    last_error: str | None = None
    failures: int = 0
    clock_offset_s: float | None = None
    quarantined: int = 0
    peer_quarantined: int = 0
    parked_tables: int = 0
    conflicts: int = 0
    paused_by: str | None = None
    paused: bool = False
    bytes_to_take: int | None = None
    bytes_to_give: int | None = None
    direction: str = "both"


class LinkProof(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one link. "asked": nothing was waited for. `direction`: as of LinkView; of a
    one-way link the one direction that there is was proved."""

    database: str
    peer: str
    result: Result
    seconds: float = 0.0
    problem: str | None = None
    hint: str | None = None
    direction: str = "both"


class NowAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """done: every link that is not paused is proved (or was asked, without waiting)."""

    result: str  # done, partly, timeout, failed
    links: list[LinkProof]


class PausedLinks(msgspec.Struct, frozen=True, kw_only=True):
    paused: bool
    links: list[tuple[str, str]]  # (database, peer)


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    links: list[LinkView]
