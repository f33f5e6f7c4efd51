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
    assert at(record, 0.0).percent is None
    record.count(Step.BACKUP, 80)
    record.count(Step.CONVERT, 50)
    record.count(Step.RESTORE, 50)
    progress = at(record, 1.0)
    assert progress.percent == pytest.approx(8 + 15 + 20)
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


def life_of(estimate: int, size: int, *, staged: bool) -> list[Progress]:
    """A sync of `size` bytes in steps of a hundredth, from the dump's begin to the commit."""
    record = make()
    record.count(Step.BACKUP, 0, estimate)
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.TRANSFER, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
    seen = []
    for tick in range(250):
        dumped, loaded = (
            min(tick, 100) * size // 100,
            min(max(tick - 20, 0) // 2, 100) * size // 100,
        )
        merged = max(tick - 200, 0) * 2 * size // 100 if staged else loaded
        exact = size if dumped == size else None
        record.count(Step.BACKUP, dumped, exact)
        record.count(Step.TRANSFER, dumped // 10, size // 10 if exact else None)
        record.count(Step.CONVERT, loaded, exact)
        record.count(Step.RESTORE, min(merged, size), exact)
        if exact:
            record.end(Step.BACKUP, float(tick))
            record.end(Step.TRANSFER, float(tick))
        seen.append(at(record, float(tick)))
    return seen


@pytest.mark.parametrize("staged", [True, False])
@pytest.mark.parametrize("estimate", [2_000, 5_000, 9_000, 10_000, 30_000])
def test_a_wrong_estimate_neither_turns_the_percentage_back_nor_holds_it(
    estimate: int, staged: bool
) -> None:
    life = life_of(estimate, 10_000, staged=staged)
    known = [p.percent for p in life if p.percent is not None]
    assert known == sorted(known)
    assert known[-1] <= 99.0
    work = [sum(s.done for s in p.steps) for p in life]
    held = longest = 0
    for before, after, was, now in zip(work, work[1:], life, life[1:], strict=False):
        held = held + 1 if after > before and now.percent == was.percent is not None else 0
        longest = max(longest, held)
    assert longest <= 3, "the work went on and the percentage did not"


def test_an_estimate_that_is_exceeded_is_unknown_until_the_dump_is_complete() -> None:
    life = life_of(5_000, 10_000, staged=True)
    dumping = [p for p in life if p.steps[0].state is StepState.RUNNING]
    assert [p.percent is None for p in dumping] == [
        not 0 < p.steps[0].done <= 5_000 for p in dumping
    ]
    for progress in dumping:
        if progress.steps[0].done > 5_000:
            assert [s.total for s in progress.steps] == [None] * 5
            assert progress.eta_s is None
    assert all(p.percent is not None for p in life[len(dumping) :])


def test_while_nothing_moves_nobody_promises_when_it_ends() -> None:
    record = make()
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.TRANSFER, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
    for second in range(6):
        record.count(Step.CONVERT, second * MIB, 20 * MIB)
        record.count(Step.RESTORE, 0, 20 * MIB)
        assert (at(record, float(second)).eta_s is None) is (second < 3)
    assert at(record, 5.5).eta_s is not None
    assert at(record, 6.0).eta_s is None
    record.count(Step.RESTORE, 20 * MIB)
    record.count(Step.CONVERT, 20 * MIB)
    assert at(record, 9.0).eta_s is None, "the rows are in, the indexes may not be"


def test_the_wait_before_the_first_byte_is_no_part_of_what_is_promised() -> None:
    record = make()
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.CONVERT, Step.RESTORE):
        record.begin(step, 0.0)
    for second in range(14):
        record.count(Step.CONVERT, max(0, second - 10) * MIB, 20 * MIB)
        record.count(Step.RESTORE, 0, 20 * MIB)
        progress = at(record, float(second))
        assert (progress.eta_s is None) is (second < 13)
    assert progress.eta_s == pytest.approx(37.0)


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
    record.begin(Step.CONVERT, 0.0)
    record.count(Step.CONVERT, 1, 10)
    record.count(Step.RESTORE, 1, 10)
    for second in range(4):
        record.count(Step.RESTORE, second + 1)
        last = at(record, float(second))
    assert last.eta_s is not None
    record.become(State.FAILED)
    ended = at(record, 4.0)
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
    assert at(record, 15.0).message is None
    silent = at(record, 99.0)
    assert silent.waiting_for is None
    assert silent.message is not None
    assert "for 86 s" in silent.message
    record.begin(Step.VERIFY, 99.0)
    record.count(Step.VERIFY, 1, 3)
    assert at(record, 100.0).message is None


def test_a_count_never_goes_back_but_a_restart_begins_anew() -> None:
    record = make()
    record.become(State.RUNNING)
    for step in (Step.BACKUP, Step.CONVERT):
        record.begin(step, 0.0)
    record.count(Step.BACKUP, 10, 20)
    record.count(Step.BACKUP, 5)
    record.count(Step.CONVERT, 10, 20)
    record.rows = 7
    before = at(record, 1.0)
    assert (before.steps[0].done, before.steps[0].total) == (10, 20)
    record.restart()
    record.count(Step.CONVERT, 10, 20)  # by the attempt that has just failed
    after = at(record, 2.0)
    assert [s.done for s in after.steps] == [0] * 5
    assert {s.state for s in after.steps} == {StepState.WAITING}
    assert (after.percent, after.steps[0].seconds, after.rows) == (None, 0.0, 0)


def test_a_failure_marks_just_the_steps_that_ran_and_stops_their_clocks() -> None:
    record = make()
    record.begin(Step.BACKUP, 0.0)
    record.end(Step.BACKUP, 2.0)
    record.begin(Step.TRANSFER, 1.0)
    record.fail_running(5.0)
    states = [s.state for s in at(record, 50.0).steps]
    assert states == ["done", "failed", "waiting", "waiting", "waiting"]
    assert record.seconds(50.0)["transfer"] == 4.0


@pytest.mark.parametrize(
    ("end", "percent"),
    [(State.DONE, 100.0), (State.PARTLY, 100.0), (State.FAILED, 99.0), (State.CANCELLING, 99.0)],
)
def test_100_percent_means_committed_whatever_the_steps_say(end: State, percent: float) -> None:
    record = make()
    record.become(State.RUNNING)
    for step in Step:
        record.begin(step, 0.0)
        record.count(step, 10, 10)
        record.end(step, 1.0)
    assert at(record, 1.0).percent == 99.0
    record.become(end)
    assert at(record, 2.0).percent == percent


def test_elapsed_time_counts_from_the_beginning_and_ends_with_the_session() -> None:
    record = make()
    record.started_at = "2026-11-22T02:00:00+00:00"
    record.become(State.RUNNING)
    record.begin(Step.BACKUP, 0.0)
    record.restart()
    record.resumed = 1
    running = record.progress(5.0, "2026-11-22T03:00:00+00:00")
    assert (running.elapsed_s, running.resumed) == (3600.0, 1)
    record.become(State.FAILED)
    for later in ("2026-11-22T03:00:01+00:00", "2026-11-23T03:00:00+00:00"):
        ended = record.progress(6.0, later)
        assert (ended.elapsed_s, ended.updated_at) == (3601.0, "2026-11-22T03:00:01+00:00")
