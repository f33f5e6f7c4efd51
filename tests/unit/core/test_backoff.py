"""The pauses between two tries: growing, bounded, and ended when patience ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peersync.core.backoff import FIRST_S, Backoff


def test_pauses_double_up_to_the_longest_one() -> None:
    backoff = Backoff(maximum_s=5.0, total_s=1000.0)
    assert [backoff.next_pause(0.0) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.failures == 6


@given(st.floats(0.1, 100.0), st.floats(0.1, 10_000.0))
def test_patience_ends_and_the_last_try_is_not_missed(maximum_s: float, total_s: float) -> None:
    backoff = Backoff(maximum_s=maximum_s, total_s=total_s)
    now = 0.0
    while (pause := backoff.next_pause(now)) is not None:
        assert 0 < pause <= maximum_s
        now += pause
        assert backoff.failures < 10 + total_s / min(maximum_s, FIRST_S)
    assert total_s <= now <= total_s + FIRST_S


def test_the_clock_of_patience_begins_with_the_first_failure() -> None:
    backoff = Backoff(maximum_s=30.0, total_s=10.0)
    assert backoff.next_pause(1000.0) == FIRST_S
    assert backoff.next_pause(1009.9) is not None
    assert backoff.next_pause(1010.0) is None


def test_a_very_long_outage_does_not_overflow() -> None:
    backoff = Backoff(maximum_s=30.0, total_s=1e9)
    pauses = [backoff.next_pause(0.0) for _ in range(5000)]
    assert pauses[-1] == 30.0
