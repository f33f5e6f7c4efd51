"""What may be forgotten, and what must be said so that others can forget."""

from __future__ import annotations

import pytest
from hypothesis import given

from peersync.core.order.change import Change, Image, Op, Version
from peersync.core.order.fold import Delta, MergeColumns, NewerWins, OriginPriority, fold
from peersync.core.order.stability import (
    Known,
    changes_needed,
    floors,
    heartbeat_due,
    learn_frame,
    prune_row,
    relay_needed,
    resync_needed,
    stable,
    stable_upto,
)
from tests.unit.core.order.histories import UNHURRIED, changes_of_a_row

MEMBERS = {1: Known(7, {2: 4}), 2: Known(4, {1: 5}), 3: Known(0, {1: 6, 2: 3})}


def change(hlc: int, origin: int, op: Op = "U", image: Image | None = "x", **seen: int) -> Change:
    known = {int(name[1:]): position for name, position in seen.items()}
    return Change(Version(hlc, origin, hlc), op, "(1)", image, None, known)


def test_a_transaction_is_stable_once_every_member_told_that_it_has_it() -> None:
    assert stable_upto(1, MEMBERS) == 5
    assert stable_upto(2, MEMBERS) == 3
    assert stable(1, 5, MEMBERS)
    assert not stable(1, 6, MEMBERS)
    assert stable_upto(3, MEMBERS) == 0
    assert stable_upto(1, {}) == 0
    assert floors([1, 2], MEMBERS) == {1: 5, 2: 3}


def test_a_members_own_transactions_count_as_known_to_it() -> None:
    assert stable(1, 5, {1: Known(5, {}), 2: Known(1, {1: 5})})


def test_a_frames_vector_teaches_only_when_all_of_its_sender_is_here() -> None:
    known = Known(4, {1: 5})
    assert learn_frame(known, 2, {2: 5, 1: 9}, {2: 4}) == known
    assert learn_frame(known, 2, {2: 4, 1: 9}, {2: 4}) == Known(4, {1: 9})
    assert learn_frame(known, 2, {2: 4, 1: 3, 3: 1}, {2: 4}) == Known(4, {1: 5, 3: 1})


def test_a_heartbeat_is_due_for_data_that_was_not_answered_yet() -> None:
    assert heartbeat_due({2: 5}, {2: 4})
    assert heartbeat_due({3: 1}, {2: 4})
    assert not heartbeat_due({2: 4}, {2: 5, 3: 9})
    assert not heartbeat_due({}, {})


def test_only_a_third_member_makes_relaying_needed() -> None:
    assert not relay_needed(2, {1, 2}, 1)
    assert relay_needed(2, {1, 2, 3}, 1)
    assert not changes_needed(NewerWins(), 2, {1, 2}, 1)
    assert changes_needed(MergeColumns(), 2, {1, 2}, 1)


def test_an_old_answer_does_not_make_a_database_start_anew() -> None:
    assert resync_needed({2: 5}, {2: 4}, own=1)
    assert not resync_needed({2: 5, 1: 99}, {2: 5}, own=1)


def test_a_stable_change_is_forgotten_and_an_unstable_one_is_kept() -> None:
    kept = [change(1, 1), change(2, 2)]
    assert prune_row(NewerWins(), None, kept, {1: 1}).kept == (kept[1],)


def test_a_stable_change_stays_above_an_older_one_that_is_not_stable() -> None:
    base = {"a": "1", "b": "1"}
    older = change(1, 1, "U", {"a": "2", "b": "1"})
    newer = change(2, 2, "U", {"a": "3", "b": "3"})
    for strategy in (MergeColumns(), Delta(frozenset({"b"}))):
        stays = prune_row(strategy, base, [newer, older], {2: 2})
        assert stays.kept == (older, newer)
        assert stays.base == base
        goes = prune_row(strategy, base, [newer, older], {1: 1})
        assert goes.kept == (newer,)
        assert goes.base == {"a": "2", "b": "1"}


def test_a_favoured_winner_stays_beside_what_it_won_against() -> None:
    winner, loser = change(1, 1), change(2, 2)
    strategy = OriginPriority({1: 9})
    assert prune_row(strategy, None, [winner, loser], {1: 1}).kept == (winner, loser)
    assert prune_row(strategy, None, [winner, loser], {1: 1, 2: 2}).kept == ()
    later = change(3, 2, o1=1)
    assert prune_row(strategy, None, [winner, later], {1: 1}).kept == (later,)


@pytest.mark.parametrize(
    "strategy", [MergeColumns(), Delta(frozenset({"n"}))], ids=lambda s: s.name
)
@UNHURRIED
@given(made=changes_of_a_row(columns=True))
def test_pruning_leaves_the_row_as_it_is(
    strategy: MergeColumns | Delta, made: list[Change]
) -> None:
    upto: dict[int, int] = {}
    for each in made[: len(made) // 2]:
        upto[each.origin] = each.version.position
    pruned = prune_row(strategy, None, made, upto)
    assert fold(strategy, pruned.base, pruned.kept).image == fold(strategy, None, made).image
