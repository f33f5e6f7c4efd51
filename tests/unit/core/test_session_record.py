"""The record of one full sync: which states may follow which, and what it says of itself."""

from __future__ import annotations

import itertools

import pytest

from peersync.core.progress import Progress, Step, StepState
from peersync.core.session import SessionRecord, State, may_follow

MIB = 1 << 20

ALLOWED = {
    ("planned", "running"),
    ("planned", "cancelled"),
    ("planned", "failed"),
    ("running", "failed"),
    ("running", "partly"),
    ("running", "done"),
    ("running", "cancelling"),
    ("cancelling", "failed"),
    ("cancelling", "partly"),
    ("cancelling", "done"),
    ("cancelling", "cancelled"),
}
ROUTES = {
    "planned": [],
    "running": ["running"],
    "cancelling": ["running", "cancelling"],
    "cancelled": ["cancelled"],
    "failed": ["failed"],
    "partly": ["running", "partly"],
    "done": ["running", "done"],
}


def make() -> SessionRecord:
    return SessionRecord("0" * 32, "pull", "shop", "server-a", "server-b")


def at(record: SessionRecord, now_s: float) -> Progress:
    return record.progress(now_s, f"t{now_s}")


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_every_change_of_state_is_either_allowed_or_refused(before: State, after: State) -> None:
    record = make()
    for name in ROUTES[before.value]:
        record.become(State(name))
    assert record.state is before
    allowed = (before.value, after.value) in ALLOWED
    assert may_follow(before, after) is allowed
    if allowed or before is after:
        record.become(after)
        assert record.state is after
    else:
        with pytest.raises(ValueError, match=f"{before} cannot become {after}"):
            record.become(after)
        assert record.state is before


@pytest.mark.parametrize("state", list(State))
def test_a_final_state_is_one_that_nothing_follows(state: State) -> None:
    assert state.final is not any(may_follow(state, other) for other in State)


def test_nothing_is_known_before_the_first_step() -> None:
    record = make()
    record.count(Step.BACKUP, 0, 30 * MIB)  # the plan's estimate
    record.become(State.RUNNING)
    assert at(record, 0.0).percent is None


def test_the_estimate_of_the_plan_is_a_total_until_the_dump_is_complete() -> None:
    record = make()
    record.count(Step.BACKUP, 0, 100)
    record.become(State.RUNNING)
    record.begin(Step.BACKUP, 0.0)
    record.begin(Step.TRANSFER, 0.0)
    record.begin(Step.CONVERT, 0.0)
    record.begin(Step.RESTORE, 0.0)
    assert at(record, 0.0).percent == 0.0
    record.count(Step.BACKUP, 80)
    record.count(Step.CONVERT, 50)
    record.count(Step.RESTORE, 50)
    progress = at(record, 1.0)
    assert progress.percent == pytest.approx(8 + 10 + 25)
    assert [s.total for s in progress.steps] == [100, None, 100, 100, None]
    record.count(Step.RESTORE, 50, 400)
    assert at(record, 1.0).steps[3].total == 400


def test_without_an_estimate_the_percentage_is_unknown_and_not_0() -> None:
    record = make()
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.TRANSFER, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
        record.count(step, 5 * MIB)
    assert at(record, 1.0).percent is None


def test_an_estimate_that_was_too_small_does_not_turn_the_percentage_back() -> None:
    record = make()
    record.count(Step.BACKUP, 0, 100)
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
    seen = []
    for done in range(0, 1001, 50):
        record.count(Step.BACKUP, done, done if done == 1000 else None)
        for step in (Step.CONVERT, Step.RESTORE):
            record.count(step, done // 2, 1000 if done == 1000 else None)
        seen.append(at(record, float(done)).percent or 0.0)
    assert seen == sorted(seen)
    assert seen[-1] < 100.0


def test_the_rate_counts_each_byte_once_although_two_steps_handle_it() -> None:
    record = make()
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
    for second in range(6):
        record.count(Step.CONVERT, second * MIB, 20 * MIB)
        record.count(Step.RESTORE, second * MIB, 20 * MIB)
        progress = at(record, float(second))
    assert progress.rate_bytes_s == pytest.approx(MIB)
    assert progress.eta_s == pytest.approx(15.0)


def test_an_ended_sync_has_no_rate_and_nothing_left() -> None:
    record = make()
    record.become(State.RUNNING)
    record.begin(Step.RESTORE, 0.0)
    record.count(Step.RESTORE, 1, 10)
    at(record, 0.0)
    record.count(Step.RESTORE, 2)
    assert at(record, 1.0).eta_s is not None
    record.become(State.FAILED)
    ended = at(record, 2.0)
    assert (ended.rate_bytes_s, ended.eta_s) == (None, None)
    assert ended.percent is not None
    assert ended.percent < 100


def test_silence_is_told_while_data_should_come_and_not_while_the_database_works() -> None:
    record = make()
    record.become(State.RUNNING)
    record.begin(Step.BACKUP, 0.0)
    record.begin(Step.TRANSFER, 0.0)
    at(record, 0.0)
    assert at(record, 12.0).waiting_for == "no data for 12 s"
    record.count(Step.BACKUP, 10)
    assert at(record, 13.0).waiting_for is None
    record.end(Step.TRANSFER, 14.0)
    assert at(record, 99.0).waiting_for is None


def test_a_count_never_goes_back_but_a_restart_begins_anew() -> None:
    record = make()
    record.become(State.RUNNING)
    record.begin(Step.BACKUP, 0.0)
    record.count(Step.BACKUP, 10, 20)
    record.count(Step.BACKUP, 5)
    before = at(record, 1.0)
    assert (before.steps[0].done, before.steps[0].total) == (10, 20)
    record.restart()
    after = at(record, 2.0)
    assert (after.steps[0].done, after.steps[0].state) == (0, StepState.WAITING)
    assert (after.percent, after.steps[0].seconds) == (None, 0.0)


def test_a_failure_marks_just_the_steps_that_ran_and_stops_their_clocks() -> None:
    record = make()
    record.begin(Step.BACKUP, 0.0)
    record.end(Step.BACKUP, 2.0)
    record.begin(Step.TRANSFER, 1.0)
    record.fail_running(5.0)
    states = [s.state for s in at(record, 50.0).steps]
    assert states == ["done", "failed", "waiting", "waiting", "waiting"]
    assert record.seconds(50.0)["transfer"] == 4.0


def test_only_a_done_session_is_100_percent_whatever_its_steps_say() -> None:
    record = make()
    record.become(State.RUNNING)
    record.begin(Step.RESTORE, 0.0)
    record.become(State.DONE)
    assert at(record, 1.0).percent == 100.0
