"""A row is a function of the set of its changes: the order in which they came is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.order.change import Change, Columns, Image, Op, Version
from peersync.core.order.fold import (
    Delta,
    Function,
    Manual,
    MergeColumns,
    NewerWins,
    OriginPriority,
    Strategy,
    add_delta,
    causally_last,
    decide,
    fold,
    in_conflict,
    rivals,
    saw,
)
from tests.unit.core.order.histories import UNHURRIED, changes_of_a_row


def joined(changes: Sequence[Change]) -> Image | None:
    return "+".join(str(change.image) for change in changes)


WHOLE: list[Strategy] = [
    NewerWins(),
    Manual(),
    OriginPriority({1: 5, 2: 5, 3: 1}),
    Function(joined),
]
BY_COLUMN: list[Strategy] = [MergeColumns(), Delta(frozenset({"n"}))]


def change(
    hlc: int,
    origin: int,
    op: Op,
    image: Image | None = None,
    old: Image | None = None,
    seen: dict[int, int] | None = None,
    position: int = 1,
) -> Change:
    return Change(Version(hlc, origin, position), op, "(1)", image, old, seen or {})


def row(a: str, n: int) -> Columns:
    return {"a": a, "n": str(n)}


@pytest.mark.parametrize("strategy", WHOLE, ids=lambda s: s.name)
@UNHURRIED
@given(made=changes_of_a_row(), rng=st.randoms(use_true_random=False))
def test_the_order_of_arrival_makes_no_difference(
    strategy: Strategy, made: list[Change], rng: Random
) -> None:
    shuffled = rng.sample(made, len(made))
    assert fold(strategy, None, shuffled) == fold(strategy, None, made)


@pytest.mark.parametrize("strategy", BY_COLUMN, ids=lambda s: s.name)
@UNHURRIED
@given(made=changes_of_a_row(columns=True), rng=st.randoms(use_true_random=False))
def test_the_order_of_arrival_makes_no_difference_to_columns(
    strategy: Strategy, made: list[Change], rng: Random
) -> None:
    shuffled = rng.sample(made, len(made))
    assert fold(strategy, None, shuffled) == fold(strategy, None, made)


@pytest.mark.parametrize("strategy", [*WHOLE, *BY_COLUMN], ids=lambda s: s.name)
@UNHURRIED
@given(made=changes_of_a_row(columns=True))
def test_deciding_one_by_one_gives_what_folding_all_gives(
    strategy: Strategy, made: list[Change]
) -> None:
    current: Image | None = None
    for count, incoming in enumerate(made):
        current = decide(strategy, current, None, made[:count], incoming).image
        assert current == fold(strategy, None, made[: count + 1]).image


@UNHURRIED
@given(changes_of_a_row())
def test_the_newest_change_wins(made: list[Change]) -> None:
    newest = max(made, key=lambda each: each.version)
    assert fold(NewerWins(), None, made).image == newest.image
    assert fold(Manual(), None, made).winner == newest.version


@UNHURRIED
@given(changes_of_a_row())
def test_a_favoured_origin_wins_unless_the_other_had_seen_it(made: list[Change]) -> None:
    ranks = {1: 0, 2: 7, 3: 3}
    last = causally_last(made)
    winner = fold(OriginPriority(ranks), None, made).winner
    assert winner in [each.version for each in last]
    assert winner is not None
    assert ranks[winner.origin] == max(ranks[each.origin] for each in last)


@UNHURRIED
@given(changes_of_a_row())
def test_the_causally_last_are_concurrent_and_all_others_were_seen(made: list[Change]) -> None:
    last = causally_last(made)
    assert last
    assert not any(saw(one, other) for one in last for other in last)
    assert all(any(saw(other, each) for other in made) for each in made if each not in last)


def test_a_change_is_in_conflict_with_what_it_had_not_seen() -> None:
    incoming = Version(9, 1, 5)
    assert in_conflict(incoming, Version(1, 2, 4), {2: 3})
    assert not in_conflict(incoming, Version(1, 2, 3), {2: 3})
    assert not in_conflict(incoming, Version(1, 1, 4), {})
    assert in_conflict(incoming, Version(1, 2, 1), {})


def test_rivals_come_sorted_by_version() -> None:
    kept = [change(5, 2, "U", "b"), change(3, 3, "U", "c"), change(4, 1, "U", "a")]
    incoming = change(9, 1, "U", "x", position=2)
    assert [each.origin for each in rivals(incoming, kept)] == [3, 2]


def test_a_newer_delete_wins_and_an_older_one_does_not() -> None:
    write, delete = change(5, 1, "U", "x"), change(6, 2, "D")
    assert fold(NewerWins(), None, [write, delete]).image is None
    assert fold(NewerWins(), None, [write, change(4, 2, "D")]).image == "x"


def test_changes_of_different_columns_are_both_kept() -> None:
    base = row("old", 1)
    one = change(5, 1, "U", row("new", 1), base)
    other = change(6, 2, "U", row("old", 2), base)
    assert fold(MergeColumns(), base, [other, one]).image == row("new", 2)


def test_an_update_of_a_row_that_was_deleted_puts_it_in_whole() -> None:
    base = row("old", 1)
    changes = [change(5, 1, "D"), change(6, 2, "U", row("new", 1), base)]
    assert fold(MergeColumns(), base, changes).image == row("new", 1)
    assert fold(MergeColumns(), base, [change(7, 3, "D"), *changes]).image is None


def test_both_deltas_count_once() -> None:
    base = row("x", 10)
    one = change(5, 1, "U", row("x", 13), base)
    other = change(6, 2, "U", row("y", 6), base)
    strategy = Delta(frozenset({"n"}))
    assert fold(strategy, base, [one, other]).image == row("y", 9)
    assert fold(strategy, base, [one, other]).lost == ()


@pytest.mark.parametrize("later", [change(7, 2, "D"), change(7, 2, "I", row("z", 0))])
def test_a_delta_beneath_a_concurrent_delete_or_insert_is_flagged(later: Change) -> None:
    one = change(5, 1, "U", row("x", 13), row("x", 10))
    folded = fold(Delta(frozenset({"n"})), row("x", 10), [later, one])
    assert folded.lost == (one.version,)
    assert folded.image == later.image


def test_a_delta_that_a_delete_had_seen_is_not_lost() -> None:
    one = change(5, 1, "U", row("x", 13), row("x", 10))
    delete = change(7, 2, "D", seen={1: 1})
    assert fold(Delta(frozenset({"n"})), row("x", 10), [one, delete]).lost == ()


def test_a_function_is_only_asked_where_there_is_a_choice() -> None:
    asked: list[list[str]] = []

    def choose(changes: Sequence[Change]) -> Image | None:
        asked.append([str(each.image) for each in changes])
        return changes[0].image

    first, second = change(5, 1, "U", "a"), change(6, 2, "U", "b", seen={1: 1})
    assert fold(Function(choose), None, [first, second]).image == "b"
    assert asked == []
    assert fold(Function(choose), None, [change(7, 3, "U", "c"), second]).image == "b"
    assert asked == [["b", "c"]]


def test_an_opaque_image_is_refused_where_columns_are_merged() -> None:
    with pytest.raises(TypeError):
        fold(MergeColumns(), None, [change(1, 1, "I", "(1,x)")])


@given(st.integers(), st.integers(), st.integers())
def test_deltas_of_any_size_are_exact(current: int, old: int, new: int) -> None:
    assert int(add_delta(str(current), str(old), str(new)) or "") == current + new - old


@pytest.mark.parametrize(
    ("current", "old", "new", "result"),
    [
        ("1.10", "1.00", "1.05", "1.15"),
        (None, "1", "2", "2"),
        ("5", None, "2", "2"),
        ("5", "1", None, None),
        ("5", "1", "NaN", "NaN"),
        ("Infinity", "1", "2", "2"),
        ("5", "1", "$3", "$3"),
        ("5", "1", "1e999999999", "1e999999999"),
        ("5", "1e-999999999", "2", "2"),
        ("1e5", "1", "2", "100001"),
        ("1" + "0" * 60, "0", "0.1", "1" + "0" * 60 + ".1"),
    ],
)
def test_deltas_of_numbers_that_are_awkward(
    current: str | None, old: str | None, new: str | None, result: str | None
) -> None:
    assert add_delta(current, old, new) == result
