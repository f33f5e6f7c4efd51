"""What recorded runs and links add up to over days: sums, trends, cost, what is unusual.

Owns the forms and the arithmetic; `analytics_api` reads. A day is one of UTC. Money is Decimal
and a string in JSON: the bytes of a day and peer times what the peer's bytes cost by the
configuration as it is now. docs/statistics.md says what each number is, and is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from peersync.agent.orchestration.outcome import cost_of
from peersync.core.anomaly import find_anomalies
from peersync.core.trend import Forecast, change_per_day, forecast_month, next_month

Prices = Callable[[str], float]  # by the peer's name

_SUMS: Final = (
    "ok", "partly", "failed", "seconds", "rows", "changes", "raw_bytes", "wire_bytes",
    "conflicts", "quarantined", "errors", "behind_s",
)  # fmt: skip
_HIDDEN: Final = ("full_seconds", "full_bytes", "p50_sum", "p95_sum", "lags")


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """What was done in some time. Speed is of full syncs; lags and changes are of links."""

    ok: int = 0
    partly: int = 0
    failed: int = 0
    seconds: float = 0.0
    rows: int = 0
    changes: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    conflicts: int = 0
    quarantined: int = 0
    errors: int = 0
    behind_s: float = 0.0
    speed_bytes_s: float | None = None
    lag_p50_s: float | None = None
    lag_p95_s: float | None = None
    cost: Decimal = Decimal(0)


class Day(Measures, frozen=True, kw_only=True):
    """One day, as 2026-05-03."""

    day: str


class PeerTrend(msgspec.Struct, frozen=True, kw_only=True):
    """One database with one peer."""

    peer: str
    totals: Measures
    days: list[Day]


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """`kind`: full sync, complete sync, table set NAME. peer: null for one with several."""

    kind: str
    peer: str | None
    result: str
    at: str


class Velocity(msgspec.Struct, frozen=True, kw_only=True):
    """Changes that came by periodic sync. per_hour: over all the time that was asked for."""

    per_hour: float
    last_hour: int
    last_day: int
    busiest_hour: int
    busiest_at: str | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A measure in so many whole days, and in as many before. percent: null for a rise from 0."""

    measure: str
    now: float
    before: float
    percent: float | None


class Unusual(msgspec.Struct, frozen=True, kw_only=True):
    """A day unlike those before. peer: null for all of them together."""

    database: str
    peer: str | None
    measure: str
    day: str
    value: float
    usual: float
    score: float
    reason: str


class CostOf(msgspec.Struct, frozen=True, kw_only=True):
    """`name`: a peer, a month as 2026-05, or the id of a run."""

    name: str
    wire_bytes: int
    cost: Decimal


class ForecastView(msgspec.Struct, frozen=True, kw_only=True):
    """A month: what was spent of it, and what it will come to, in 95 of 100 cases low to high."""

    month: str
    spent: Decimal
    expected: Decimal
    low: Decimal
    high: Decimal
    from_days: int


class RunCost(msgspec.Struct, frozen=True, kw_only=True):
    """One full sync that was taken (role target) or given (source)."""

    session: str
    role: str
    peer: str
    result: str
    at: str
    rows: int
    raw_bytes: int
    wire_bytes: int
    cost: Decimal


class CostReport(msgspec.Struct, frozen=True, kw_only=True):
    """One database. forecasts: this month and the next; none of fewer than seven days."""

    database: str
    currency: str
    total: CostOf | None = None
    peers: list[CostOf] = []
    months: list[CostOf] = []
    runs: list[RunCost] = []
    forecasts: list[ForecastView] = []
    problem: str | None = None


Row = Mapping[str, Any]


def measures(rows: Iterable[Row], price: Prices) -> Measures:
    """The sum of rows of the query `days`."""
    every = list(rows)
    return Measures(**_fields(every, price))


def days_of(rows: Iterable[Row], price: Prices) -> list[Day]:
    """One for each day that has a row, in order."""
    by_day: dict[date, list[Row]] = {}
    for row in rows:
        by_day.setdefault(row["day"], []).append(row)
    return [
        Day(day=day.isoformat(), **_fields(of_day, price)) for day, of_day in sorted(by_day.items())
    ]


def peers_of(rows: Iterable[Row], price: Prices) -> list[PeerTrend]:
    """By peer: one that was renamed goes by its newest name."""
    by_peer: dict[str, list[Row]] = {}
    for row in rows:
        by_peer.setdefault(row["peer_id"], []).append(row)
    found = [
        PeerTrend(
            peer=max(of_peer, key=lambda row: row["day"])["peer"],
            totals=measures(of_peer, price),
            days=days_of(of_peer, price),
        )
        for of_peer in by_peer.values()
    ]
    return sorted(found, key=lambda trend: trend.peer)


def _fields(rows: Sequence[Row], price: Prices) -> dict[str, Any]:
    found: dict[str, Any] = {name: sum(row[name] or 0 for row in rows) for name in _SUMS}
    hidden = {name: sum(row[name] or 0.0 for row in rows) for name in _HIDDEN}
    found["seconds"], found["behind_s"] = round(found["seconds"], 3), round(found["behind_s"], 3)
    if hidden["full_seconds"]:
        found["speed_bytes_s"] = round(hidden["full_bytes"] / hidden["full_seconds"], 1)
    if hidden["lags"]:
        found["lag_p50_s"] = round(hidden["p50_sum"] / hidden["lags"], 3)
        found["lag_p95_s"] = round(hidden["p95_sum"] / hidden["lags"], 3)
    found["cost"] = sum(
        (cost_of(row["wire_bytes"], price(row["peer"])) for row in rows), Decimal(0)
    )
    return found


