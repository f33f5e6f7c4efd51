"""A rate is kept by all who share it, and nobody waits without one."""

from __future__ import annotations

import pytest

from peersync.core.throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stream_takes_as_long_as_its_rate_says() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock)
    for _ in range(50):
        clock.now += throttle.take(100)
    assert clock.now - 100.0 == pytest.approx(5.0, abs=0.11)


def test_two_who_share_it_get_half_each() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock)
    pauses = [throttle.take(1000) for _ in range(4)]
    assert pauses == pytest.approx([1.0, 2.0, 3.0, 4.0])


def test_time_that_was_not_used_is_not_saved_up() -> None:
    clock = Clock()
    throttle = Throttle(1000, clock)
    clock.now += 60
    assert throttle.take(1000) == pytest.approx(0.9)


def test_without_a_limit_nobody_waits() -> None:
    throttle = Throttle(0, Clock())
    assert throttle.take(1 << 40) == 0.0
