"""What `peersync statistics` is answered: values that the command reads without the rest."""

from __future__ import annotations

import msgspec


class LastSync(msgspec.Struct, frozen=True, kw_only=True):
    """The newest sync that has ended."""

    session: str
    peer: str
    at: str
    result: str
    seconds: float


class SyncTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over syncs that have ended, however they did."""

    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    saved_bytes: int = 0
    seconds: float = 0.0


class PeerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one database took from one peer (`role` target), or gave to it (source)."""

    peer: str
    role: str
    last_sync: LastSync | None
    results: dict[str, int]
    totals: SyncTotals


class DatabaseStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One database: its size, and the syncs that it took. What it gave is with the peers."""

    database: str
    state: str  # idle | syncing | error | never_synced
    tables: int | None = None
    rows_estimated: int | None = None
    tables_not_analyzed: int | None = None
    size_bytes: int | None = None
    last_sync: LastSync | None = None
    results: dict[str, int] = {}
    totals: SyncTotals = SyncTotals()
    peers: list[PeerStatistics] = []
    problem: str | None = None
    hint: str | None = None


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    databases: list[DatabaseStatistics]
