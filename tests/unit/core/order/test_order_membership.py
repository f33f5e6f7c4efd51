"""Joining, expiring, coming back, and starting again: what each asks of the others."""

from __future__ import annotations

import pytest

from peersync.core.order.change import Change, Image, Op, Version
from peersync.core.order.membership import (
    Reissue,
    Start,
    Told,
    acknowledged,
    at_contact,
    at_start,
    cut,
    expiry_complete,
    join_is_void,
    known_of_joiner,
    majority,
    may_be_expired,
    reissue,
    voters,
    when_held,
)
from peersync.core.order.stability import Known, stable_upto


def test_a_joiner_holds_back_what_its_sponsor_had_not_seen_at_the_join() -> None:
    members = {1: Known(9, {2: 9}), 2: Known(9, {1: 9}), 7: known_of_joiner(1, 5, {2: 4})}
    assert stable_upto(1, members) == 5
    assert stable_upto(2, members) == 4


def test_a_join_is_acknowledged_when_everybody_told_of_it() -> None:
    members = {1: Known(5), 2: Known(3, {1: 5}), 3: Known(2, {1: 4}), 7: Known(0, {1: 5})}
    assert not acknowledged(7, 1, 5, members)
    assert acknowledged(7, 1, 5, members, fenced={3})
    assert acknowledged(7, 1, 5, {**members, 3: Known(3, {1: 5})})


def test_a_join_is_void_where_its_sponsor_is_gone_and_nobody_heard_of_it() -> None:
    assert join_is_void(7, {2, 3}, {1}, 1)
    assert not join_is_void(7, {2, 3, 7}, {1}, 1)
    assert not join_is_void(7, {1, 2}, set(), 1)


@pytest.mark.parametrize(
    ("agreeing", "members", "enough"),
    [
        ({1}, {1, 2}, False),
        ({1, 2}, {1, 2, 3}, True),
        ({1, 2}, {1, 2, 3, 4}, False),
        ({1, 9}, {1, 2, 3}, False),
    ],
)
def test_only_more_than_half_may_expire_a_member(
    agreeing: set[int], members: set[int], enough: bool
) -> None:
    assert majority(agreeing, members) is enough


def test_the_word_of_a_joiner_counts_once_everybody_knows_it() -> None:
    """Else the smaller part of a split admits others until it is the larger one."""
    apart = {1: Known(5, {2: 5}), 2: Known(5, {1: 3}), 3: Known(5, {1: 3})}
    joiners = {7: Known(0, {1: 4}), 8: Known(0, {1: 5}), 9: Known(0, {1: 6})}
    joins = {7: (1, 4), 8: (1, 5), 9: (1, 5)}
    members = {**apart, **joiners}
    assert voters(joins, members) == {1, 2, 3}
    assert not may_be_expired(2, {1, 7, 8, 9}, joins, members)
    assert not may_be_expired(2, {1, 3, 7}, joins, members)  # three of six
    assert may_be_expired(2, {1, 3, 7, 8}, joins, members)
    told = {m: Known(9, dict.fromkeys((1, 2, 3), 9)) for m in members}
    assert voters(joins, told) == set(members)
    assert not may_be_expired(2, {1, 2, 7, 8}, joins, told)  # its own word does not count
    assert may_be_expired(2, {1, 7, 8, 9}, joins, told)
    assert may_be_expired(2, {1, 3}, {}, {m: told[m] for m in (1, 2, 3, 7)}, fenced={7})


def test_an_expiry_is_complete_when_all_know_and_all_is_here_that_any_has() -> None:
    members = {1: Known(6, {9: 3}), 2: Known(4, {1: 6, 9: 5}), 9: Known(5)}
    assert cut(9, members) == 5
    assert expiry_complete(9, 1, 6, {9: 5}, members, {9})
    assert not expiry_complete(9, 1, 6, {9: 4}, members, {9})
    assert not expiry_complete(9, 1, 7, {9: 5}, members, {9})


def change(op: Op, image: Image | None, old: Image | None, hlc: int = 5) -> Change:
    return Change(Version(hlc, 1, 1), op, "(1)", image, old)


@pytest.mark.parametrize(
    ("made", "row", "options", "result"),
    [
        (change("U", "new", "old"), "old", {"in_baseline": False}, Reissue.REDO),
        (change("U", "new", "old"), "old", {"in_baseline": True}, Reissue.DROP),
        (change("U", "new", "old"), "old", {"in_baseline": None}, Reissue.WAIT),
        (change("U", "new", "old"), None, {"in_baseline": False}, Reissue.KEEP_BASELINE),
        (change("I", "new", None), None, {"in_baseline": False}, Reissue.REDO),
        (change("I", "new", None), "other", {"in_baseline": False}, Reissue.KEEP_BASELINE),
        (change("U", "8", "5"), "7", {"in_baseline": False, "is_delta": True}, Reissue.ADD),
        (
            change("U", "8", "5"),
            None,
            {"in_baseline": False, "is_delta": True},
            Reissue.KEEP_BASELINE,
        ),
        (
            change("U", "n", "o"),
            "x",
            {"in_baseline": False, "row_version": Version(4, 2, 1)},
            Reissue.REDO,
        ),
        (
            change("U", "n", "o"),
            "x",
            {"in_baseline": False, "row_version": Version(6, 2, 1)},
            Reissue.KEEP_BASELINE,
        ),
        (change("T", None, None), None, {"in_baseline": False}, Reissue.WAIT),
    ],
)
def test_a_change_of_who_returns_is_made_again_only_where_that_is_right(
    made: Change, row: Image | None, options: dict[str, object], result: Reissue
) -> None:
    assert reissue(made, row, **options) is result  # type: ignore[arg-type]


def test_a_database_behind_its_record_is_held() -> None:
    assert at_start({1: 7}, {1: 7, 2: 4}) is Start.GO_ON
    assert at_start({1: 7}, {1: 9}) is Start.GO_ON
    assert at_start({1: 7}, {1: 6}) is Start.HELD
    assert at_start({1: 7, 2: 5}, {1: 7, 2: 4}) is Start.HELD
    assert at_start(None, {1: 6}) is Start.HELD


def test_a_peer_that_knows_more_of_us_than_we_do_shows_that_we_were_set_back() -> None:
    assert at_contact(1, 5, {1: 5}) is Start.GO_ON
    assert at_contact(1, 5, {1: 6}) is Start.RETURN


def test_a_held_database_goes_on_only_when_all_agree() -> None:
    vector = {1: 5, 2: 8}
    fine = Told(5, {2: 8})
    assert when_held(1, vector, {2: fine, 3: fine}) is Start.GO_ON
    assert when_held(1, vector, {2: fine, 3: None}) is Start.HELD
    assert when_held(1, vector, {2: fine, 3: Told(6, {})}) is Start.RETURN
    assert when_held(1, vector, {2: None, 3: Told(5, {2: 9})}) is Start.RETURN
