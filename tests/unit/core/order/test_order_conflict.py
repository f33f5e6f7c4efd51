"""What people are told of a conflict."""

from __future__ import annotations

import pytest

from peersync.core.order.change import Change, Op, Version
from peersync.core.order.conflict import Conflict, conflicts
from peersync.core.order.fold import (
    Function,
    Manual,
    MergeColumns,
    NewerWins,
    OriginPriority,
    Strategy,
    decide,
)

NAMES = {1: "server-a", 2: "server-b", 3: "server-c"}


def change(
    origin: int, op: Op, image: str | None = None, *, at_s: float = 1, **seen: int
) -> Change:
    known = {int(name[1:]): position for name, position in seen.items()}
    return Change(Version(round(at_s * 1_000_000), origin, 1), op, "(1)", image, None, known)


def told(strategy: Strategy, incoming: Change, *kept: Change) -> list[Conflict]:
    decided = decide(strategy, None, None, kept, incoming)
    return conflicts(strategy, kept, incoming, decided, name=NAMES.__getitem__)


@pytest.mark.parametrize(
    ("incoming", "kept", "kind"),
    [
        ("I", "I", "insert_exists"),
        ("I", "D", "insert_deleted"),
        ("U", "U", "update_origin_differs"),
        ("U", "I", "update_origin_differs"),
        ("U", "D", "update_missing"),
        ("U", "T", "update_missing"),
        ("D", "U", "delete_origin_differs"),
        ("T", "I", "delete_origin_differs"),
    ],
)
def test_a_conflict_has_the_name_that_postgresql_gives_it(
    incoming: Op, kept: Op, kind: str
) -> None:
    image = {"I": "new", "U": "new", "D": None, "T": None}
    other = {"I": "old", "U": "old", "D": None, "T": None}
    (only,) = told(NewerWins(), change(1, incoming, image[incoming]), change(2, kept, other[kept]))
    assert only.kind == kind


def test_the_newer_change_stands_and_the_reason_says_by_how_much() -> None:
    (only,) = told(NewerWins(), change(1, "U", "x", at_s=2.5), change(2, "U", "y", at_s=1))
    assert only.winner == "incoming"
    assert only.reason == (
        "server-b updated the row, server-a updated it, neither saw the other; "
        "server-a's stands because it is 1.500000 s newer"
    )


def test_the_kept_change_stands_where_it_is_newer() -> None:
    (only,) = told(NewerWins(), change(1, "D", at_s=1), change(2, "U", "y", at_s=2))
    assert only.winner == "kept"
    assert "server-b's stands" in only.reason


def test_at_the_same_time_the_higher_origin_stands() -> None:
    (only,) = told(NewerWins(), change(1, "U", "x"), change(2, "U", "y"))
    assert only.winner == "kept"
    assert "same time" in only.reason


def test_a_favoured_origin_is_named_as_the_reason() -> None:
    strategy = OriginPriority({1: 9})
    (only,) = told(strategy, change(1, "U", "x", at_s=1), change(2, "U", "y", at_s=2))
    assert only.winner == "incoming"
    assert only.reason.endswith("because its node has priority")


def test_a_manual_conflict_waits_for_a_person() -> None:
    (only,) = told(Manual(), change(1, "U", "x", at_s=2), change(2, "U", "y"))
    assert only.parked
    assert only.reason.endswith("until a person decides")


def test_a_merged_row_is_neither_sides() -> None:
    base = {"a": "1", "b": "1"}
    one = Change(Version(1, 1, 1), "U", "(1)", {"a": "2", "b": "1"}, base)
    other = Change(Version(2, 2, 1), "U", "(1)", {"a": "1", "b": "2"}, base)
    decided = decide(MergeColumns(), one.image, base, [one], other)
    (only,) = conflicts(MergeColumns(), [one], other, decided)
    assert only.winner == "merged"
    assert "made one row of both" in only.reason


def test_what_a_function_made_is_told_as_such() -> None:
    (only,) = told(Function(lambda _: "both"), change(1, "U", "x"), change(2, "U", "y"))
    assert only.winner == "merged"
    (only,) = told(Function(lambda _: "y"), change(1, "U", "x"), change(2, "U", "y"))
    assert only.winner == "kept"
    assert "function chose it" in only.reason


def test_both_sides_doing_the_same_is_no_conflict_to_record() -> None:
    assert told(NewerWins(), change(1, "U", "same"), change(2, "U", "same")) == []
    assert told(NewerWins(), change(1, "D"), change(2, "D")) == []
    assert told(NewerWins(), change(1, "D"), change(2, "T")) == []


def test_history_is_no_conflict() -> None:
    assert told(NewerWins(), change(1, "U", "x", o2=1), change(2, "U", "y")) == []


def test_a_third_change_that_beats_both_is_said() -> None:
    found = told(
        NewerWins(),
        change(1, "U", "x", at_s=1),
        change(2, "U", "y", at_s=2),
        change(3, "U", "z", at_s=3),
    )
    assert len(found) == 2
    assert {each.winner for each in found} == {"kept"}
    assert "a third change stands" in found[0].reason
    assert "server-c's stands" in found[1].reason
