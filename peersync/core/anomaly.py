"""Which days were unlike the days before them, and why, in words.

A day is compared with the same weekday of the past, because what people do has weeks; where
there are too few of those, with every day before it. The middle is the median and the spread
the median absolute deviation (MAD): one bad day spoils neither. The score is the modified
z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, 1993), and so is the limit
of 3.5. It names what is unusual; whether that is bad it does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Final

LIMIT: Final = 3.5
MAD_TO_SIGMA: Final = 1.4826  # of a normal distribution
SAME_WEEKDAYS: Final = 4  # so many of them are needed
ANY_DAYS: Final = 10  # or so many days of any kind
SLACK: Final = 0.1  # of the median: days that never differ must not make every change one

_NAMES: Final = (
    "Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays",
)  # fmt: skip


@dataclass(frozen=True)
class Usual:
    """What days like this one have. `among` says which they are: "5 Sundays".

    `alike`: values of the same weekday where there are too few to be the measure.
    """

    middle: float
    spread: float
    among: str
    alike: tuple[float, ...] = ()

    def has_seen(self, value: float, least: float) -> bool:
        """Whether an earlier one of these weekdays was the same: the first weekends are no news."""
        return any(abs(value - v) < max(least, SLACK * abs(v)) for v in self.alike)


@dataclass(frozen=True)
class Anomaly:
    """`score`: how many spreads away; below 0 for too little. `reason` is a sentence."""

    day: date
    value: float
    usual: float
    score: float
    reason: str


def usual_of(values: Mapping[date, float], day: date) -> Usual | None:
    """From the days before `day`; None where there are too few to say."""
    before = {d: v for d, v in values.items() if d < day}
    same = [v for d, v in before.items() if d.weekday() == day.weekday()]
    if len(same) >= SAME_WEEKDAYS:
        return _usual(same, f"{len(same)} {_NAMES[day.weekday()]}")
    if len(before) >= ANY_DAYS:
        return _usual([*before.values()], f"{len(before)} days", tuple(same))
    return None


def find_anomalies(
    values: Mapping[date, float],
    what: str,
    *,
    least: float,
    show: Callable[[float], str] = lambda value: f"{value:,.0f}",
) -> list[Anomaly]:
    """The unusual days, in their order. `least`: smaller differences are never worth a word.

    `what` and `show` make the sentence: "1,200 rows on 2026-05-03, …".
    """
    found = []
    for day, value in sorted(values.items()):
        usual = usual_of(values, day)
        if usual is None or abs(value - usual.middle) < least:
            continue
        if usual.has_seen(value, least):
            continue
        score = (value - usual.middle) / max(usual.spread, least / LIMIT)
        if abs(score) >= LIMIT - 1e-9:  # exactly `least` more than never is worth a word
            reason = _reason(day, value, usual, what, show)
            found.append(Anomaly(day, value, usual.middle, round(score, 1), reason))
    return found


def _usual(values: list[float], among: str, alike: tuple[float, ...] = ()) -> Usual:
    middle = median(values)
    mad = median(abs(value - middle) for value in values)
    return Usual(middle, max(MAD_TO_SIGMA * mad, SLACK * abs(middle)), among, alike)


def _reason(day: date, value: float, usual: Usual, what: str, show: Callable[[float], str]) -> str:
    had = f"{what}: {show(value)} on {day}"
    if not value:
        return f"{had}, where {show(usual.middle)} are usual (median of {usual.among})"
    if not usual.middle:
        return f"{had}, where nothing is usual (median of {usual.among})"
    times = value / usual.middle
    if times >= 2:
        how = f"{times:,.1f} times"
    else:
        percent = abs(times - 1) * 100
        how = f"{percent:.0f} % {'more' if times > 1 else 'less'} than"
    return f"{had}, {how} the usual {show(usual.middle)} (median of {usual.among})"
