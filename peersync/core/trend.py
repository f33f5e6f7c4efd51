"""A straight line through the days, and what a month will have cost when it is over.

Least squares, and the spread that follows from how far the days are from their line: for a sum
of m days to come, of n that were seen, sigma² · (m + m²/n + (Σ(x - x̄))² / Sxx). That the next
days are like the last ones is an assumption, not a finding. Money is Decimal from end to end;
only the line itself is drawn in floats.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from math import sqrt
from typing import Final

LOOK_BACK_D: Final = 60
FEWEST_D: Final = 7
SPREADS: Final = 2.0  # about 95 of 100
CENT: Final = Decimal("0.000001")


@dataclass(frozen=True)
class Line:
    """y = intercept + slope · x; `sigma`: how far the points are from it."""

    slope: float
    intercept: float
    sigma: float
    count: int
    mean_x: float
    sxx: float

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x

    def sum_spread(self, xs: Sequence[float]) -> float:
        """One standard deviation of the sum over points to come."""
        if not xs or not self.count:
            return 0.0
        m = len(xs)
        off = sum(xs) - m * self.mean_x
        slope_part = off * off / self.sxx if self.sxx else 0.0
        return self.sigma * sqrt(m + m * m / self.count + slope_part)


@dataclass(frozen=True)
class Forecast:
    """Of one month. `spent` is what was; expected, low and high are of the whole month.

    `from_days`: so many days it was drawn from.
    """

    month: str
    spent: Decimal
    expected: Decimal
    low: Decimal
    high: Decimal
    from_days: int


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line of least squares. One point, or none, makes a flat one without a spread."""
    n = len(points)
    if not n:
        return Line(0.0, 0.0, 0.0, 0, 0.0, 0.0)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    sxx = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sxx if sxx else 0.0
    intercept = mean_y - slope * mean_x
    off = sum((y - intercept - slope * x) ** 2 for x, y in points)
    sigma = sqrt(off / (n - 2)) if n > 2 else 0.0
    return Line(slope, intercept, sigma, n, mean_x, sxx)


def change_per_day(values: Mapping[date, float]) -> float:
    """The slope: by how much each day has more than the day before."""
    return fit([(float(day.toordinal()), value) for day, value in sorted(values.items())]).slope


def forecast_month(
    daily: Mapping[date, Decimal], month: date, today: date, *, look_back_d: int = LOOK_BACK_D
) -> Forecast | None:
    """What the month of `month` comes to. None where fewer than a week has been seen.

    A day that is not in `daily` cost nothing, from the first one that is. Today is not over:
    it counts with what it has cost, or with the line where that is more.
    """
    seen = _complete(daily, today, look_back_d)
    if len(seen) < FEWEST_D:
        return None
    line = fit([(float(day.toordinal()), float(cost)) for day, cost in seen.items()])
    days = _days_of(month)
    spent = sum((daily.get(day, Decimal(0)) for day in days if day <= today), Decimal(0))
    known = sum((daily.get(day, Decimal(0)) for day in days if day < today), Decimal(0))
    to_come = [day for day in days if day >= today]
    guesses = [max(line.at(day.toordinal()), 0.0) for day in to_come]
    rest = sum(
        (
            max(_money(guess), daily.get(day, Decimal(0)))
            for day, guess in zip(to_come, guesses, strict=True)
        ),
        Decimal(0),
    )
    spread = _money(SPREADS * line.sum_spread([float(day.toordinal()) for day in to_come]))
    expected = known + rest
    return Forecast(
        month=f"{month:%Y-%m}",
        spent=spent,
        expected=expected,
        low=max(expected - spread, spent),
        high=expected + spread,
        from_days=len(seen),
    )


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _complete(daily: Mapping[date, Decimal], today: date, look_back_d: int) -> dict[date, Decimal]:
    """Every day from the first that is known to yesterday, at most `look_back_d` of them."""
    first = max(min(daily, default=today), today - timedelta(days=look_back_d))
    count = max((today - first).days, 0)
    days = [first + timedelta(days=i) for i in range(count)]
    return {day: daily.get(day, Decimal(0)) for day in days}


def _days_of(month: date) -> list[date]:
    count = calendar.monthrange(month.year, month.month)[1]
    return [month.replace(day=i + 1) for i in range(count)]


def _money(value: float) -> Decimal:
    return Decimal(str(value)).quantize(CENT)
