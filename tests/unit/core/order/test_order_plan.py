"""What may be applied now, in which runs, and why the rest has to wait (R1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.order.change import Transaction
from peersync.core.order.plan import Plan, Reason, plan_runs
from peersync.core.order.vector import covers
from tests.unit.core.order.histories import UNHURRIED, transactions

OWN = 9
ALL = {1, 2, 3, OWN}


def head(origin: int, position: int, **seen: int) -> Transaction:
    """head(1, 2, o3=4): transaction 2 of origin 1, which had seen transaction 4 of origin 3."""
    return Transaction(origin, position, 0, "d", 1, {int(o[1:]): p for o, p in seen.items()})


def plan(*heads: Transaction, vector: dict[int, int] | None = None, **options: object) -> Plan:
    given_options: dict[str, object] = {"own_origin": OWN, "members": ALL, **options}
    return plan_runs(heads, vector or {}, **given_options)  # type: ignore[arg-type]


def runs(of: Plan) -> list[tuple[int, int, int]]:
    return [(run.origin, run.first, run.last) for run in of.runs]


@UNHURRIED
@given(transactions(), st.randoms(use_true_random=False), st.sets(st.integers(0, 13)))
def test_each_planned_transaction_finds_all_that_it_had_seen(
    made: list[Transaction], rng: object, lost: set[int]
) -> None:
    frame = [each for i, each in enumerate(made) if i not in lost]
    rng.shuffle(frame)  # type: ignore[attr-defined]
    result = plan(*frame, *frame[:3])
    here: dict[int, int] = {}
    for run in result.runs:
        for each in run.transactions:
            assert each.position == here.get(each.origin, 0) + 1
            assert covers(here, each.seen)
            here[each.origin] = each.position
    assert result.vector == here


@UNHURRIED
@given(transactions())
def test_a_whole_frame_in_order_of_time_is_planned_to_the_end(made: list[Transaction]) -> None:
    result = plan(*sorted(made, key=lambda each: (each.hlc, each.origin)))
    assert result.stopped is None
    assert sum(len(run.transactions) for run in result.runs) == len(made)


@UNHURRIED
@given(transactions(), st.sets(st.integers(0, 13)))
def test_what_is_left_could_really_not_be_applied(made: list[Transaction], lost: set[int]) -> None:
    frame = [each for i, each in enumerate(made) if i not in lost]
    result = plan(*frame)
    for each in frame:
        if each.position > result.vector.get(each.origin, 0):
            here = result.vector
            assert each.position != here.get(each.origin, 0) + 1 or not covers(here, each.seen)
            assert result.stopped is not None


def test_a_run_skips_over_other_origins() -> None:
    result = plan(head(1, 1), head(2, 1), head(1, 2), head(2, 2), head(1, 3))
    assert runs(result) == [(1, 1, 3), (2, 1, 2)]


def test_a_run_ends_where_it_builds_on_another() -> None:
    result = plan(head(1, 1), head(2, 1, o1=1), head(1, 2, o2=1), head(2, 2))
    assert runs(result) == [(1, 1, 1), (2, 1, 2), (1, 2, 2)]


def test_what_is_here_already_is_skipped_and_counted() -> None:
    result = plan(head(1, 1), head(1, 2), head(1, 2), vector={1: 1})
    assert runs(result) == [(1, 2, 2)]
    assert result.duplicates == 2
    assert result.stopped is None


def test_a_gap_stops_its_origin_and_no_other() -> None:
    result = plan(head(1, 2), head(2, 1))
    assert runs(result) == [(2, 1, 1)]
    assert result.stopped is not None
    assert result.stopped.reason is Reason.GAP
    assert result.stopped.sentence == "Transaction 2 of origin 1 came, but 1 is the next one here"


def test_a_relayed_transaction_waits_for_what_it_builds_on() -> None:
    result = plan(head(2, 1, o1=3), vector={1: 2})
    assert result.runs == ()
    assert result.stopped is not None
    assert result.stopped.needs == (1, 3)
    assert "transaction 3 of origin 1, not here yet" in result.stopped.sentence


@pytest.mark.parametrize(
    ("heads", "options", "reason"),
    [
        ([head(7, 1)], {}, Reason.UNKNOWN_ORIGIN),
        ([head(1, 1)], {"fenced": {1}}, Reason.FENCED),
        ([head(OWN, 5)], {"vector": {OWN: 4}}, Reason.AHEAD_OF_US),
        ([head(1, 1, o9=5)], {"vector": {OWN: 4}}, Reason.AHEAD_OF_US),
    ],
)
def test_what_may_not_come_is_said_and_not_raised(
    heads: list[Transaction], options: dict[str, object], reason: Reason
) -> None:
    result = plan(*heads, **options)  # type: ignore[arg-type]
    assert result.runs == ()
    assert result.stopped is not None
    assert result.stopped.reason is reason
    assert str(heads[0].origin) in result.stopped.sentence


def test_own_transactions_that_come_back_are_duplicates() -> None:
    assert plan(head(OWN, 4), vector={OWN: 4}).duplicates == 1


def test_a_join_admits_its_subject_for_what_follows() -> None:
    join = Transaction(1, 1, 0, "j", 0, {}, subject=7)
    assert runs(plan(head(7, 1, o1=1), join)) == [(1, 1, 1), (7, 1, 1)]


def test_a_long_run_can_be_cut_and_a_large_transaction_stays_whole() -> None:
    large = Transaction(1, 2, 0, "d", 50, {})
    result = plan(head(1, 1), large, head(1, 3), max_changes=10)
    assert [run.changes for run in result.runs] == [1, 50, 1]


def test_many_origins_that_wait_for_each_other_are_planned_quickly() -> None:
    origins = range(10, 110)
    made = [
        Transaction(o, p, p, "d", 1, {q: p - 1 for q in origins if q != o and p > 1})
        for p in range(1, 51)
        for o in origins
    ]
    result = plan_runs(made, {}, own_origin=1, members=set(origins))
    assert result.stopped is None
    assert sum(len(run.transactions) for run in result.runs) == 5000
