"""Unusual days are named, and usual ones never."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from peersync.core.anomaly import LIMIT, find_anomalies, usual_of

MONDAY = date(2026, 3, 2)


def days(values: list[float], first: date = MONDAY) -> dict[date, float]:
    return {first + timedelta(days=i): value for i, value in enumerate(values)}


def test_a_day_is_compared_with_the_same_weekday() -> None:
    week = [1000.0, 1010, 990, 1005, 995, 20, 10]  # nothing is done on weekends
    values = days(week * 6)
    assert not find_anomalies(values, "rows", least=50)
    sunday = MONDAY + timedelta(days=41)
    found = find_anomalies({**values, sunday: 1000.0}, "rows", least=50)
    assert [one.day for one in found] == [sunday]
    assert found[0].reason == (
        "rows: 1,000 on 2026-04-12, 100.0 times the usual 10 (median of 5 Sundays)"
    )


def test_a_day_without_anything_is_one_where_something_is_usual() -> None:
    values = days([100.0] * 30)
    quiet = MONDAY + timedelta(days=29)
    [one] = find_anomalies({**values, quiet: 0.0}, "changes", least=5)
    assert one.score < -LIMIT
    assert one.reason == ("changes: 0 on 2026-03-31, where 100 are usual (median of 4 Tuesdays)")


def test_the_first_of_its_kind_has_words_too() -> None:
    values = days([0.0] * 20)
    [one] = find_anomalies({**values, MONDAY + timedelta(days=20): 7.0}, "failures", least=2)
    assert "where nothing is usual (median of 20 days)" in one.reason


def test_too_little_history_says_nothing() -> None:
    assert usual_of(days([1.0] * 9), MONDAY + timedelta(days=9)) is None
    assert not find_anomalies(days([1.0] * 9 + [1e9]), "rows", least=1)


def test_a_bad_day_does_not_become_what_is_usual() -> None:
    values = days([100.0] * 10 + [1e6] + [100.0] * 10)
    found = find_anomalies(values, "rows", least=5)
    assert [one.value for one in found] == [1e6]


@given(
    st.lists(st.floats(0, 1e12), min_size=0, max_size=80),
    st.floats(0.001, 1e6),
)
def test_only_days_that_differ_by_enough_are_named(values: list[float], least: float) -> None:
    known = days(values)
    for one in find_anomalies(known, "x", least=least):
        assert known[one.day] == one.value
        assert abs(one.value - one.usual) >= least
        assert abs(one.score) >= LIMIT
        assert (one.score > 0) == (one.value > one.usual)


@given(st.floats(0, 1e9), st.integers(0, 60))
def test_days_that_never_differ_have_no_unusual_one(value: float, count: int) -> None:
    assert not find_anomalies(days([value] * count), "x", least=0.001)


@given(st.lists(st.floats(0, 1e6), min_size=20, max_size=60), st.integers(0, 19))
def test_what_comes_later_changes_no_judgement(values: list[float], cut: int) -> None:
    known = days(values)
    until = MONDAY + timedelta(days=cut)
    before = find_anomalies({d: v for d, v in known.items() if d <= until}, "x", least=1)
    after = find_anomalies(known, "x", least=1)
    assert before == [one for one in after if one.day <= until]


def test_what_was_never_is_named_as_soon_as_it_is_enough() -> None:
    found = find_anomalies(days([0.0] * 40 + [2.0]), "failed runs", least=2)
    assert [one.value for one in found] == [2.0]
    assert not find_anomalies(days([0.0] * 40 + [1.0]), "failed runs", least=2)
