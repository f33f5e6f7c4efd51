"""A line through the days, and the month that it foretells."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.trend import change_per_day, fit, forecast_month, next_month

TODAY = date(2026, 5, 16)
Money = st.decimals(0, 10_000, places=6)


def back(costs: list[Decimal], today: date = TODAY) -> dict[date, Decimal]:
    """The costs of the days up to yesterday."""
    first = today - timedelta(days=len(costs))
    return {first + timedelta(days=i): cost for i, cost in enumerate(costs)}


@given(st.floats(-1e3, 1e3), st.floats(-1e6, 1e6), st.integers(3, 50))
def test_points_on_a_line_give_the_line(slope: float, start: float, count: int) -> None:
    line = fit([(float(x), start + slope * x) for x in range(count)])
    assert line.slope == pytest.approx(slope, abs=1e-3)
    assert line.at(count + 10) == pytest.approx(start + slope * (count + 10), abs=1)
    assert line.sigma == pytest.approx(0, abs=1)


def test_growth_is_told_by_the_day() -> None:
    values = {TODAY + timedelta(days=i): 100 + 5.0 * i for i in range(20)}
    assert change_per_day(values) == pytest.approx(5)
    assert change_per_day({}) == change_per_day({TODAY: 3.0}) == 0


def test_steady_days_foretell_the_month_exactly() -> None:
    daily = back([Decimal("1.50")] * 40)
    may = forecast_month(daily, TODAY, TODAY)
    assert may is not None
    assert may.month == "2026-05"
    assert may.spent == Decimal("22.50")  # the 1st to the 15th
    assert may.expected == may.low == may.high == Decimal("46.50")
    june = forecast_month(daily, next_month(TODAY), TODAY)
    assert june is not None
    assert (june.month, june.spent, june.expected) == ("2026-06", Decimal(0), Decimal("45.00"))


def test_growing_days_foretell_more() -> None:
    daily = back([Decimal(i) for i in range(40)])
    june = forecast_month(daily, next_month(TODAY), TODAY)
    assert june is not None
    assert june.expected == sum(range(40 + 16, 40 + 16 + 30))


def test_falling_days_never_cost_less_than_nothing() -> None:
    june = forecast_month(back([Decimal(40 - i) for i in range(40)]), next_month(TODAY), TODAY)
    assert june is not None
    assert june.low == june.expected == 0


def test_a_day_that_is_missing_cost_nothing() -> None:
    whole = back([Decimal(0 if i % 2 else 2) for i in range(40)])
    gaps = {day: cost for day, cost in whole.items() if cost}
    assert forecast_month(gaps, TODAY, TODAY) == forecast_month(whole, TODAY, TODAY)


def test_less_than_a_week_foretells_nothing() -> None:
    assert forecast_month(back([Decimal(1)] * 6), TODAY, TODAY) is None
    assert forecast_month({}, TODAY, TODAY) is None


def test_the_spread_holds_what_chance_does() -> None:
    chance = random.Random(7)
    held = 0
    for _ in range(200):
        drawn = [Decimal(str(round(chance.gauss(10, 2), 6))) for _ in range(60 + 46)]
        daily = back(drawn[:60])
        june = forecast_month(daily, next_month(TODAY), TODAY)
        assert june is not None
        real = sum(drawn[60 + 16 :], Decimal(0))
        held += june.low <= real <= june.high
    assert held >= 180


@given(st.lists(Money, min_size=7, max_size=100), Money)
def test_a_forecast_is_never_below_what_was_spent(costs: list[Decimal], now: Decimal) -> None:
    found = forecast_month({**back(costs), TODAY: now}, TODAY, TODAY)
    assert found is not None
    days = {**back(costs), TODAY: now}
    assert found.spent == sum(
        (c for d, c in days.items() if (d.year, d.month) == (2026, 5)), Decimal(0)
    )
    assert found.spent <= found.low <= found.expected <= found.high
