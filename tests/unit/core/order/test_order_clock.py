"""The clock: what follows is later, whatever the wall clocks say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import ProtocolError
from peersync.core.order import clock, vector

TIMES = st.integers(0, clock.MAX_HLC - 1)
VECTORS = st.dictionaries(st.integers(1, 6), st.integers(0, 9))


@given(TIMES, TIMES)
def test_a_new_time_is_later_than_the_last_and_never_behind_the_wall(last: int, wall: int) -> None:
    assert clock.next_hlc(last, wall) > last
    assert clock.next_hlc(last, wall) >= wall


@given(TIMES, TIMES, TIMES)
def test_what_is_made_after_seeing_a_change_is_later_than_it(
    own: int, other: int, wall: int
) -> None:
    assert clock.next_hlc(clock.observe(own, other), wall) > other


def test_a_time_of_the_future_is_measured() -> None:
    assert clock.ahead_us(5_000_000, 2_000_000) == 3_000_000
    assert clock.ahead_us(2_000_000, 5_000_000) == 0


@given(VECTORS, VECTORS)
def test_a_merged_vector_covers_both_and_nothing_more(
    one: dict[int, int], other: dict[int, int]
) -> None:
    merged = vector.merge(one, other)
    assert vector.covers(merged, one)
    assert vector.covers(merged, other)
    assert all(p in (one.get(o), other.get(o)) for o, p in merged.items())


@given(st.lists(VECTORS, min_size=1, max_size=4))
def test_what_all_have_is_covered_by_each(vectors: list[dict[int, int]]) -> None:
    lowest = vector.least(vectors)
    for origin in range(1, 7):
        assert vector.at(lowest, origin) == min(vector.at(each, origin) for each in vectors)


@given(VECTORS, VECTORS, st.integers(1, 6))
def test_what_is_missing_is_named(have: dict[int, int], need: dict[int, int], but: int) -> None:
    found = vector.missing(have, need, but=but)
    rest = {origin: at for origin, at in need.items() if origin != but}
    assert (found is None) == vector.covers(have, rest)
    if found is not None:
        assert found[0] != but
        assert need[found[0]] == found[1] > vector.at(have, found[0])


@pytest.mark.parametrize("bad", [{0: 1}, {1 << 53: 1}, {1: -1}, {1: 1 << 63}])
def test_a_vector_that_no_peer_could_mean_is_refused(bad: dict[int, int]) -> None:
    with pytest.raises(ProtocolError):
        vector.check(bad)


def test_a_vector_of_too_many_origins_is_refused() -> None:
    vector.check(dict.fromkeys(range(1, 101), 5))
    with pytest.raises(ProtocolError):
        vector.check(dict.fromkeys(range(1, vector.MAX_ORIGINS + 2), 1))
