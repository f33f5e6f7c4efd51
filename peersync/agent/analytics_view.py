"""What the analytics are answered, and how they are exported.

Values and their forms: the commands read them without what asks a database.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from peersync.agent.analytics import (
    Compared,
    Day,
    LastRun,
    Measures,
    PeerTrend,
    Unusual,
    Velocity,
)

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class DatabaseAnalytics(msgspec.Struct, frozen=True, kw_only=True):
    """One database over the days that were asked for. Rows are estimates of the server."""

    database: str
    tables: int | None = None
    rows_live_estimated: int | None = None
    rows_dead_estimated: int | None = None
    links: dict[str, int] = {}
    last_run: LastRun | None = None
    success_rate: float | None = None
    totals: Measures = Measures()
    velocity: Velocity | None = None
    growth_per_day: dict[str, float] = {}
    days: list[Day] = []
    peers: list[PeerTrend] = []
    compared: list[Compared] = []
    problem: str | None = None
    hint: str | None = None


class Analytics(msgspec.Struct, frozen=True, kw_only=True):
    """`since` is the first day (UTC), `until` today, which is not over."""

    node: str
    since: str
    until: str
    currency: str
    databases: list[DatabaseAnalytics]


class DayOfPeer(Day, frozen=True, kw_only=True):
    """One row of an export."""

    database: str
    peer: str


class Anomalies(msgspec.Struct, frozen=True, kw_only=True):
    """The newest day first. `problems` by database that is down."""

    anomalies: list[Unusual]
    problems: dict[str, str]


class LagPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One span that began at `at`, with the worst sample in it; seconds. None: nothing came."""

    at: str
    lag_p50_s: float | None
    lag_p95_s: float | None
    changes: int
    behind_s: float


class LinkTrend(msgspec.Struct, frozen=True, kw_only=True):
    """What one link did, the oldest first. Spans in which nothing came are left out."""

    database: str
    peer: str
    points: list[LagPoint]


class LagTrends(msgspec.Struct, frozen=True, kw_only=True):
    """`step_s`: how long a span is. `problems` by database that is down."""

    since: str
    until: str
    step_s: int
    links: list[LinkTrend]
    problems: dict[str, str]


def lag_trends(database: str, rows: Sequence[Any]) -> list[LinkTrend]:
    """One for each peer, of rows that are in the order of peers."""
    found: list[LinkTrend] = []
    for _, mine in groupby(rows, key=lambda row: row["peer_id"]):
        spans = list(mine)
        points = [
            LagPoint(
                at=row["at"].isoformat(timespec="seconds"),
                lag_p50_s=row["p50"],
                lag_p95_s=row["p95"],
                changes=row["changes"],
                behind_s=round(row["behind_s"], 1),
            )
            for row in spans
        ]
        found.append(LinkTrend(database=database, peer=spans[-1]["peer"], points=points))
    return found


def export_rows(found: Analytics) -> list[dict[str, Any]]:
    """One flat object for each database, peer and day, always with the same keys."""
    return [
        {"database": d.database, "peer": trend.peer, **_flat(day)}
        for d in found.databases
        for trend in d.peers
        for day in trend.days
    ]


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """With a line of names, also where there is nothing else. Nothing is known: empty.

    Text that a spreadsheet would take for a formula gets a ' before it.
    """
    out = io.StringIO()
    names = ["database", "peer", *_flat(Day(day=""))]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _defused(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _defused(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _flat(day: Day) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.structs.asdict(day)
    return {"day": fields.pop("day"), **fields}
