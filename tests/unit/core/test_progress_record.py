"""The numbers of a full sync: unknown is unknown, nothing runs backwards, 100 % is the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.progress import (
    STEPS,
    RateMeter,
    Step,
    StepProgress,
    StepState,
    current_step,
    eta_seconds,
    overall_percent,
    seconds_between,
)

ENDED = (StepState.DONE, StepState.SKIPPED)


def steps(*states: StepState, total: int | None = None, done: int = 0) -> tuple[StepProgress, ...]:
    padded = [*states, *[StepState.WAITING] * (len(STEPS) - len(states))]
    return tuple(
        StepProgress(name=name, unit="bytes", state=state, total=total, done=done)
        for name, state in zip(STEPS, padded, strict=True)
    )


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[StepProgress, ...]]:
    """What a sync may look like over time: steps begin, learn totals, count, and end."""
    now = {s: StepProgress(name=s, unit="bytes") for s in STEPS}
    life = [tuple(now.values())]
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=60)):
        was = now[step]
        if was.state in ENDED:
            continue
        state, total, done = was.state, was.total, was.done
        if state is StepState.WAITING:
            state = StepState.RUNNING
        elif total is None and draw(st.booleans()):
            total = draw(st.integers(1, 1000)) + done
        elif draw(st.integers(0, 4)) == 0:
            state = draw(st.sampled_from(ENDED))
        else:
            done = draw(st.integers(done, (total or done + 100)))
        now[step] = StepProgress(name=step, unit="bytes", state=state, total=total, done=done)
        life.append(tuple(now.values()))
    return life


@given(lives())
def test_the_percentage_never_runs_backwards(life: list[tuple[StepProgress, ...]]) -> None:
    known = [p for p in map(overall_percent, life) if p is not None]
    assert known == sorted(known)


@given(lives())
def test_steps_alone_are_never_100_percent_not_even_rounded(
    life: list[tuple[StepProgress, ...]],
) -> None:
    for moment in life:
        percent = overall_percent(moment)
        assert percent is None or 0.0 <= percent <= 99.0
        if all(s.state in ENDED for s in moment):
            assert percent == 99.0


@given(lives())
def test_the_percentage_is_unknown_just_while_no_running_step_knows_its_total(
    life: list[tuple[StepProgress, ...]],
) -> None:
    for moment in life:
        running = [s for s in moment if s.state is StepState.RUNNING]
        counted = any(s.done or s.state in ENDED for s in moment)
        blind = bool(running) and not any(s.total for s in running)
        assert (overall_percent(moment) is None) is (not counted or blind)


def test_before_anything_is_counted_the_percentage_is_unknown_and_not_0() -> None:
    assert overall_percent(steps()) is None
    assert overall_percent(steps(StepState.RUNNING)) is None
    assert overall_percent(steps(StepState.RUNNING, total=100)) is None
    assert overall_percent(steps(StepState.RUNNING, total=100, done=1)) == pytest.approx(0.1)


def test_what_failed_before_anything_was_known_is_not_0_percent() -> None:
    assert overall_percent(steps(StepState.FAILED)) is None
    assert overall_percent(steps(StepState.FAILED, done=5)) is None
    assert overall_percent(steps(StepState.FAILED, done=5, total=10)) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("state", "done", "total", "fraction"),
    [
        (StepState.WAITING, 0, None, 0.0),
        (StepState.RUNNING, 5, None, None),
        (StepState.RUNNING, 0, 0, None),
        (StepState.RUNNING, 5, 10, 0.5),
        (StepState.RUNNING, 10, 10, 0.999),
        (StepState.RUNNING, 25, 10, 0.999),
        (StepState.FAILED, 5, 10, 0.5),
        (StepState.DONE, 0, None, 1.0),
        (StepState.SKIPPED, 0, None, 1.0),
    ],
)
def test_a_step_is_whole_only_when_it_has_ended(
    state: StepState, done: int, total: int | None, fraction: float | None
) -> None:
    step = StepProgress(name=Step.RESTORE, unit="bytes", state=state, done=done, total=total)
    assert step.fraction == fraction


def test_the_current_step_is_the_first_that_has_not_ended() -> None:
    assert current_step(steps()) is Step.BACKUP
    assert current_step(steps(StepState.DONE, StepState.SKIPPED, StepState.RUNNING)) is Step.CONVERT
    assert current_step(steps(*[StepState.DONE] * 5)) is Step.VERIFY


# --- rate and what is left ------------------------------------------------------------------
def test_the_rate_is_of_the_last_20_seconds() -> None:
    meter = RateMeter()
    assert meter.per_second() is None
    meter.sample(0.0, 0)
    assert meter.per_second() is None
    for second in range(1, 101):
        meter.sample(float(second), second * (10 if second <= 50 else 1000))
    assert meter.per_second() == pytest.approx(1000.0)


@given(st.lists(st.tuples(st.floats(0.001, 10.0), st.integers(0, 10**9)), min_size=1, max_size=200))
def test_the_rate_is_within_the_slowest_and_the_fastest_moment(
    moves: list[tuple[float, int]],
) -> None:
    meter = RateMeter()
    now, value, speeds = 0.0, 0, []
    meter.sample(now, value)
    for seconds, more in moves:
        before, now, value = now, now + seconds, value + more
        meter.sample(now, value)
        speeds.append(more / (now - before))
    rate = meter.per_second()
    assert rate is not None
    assert min(speeds) * 0.999 <= rate <= max(speeds) * 1.001


def test_two_samples_in_one_moment_give_no_rate() -> None:
    meter = RateMeter()
    meter.sample(5.0, 1)
    meter.sample(5.0, 2)
    assert meter.per_second() is None


def test_a_counter_that_stands_still_is_worth_a_word_after_10_seconds() -> None:
    meter = RateMeter()
    assert meter.stalled_for(100.0) is None
    meter.sample(0.0, 7)
    for second in range(1, 15):
        meter.sample(float(second), 7)
    assert meter.stalled_for(9.9) is None
    assert meter.stalled_for(14.0) == pytest.approx(14.0)
    meter.sample(15.0, 8)
    assert meter.stalled_for(15.0) is None


@pytest.mark.parametrize(
    ("done", "total", "rate", "eta"),
    [
        (0, None, 5.0, None),
        (0, 100, None, None),
        (0, 100, 0.0, None),
        (50, 100, 10.0, 5.0),
        (99, 100, 3.0, 0.3),
        (100, 100, 10.0, None),  # work without a number is left
        (150, 100, 10.0, None),
        (0, 10**12, 1.0, None),
    ],
)
def test_what_is_left_is_told_only_where_it_is_known(
    done: int, total: int | None, rate: float | None, eta: float | None
) -> None:
    assert eta_seconds(done, total, rate) == eta


@pytest.mark.parametrize(
    ("started_at", "at", "seconds"),
    [
        ("2026-11-22T02:00:00+00:00", "2026-11-22T03:00:01.5+00:00", 3601.5),
        ("2026-11-22T02:00:00+00:00", "2026-11-22T03:00:00+01:00", 0.0),
        ("2026-11-22T02:00:00+00:00", "2026-11-22T01:59:59+00:00", None),
        ("", "2026-11-22T03:00:00+00:00", None),
        ("2026-11-22T02:00:00", "2026-11-22T03:00:00+00:00", None),
        ("yesterday", "today", None),
    ],
)
def test_the_time_between_two_moments_is_unknown_rather_than_wrong(
    started_at: str, at: str, seconds: float | None
) -> None:
    assert seconds_between(started_at, at) == seconds
