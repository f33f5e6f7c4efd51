"""Sums over days and peers are the same however they are cut, to the last part of a cent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peersync.agent.analytics import (
    Measures,
    compare,
    costs,
    days_of,
    measures,
    peers_of,
    success_rate,
    unusual,
)
from peersync.agent.analytics_view import csv_text

TODAY = date(2026, 5, 16)
PRICES = {"server-a": 0.09, "server-b": 0.001}
ADDED = ("ok", "failed", "rows", "changes", "wire_bytes", "raw_bytes", "conflicts", "cost")


def price(peer: str) -> float:
    return PRICES.get(peer, 0.0)


def row(day: int, peer: str, **values: float) -> dict[str, Any]:
    """One of the query `days`, so many days ago."""
    names = (
        "ok partly failed seconds full_seconds full_bytes rows changes raw_bytes wire_bytes"
        " conflicts quarantined errors behind_s p50_sum p95_sum lags"
    )
    found: dict[str, Any] = {**dict.fromkeys(names.split(), 0), **values}
    return {"day": TODAY - timedelta(days=day), "peer_id": f"id-{peer}", "peer": peer, **found}


NUMBER = st.integers(0, 10**12)
ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 40),
        st.sampled_from(["server-a", "server-b", "server-c"]),
        ok=st.integers(0, 5),
        failed=st.integers(0, 5),
        rows=NUMBER,
        changes=NUMBER,
        wire_bytes=NUMBER,
        raw_bytes=NUMBER,
        conflicts=NUMBER,
    ),
    max_size=30,
    unique_by=lambda r: (r["day"], r["peer"]),
)


def summed(parts: Sequence[Measures], name: str) -> Any:
    return sum((getattr(part, name) for part in parts), Decimal(0) if name == "cost" else 0)


@given(ROWS)
def test_days_and_peers_add_up_to_the_total(rows: list[dict[str, Any]]) -> None:
    total = measures(rows, price)
    for name in ADDED:
        assert summed(days_of(rows, price), name) == getattr(total, name)
        assert summed([trend.totals for trend in peers_of(rows, price)], name) == getattr(
            total, name
        )
    report = costs(rows, price, TODAY)
    for name in ("peers", "months"):
        assert sum((one.cost for one in report[name]), Decimal(0)) == total.cost
        assert sum(one.wire_bytes for one in report[name]) == total.wire_bytes
    assert report["total"].cost == total.cost


@given(ROWS)
def test_whole_days_that_are_compared_with_themselves_have_not_changed(
    rows: list[dict[str, Any]],
) -> None:
    recent = [r for r in rows if 1 <= (TODAY - r["day"]).days <= 10]
    before = [{**r, "day": r["day"] - timedelta(days=10)} for r in recent]
    today = [row(0, "server-a", rows=7)]
    found = compare([*recent, *before, *today], price, TODAY, 10)
    assert found
    assert all(one.percent == 0 and one.now == one.before for one in found)


def test_a_peer_that_was_renamed_is_one_peer() -> None:
    rows = [{**row(3, "old", rows=1), "peer_id": "x"}, {**row(2, "new", rows=2), "peer_id": "x"}]
    [trend] = peers_of(rows, price)
    assert (trend.peer, trend.totals.rows) == ("new", 3)


def test_no_run_has_no_rate() -> None:
    assert success_rate(Measures()) is None
    assert success_rate(Measures(ok=3, failed=1)) == 0.75


def test_lags_are_means_by_transactions() -> None:
    rows = [
        row(1, "server-a", p50_sum=9.0, p95_sum=90.0, lags=9.0),
        row(1, "server-b", p50_sum=11.0, p95_sum=11.0, lags=1.0),
    ]
    total = measures(rows, price)
    assert (total.lag_p50_s, total.lag_p95_s) == (2.0, 10.1)


def test_a_day_on_which_nothing_came_is_named_and_today_is_not() -> None:
    rows = [row(i, "server-a", changes=100_000) for i in range(1, 60) if i != 2]
    found = unusual("shop", None, days_of(rows, price), TODAY - timedelta(days=30), TODAY)
    assert [(one.day, one.measure) for one in found] == [("2026-05-14", "changes")]
    assert "where 100,000 are usual" in found[0].reason


def test_a_name_in_an_export_is_no_formula() -> None:
    hostile = ("=1+1", "+1", "-1", "@a", "\ta", "good")
    text = csv_text([{"database": name, "peer": "server-b", "changes": -1} for name in hostile])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["database"] for row in rows] == [*(f"'{name}" for name in hostile[:-1]), "good"]
    assert rows[0]["changes"] == "-1"