def success_rate(totals: Measures) -> float | None:
    """Of the runs that ended: how many ended well, 0 to 1."""
    ended = totals.ok + totals.partly + totals.failed
    return round(totals.ok / ended, 4) if ended else None


def compare(rows: Sequence[Row], price: Prices, today: date, days: int) -> list[Compared]:
    """The last `days` whole days with as many before them."""
    start, middle = today - timedelta(days=2 * days), today - timedelta(days=days)
    now = measures((r for r in rows if middle <= r["day"] < today), price)
    before = measures((r for r in rows if start <= r["day"] < middle), price)
    found = []
    for name in Measures.__struct_fields__:
        new, old = getattr(now, name), getattr(before, name)
        if new is None or old is None:
            continue
        percent = round(float((new - old) / old) * 100, 1) if old else None if new else 0.0
        found.append(Compared(measure=name, now=float(new), before=float(old), percent=percent))
    return found


# --- what is unusual --------------------------------------------------------------------
def _number(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s"


def _bytes(value: float) -> str:
    return f"{value / 1e6:,.1f} MB"


# measure, its words, the smallest difference worth a word, how it is shown
_WATCHED: Final[tuple[tuple[str, str, float, Callable[[float], str]], ...]] = (
    ("rows", "rows of full syncs", 1000, _number),
    ("changes", "changes", 1000, _number),
    ("wire_bytes", "bytes on the wire", 1e6, _bytes),
    ("seconds", "time in runs", 60, _seconds),
    ("failed", "failed runs", 2, _number),
    ("conflicts", "conflicts", 10, _number),
    ("quarantined", "changes put into quarantine", 10, _number),
    ("errors", "failed tries of the link", 10, _number),
    ("behind_s", "time behind", 300, _seconds),
)
_WHERE_ANY: Final = (("lag_p95_s", "lag (95 of 100)", 1.0, _seconds),)


def unusual(
    database: str, peer: str | None, days: Sequence[Day], since: date, today: date
) -> list[Unusual]:
    """Of whole days from `since` on. A day without a record had nothing."""
    seen = {date.fromisoformat(one.day): one for one in days}
    first = min(seen, default=today)
    every = [first + timedelta(days=i) for i in range((today - first).days)]
    found = []
    for measure, words, least, show in _WATCHED:
        values = {d: float(getattr(seen.get(d), measure, 0) or 0) for d in every}
        found += _named(database, peer, measure, values, words, least, show, since)
    for measure, words, least, show in _WHERE_ANY:
        known = {d: getattr(one, measure) for d, one in seen.items() if d < today}
        values = {d: value for d, value in known.items() if value is not None}
        found += _named(database, peer, measure, values, words, least, show, since)
    return found


def _named(
    database: str,
    peer: str | None,
    measure: str,
    values: Mapping[date, float],
    words: str,
    least: float,
    show: Callable[[float], str],
    since: date,
) -> list[Unusual]:
    return [
        Unusual(
            database=database,
            peer=peer,
            measure=measure,
            day=one.day.isoformat(),
            value=one.value,
            usual=one.usual,
            score=one.score,
            reason=one.reason,
        )
        for one in find_anomalies(values, words, least=least, show=show)
        if one.day >= since
    ]


def slopes(days: Sequence[Day], since: date, today: date) -> dict[str, float]:
    """By how much a measure grows from day to day, over whole days."""
    seen = {date.fromisoformat(one.day): one for one in days}
    first = max(min(seen, default=today), since)
    every = [first + timedelta(days=i) for i in range((today - first).days)]
    return {
        name: round(change_per_day({d: float(getattr(seen.get(d), name, 0)) for d in every}), 3)
        for name in ("rows", "changes", "wire_bytes", "seconds")
    }


# --- cost -------------------------------------------------------------------------------
def costs(rows: Sequence[Row], price: Prices, today: date) -> dict[str, Any]:
    """The fields of CostReport that come from days."""
    peers: dict[str, list[Row]] = {}
    months: dict[str, list[Row]] = {}
    daily: dict[date, Decimal] = {}
    for row in rows:
        peers.setdefault(row["peer"], []).append(row)
        months.setdefault(f"{row['day']:%Y-%m}", []).append(row)
        cost = cost_of(row["wire_bytes"], price(row["peer"]))
        daily[row["day"]] = daily.get(row["day"], Decimal(0)) + cost
    wanted = (today, next_month(today))
    forecasts = (
        [forecast_month(daily, month, today) for month in wanted] if any(daily.values()) else []
    )
    return {
        "total": _cost("total", rows, price),
        "peers": [_cost(name, of, price) for name, of in sorted(peers.items())],
        "months": [_cost(name, of, price) for name, of in sorted(months.items())],
        "forecasts": [_forecast(one) for one in forecasts if one is not None],
    }


def _cost(name: str, rows: Sequence[Row], price: Prices) -> CostOf:
    summed = measures(rows, price)
    return CostOf(name=name, wire_bytes=summed.wire_bytes, cost=summed.cost)


def _forecast(found: Forecast) -> ForecastView:
    return ForecastView(
        month=found.month,
        spent=found.spent,
        expected=found.expected,
        low=found.low,
        high=found.high,
        from_days=found.from_days,
    )
