"""When something is due: never twice, never never, whatever the clocks are set to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import BadRequest
from peersync.core.schedule import Budget, When, parse_span

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 29, tzinfo=BERLIN)  # 02:00 becomes 03:00
AUTUMN = datetime(2026, 10, 25, tzinfo=BERLIN)  # 03:00 becomes 02:00
TIMES = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(BERLIN))
TEXTS = st.sampled_from(
    ["every 10s", "every 15m", "every 7d", "0 2 * * *", "30 2 * * *", "*/20 * * * *", "0 8 * * 1"]
)


def times_of(text: str, start: datetime, until: datetime) -> list[datetime]:
    when, found = When.parse(text), [start]
    while (due := when.after(found[-1])) < until:
        found.append(due)
    return found[1:]


@pytest.mark.parametrize("day", [SPRING, AUTUMN], ids=["spring", "autumn"])
@pytest.mark.parametrize("text", ["30 2 * * *", "0 2 * * *", "15 3 * * *"])
def test_a_fixed_hour_comes_once_on_the_day_the_clocks_change(text: str, day: datetime) -> None:
    assert len(times_of(text, day, day + timedelta(days=1))) == 1


@pytest.mark.parametrize(("day", "hours"), [(SPRING, 23), (AUTUMN, 25)], ids=["spring", "autumn"])
def test_every_hour_is_every_hour_when_the_clocks_change(day: datetime, hours: int) -> None:
    for text in ("0 * * * *", "every 1h"):
        begin = (day - timedelta(seconds=1)) if "*" in text else day
        found = times_of(text, begin.astimezone(BERLIN), day + timedelta(days=1, hours=1))
        stamps = [one.timestamp() for one in found]
        gaps = {b - a for a, b in pairwise(stamps)}
        assert gaps == {3600.0}
        assert len([s for s in stamps if s <= (day + timedelta(days=1)).timestamp()]) in (
            hours,
            hours + 1,
        )


@given(TEXTS, TIMES)
def test_the_next_time_is_later_and_asking_again_gives_the_same(text: str, time: datetime) -> None:
    when = When.parse(text)
    due = when.after(time)
    assert due.astimezone(UTC) > time.astimezone(UTC)
    assert due.tzinfo is BERLIN
    assert not when.missed(time, due.astimezone(UTC) - timedelta(milliseconds=1))
    assert when.missed(time, due)


@given(TEXTS, TIMES, st.floats(0, 40 * 86_400))
def test_after_any_downtime_one_run_makes_up_for_all(text: str, last: datetime, s: float) -> None:
    when = When.parse(text)
    now = (last.astimezone(UTC) + timedelta(seconds=s)).astimezone(BERLIN)
    turn = when.turn(last, now, catch_up=True, late_s=0)
    assert turn.run == when.missed(last, now)
    if turn.run:
        assert turn.due.astimezone(UTC) <= now.astimezone(UTC)
        again = when.turn(turn.due, now, catch_up=True, late_s=0)
        assert not again.run


@given(TEXTS, TIMES, st.floats(0, 40 * 86_400))
def test_what_was_missed_is_let_go_where_that_is_set(text: str, last: datetime, s: float) -> None:
    when = When.parse(text)
    now = (last.astimezone(UTC) + timedelta(seconds=s)).astimezone(BERLIN)
    turn = when.turn(last, now, catch_up=False, late_s=2)
    if not turn.run:
        assert turn.due.astimezone(UTC) > now.astimezone(UTC)
    else:
        assert (now - when.after(last)).total_seconds() <= 2


@given(st.integers(1, 40), st.floats(0, 1), st.none() | st.floats(0, 5000))
def test_pauses_grow_and_never_end_before_the_peer_wants(
    failures: int, chance: float, asked: float | None
) -> None:
    budget = Budget(tries=30)
    pause = budget.pause_s(failures, 1e9, chance, asked)
    if failures > 30:
        assert pause is None
        return
    assert pause is not None
    assert pause >= (asked or 0)
    assert pause <= max(budget.longest_s, asked or 0)
    assert pause >= min(budget.first_s * 2 ** (failures - 1), budget.longest_s) / 2
    assert budget.pause_s(failures, pause, chance, asked) is None  # no time is left for it


@pytest.mark.parametrize("text", ["", "every", "every 5x", "every 1s", "61 * * * *", "* * * *",
                                  "0 0 30 2 *", "every 15 minutes", "@daily"])  # fmt: skip
def test_what_never_comes_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        When.parse(text)
    assert refused.value.hint


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("15m", 900), ("7d", 604_800)])
def test_spans_are_seconds(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds
