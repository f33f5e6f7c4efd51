"""The samples of links: what came from each peer, in spans of time that grow with age.

Owns how they are written, rolled up and forgotten, with the other records of runs that are kept
for statistics. It decides nothing about when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from peersync.postgres.sqlfiles import queries

MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400

_SQL: Final = queries("samples")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One link in one span, which began at `at`. Lags in seconds; None: nothing was applied."""

    peer_id: str
    peer_name: str
    at: datetime
    span_s: int = MINUTE_S
    transactions: int = 0
    changes: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    conflicts: int = 0
    quarantined: int = 0
    errors: int = 0
    lag_p50_s: float | None = None
    lag_p95_s: float | None = None
    behind_s: float = 0.0


@dataclass(frozen=True)
class Forgotten:
    """How many records were dropped."""

    samples: int
    complete_syncs: int
    set_runs: int


async def add_samples(conn: asyncpg.Connection, samples: Iterable[Sample]) -> None:
    """Adds to what is there of the same link and span."""
    await conn.executemany(
        _SQL["add"],
        [
            (s.peer_id, s.span_s, s.at, s.peer_name, s.transactions, s.changes, s.raw_bytes,
             s.wire_bytes, s.conflicts, s.quarantined, s.errors, s.lag_p50_s, s.lag_p95_s,
             s.behind_s)
            for s in samples
        ],
    )  # fmt: skip


async def roll_up(conn: asyncpg.Connection, spans: Sequence[tuple[int, int, datetime]]) -> None:
    """Each of (shorter, longer, before): in this order, so that what is old goes all the way."""
    for shorter_s, longer_s, before in spans:
        await conn.execute(_SQL["roll_up"], shorter_s, longer_s, before)


async def forget(conn: asyncpg.Connection, before: datetime | None) -> Forgotten:
    """Samples, complete syncs and runs of sets that ended before; None for all that ended."""
    return Forgotten(**await conn.fetchrow(_SQL["forget"], before))


async def read_lags(conn: asyncpg.Connection, minutes: int) -> list[tuple[str, datetime, float]]:
    """(peer's id, minute, seconds) of the last minutes, for each in which there was something."""
    rows = await conn.fetch(_SQL["lags"], minutes)
    return [(row["peer_id"], row["at"], row["lag_s"]) for row in rows]


async def log_bytes(conn: asyncpg.Connection) -> int:
    """What the log of changes occupies, in bytes."""
    return int(await conn.fetchval(_SQL["log_bytes"]))
