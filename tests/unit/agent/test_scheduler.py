"""What is due is started once: over days, changes of the clocks, crashes and long sleeps."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from peersync.agent.orchestration.entries import Asked, Entry, Outcome
from peersync.agent.orchestration.schedule_state import ScheduleFile
from peersync.agent.orchestration.scheduler import Scheduler
from peersync.core.errors import Locked, PeerUnreachable
from peersync.core.schedule import Budget, When

pytestmark = pytest.mark.may_block("the clock stands still while a file is written")

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86_400.0
FINE = Outcome(result="success")
Do = Callable[[Asked], Awaitable[Outcome]]


class World:
    """A clock that goes on only when everybody sleeps, so that days pass in milliseconds."""

    def __init__(self, now: datetime) -> None:
        self.at = now.timestamp()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._number = 0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    async def sleep(self, event: asyncio.Event, seconds: float) -> None:
        self._number += 1
        heapq.heappush(self._sleepers, (self.at + seconds, self._number, event))
        await event.wait()
        event.clear()

    async def pass_time(self, seconds: float) -> None:
        until = self.at + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self.at, _, event = heapq.heappop(self._sleepers)
            event.set()
            await self.settle()
        self.at = until

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)


async def at_once(work: Callable[..., Any], *args: Any) -> Any:
    return work(*args)


class Ran:
    """What was started, and when, in local time."""

    def __init__(self, world: World, *outcomes: Outcome | Exception, takes_s: float = 0) -> None:
        self.times: list[datetime] = []
        self.asked: list[Asked] = []
        self._world, self._takes_s = world, takes_s
        self._outcomes = list(outcomes)

    async def __call__(self, asked: Asked) -> Outcome:
        self.asked.append(asked)
        self.times.append(self._world.now().astimezone(BERLIN))
        if self._takes_s:
            await self._world.sleep(asyncio.Event(), self._takes_s)
        outcome = self._outcomes.pop(0) if self._outcomes else FINE
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def hours(self) -> list[str]:
        return [f"{t:%d %H:%M}" for t in self.times]


def scheduler(world: World, home: Path, do: Do, at: str, **options: Any) -> Scheduler:
    entry = Entry("nightly", "bulk sync", When.parse(at), do, **options)
    return Scheduler(
        [entry], ScheduleFile(home), BERLIN, budget=Budget(3, first_s=30), in_thread=at_once,
        now=world.now, sleep=world.sleep, chance=lambda: 0.5,
    )  # fmt: skip


async def run_for(world: World, seconds: float, *all_: Scheduler) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in all_]
        await world.pass_time(seconds)
        for task in tasks:
            task.cancel()


@pytest.fixture
def world() -> World:
    return World(datetime(2026, 3, 27, 12, tzinfo=BERLIN))


async def test_days_pass_and_each_night_has_one_run_also_when_the_clocks_change(
    world: World, tmp_path: Path
) -> None:
    for month, day, days in ((3, 27, ("28", "29", "30")), (10, 23, ("24", "25", "26"))):
        home = tmp_path / days[0]
        home.mkdir()
        world = World(datetime(2026, month, day, 12, tzinfo=BERLIN))
        ran = Ran(world)
        await run_for(world, 3 * DAY, scheduler(world, home, ran, "30 2 * * *"))
        assert [hour[:2] for hour in ran.hours] == list(days)


async def test_an_interval_keeps_its_pace(world: World, tmp_path: Path) -> None:
    ran = Ran(world, takes_s=100)
    await run_for(world, DAY / 4, scheduler(world, tmp_path, ran, "every 15m"))
    gaps = {(b - a) for a, b in pairwise(ran.times)}
    assert gaps == {timedelta(minutes=15)}
    assert len(ran.times) == 24


async def test_after_downtime_over_several_times_it_runs_once(world: World, tmp_path: Path) -> None:
    first, second = Ran(world), Ran(world)
    await run_for(world, 3600, scheduler(world, tmp_path, first, "0 * * * *"))
    await world.pass_time(7.5 * 3600)
    await run_for(world, 3600, scheduler(world, tmp_path, second, "0 * * * *"))
    assert first.hours == ["27 13:00"]
    assert second.hours == ["27 20:30", "27 21:00"]


async def test_where_it_is_not_made_up_for_the_missed_time_is_shown(
    world: World, tmp_path: Path
) -> None:
    ran = Ran(world)
    await run_for(world, 60, scheduler(world, tmp_path, ran, "0 * * * *", catch_up=False))
    await world.pass_time(5.5 * 3600)
    again = scheduler(world, tmp_path, ran, "0 * * * *", catch_up=False)
    await run_for(world, 600, again)
    assert ran.hours == []
    (view,) = await again.views()
    assert view.missed == "2026-03-27T12:00:00.000+00:00"
    assert view.next == "2026-03-27T17:00:00.000+00:00"


async def test_two_agents_with_one_state_start_nothing_twice(world: World, tmp_path: Path) -> None:
    ran = Ran(world, takes_s=200)
    both = [scheduler(world, tmp_path, ran, "0 * * * *") for _ in range(2)]
    await run_for(world, 6 * 3600, *both)
    assert ran.hours == [f"27 {hour}:00" for hour in range(13, 19)]


async def test_a_run_that_is_still_going_is_not_doubled(world: World, tmp_path: Path) -> None:
    ran = Ran(world, takes_s=5000)
    one = scheduler(world, tmp_path, ran, "0 * * * *")
    await run_for(world, 5 * 3600, one)
    assert ran.hours == ["27 13:00", "27 15:00", "27 17:00"]
    (view,) = await one.views()
    assert view.missed == "2026-03-27T15:00:00.000+00:00"


async def test_what_fails_is_tried_again_with_growing_pauses_and_recovers(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ran = Ran(world, PeerUnreachable("gone"), PeerUnreachable("gone", retry_after_s=600.0))
    one = scheduler(world, tmp_path, ran, "0 13 * * *")
    await run_for(world, 2 * 3600, one)
    begin = ran.times[0]
    assert [(t - begin).total_seconds() for t in ran.times] == [0, 22.5, 622.5]
    (view,) = await one.views()
    assert (view.result, view.errors, view.recovered_after) == ("success", 0, 2)
    assert "nightly recovered after 2 errors" in caplog.text


async def test_retries_end_before_the_next_time(world: World, tmp_path: Path) -> None:
    gone = [PeerUnreachable("gone", retry_after_s=500.0) for _ in range(9)]
    ran = Ran(world, *gone)
    one = scheduler(world, tmp_path, ran, "every 15m")
    await run_for(world, 1790, one)
    assert len(ran.times) == 2  # one retry after 500 s; the next would come after it is due again
    (view,) = await one.views()
    assert (view.result, view.errors, view.message) == ("error", 2, "gone")


async def test_a_bug_in_what_is_started_does_not_end_the_schedule(
    world: World, tmp_path: Path
) -> None:
    ran = Ran(world, ZeroDivisionError("a bug"))
    one = scheduler(world, tmp_path, ran, "0 * * * *")
    await run_for(world, 2.5 * 3600, one)
    assert len(ran.times) == 2
    (view,) = await one.views()
    assert view.recovered_after == 1


async def test_a_paused_schedule_rests_and_does_not_make_up_when_it_goes_on(
    world: World, tmp_path: Path
) -> None:
    ran = Ran(world)
    one = scheduler(world, tmp_path, ran, "0 * * * *")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.run())
        await world.pass_time(60)
        view = await one.pause("nightly", paused=True, by="ada")
        assert (view.paused_by, view.next) == ("ada", None)
        await world.pass_time(3.5 * 3600)
        assert ran.hours == []
        await one.start("nightly", by="ada")  # by hand it runs all the same
        with pytest.raises(Locked):
            await one.start("nightly", by="eve")
        await world.pass_time(60)
        assert len(ran.times) == 1
        await one.pause("nightly", paused=False, by="ada")
        await world.pass_time(3600)
        assert ran.hours[1:] == ["27 16:00"]
        task.cancel()


async def test_what_a_dead_agent_left_is_called_interrupted_and_is_not_begun_again(
    world: World, tmp_path: Path
) -> None:
    slow = Ran(world, takes_s=10 * 3600)
    await run_for(world, 2 * 3600, scheduler(world, tmp_path, slow, "0 13 * * *"))
    after = Ran(world)
    one = scheduler(world, tmp_path, after, "0 13 * * *")
    await run_for(world, 3600, one)
    (view,) = await one.views()
    assert (slow.hours, after.hours) == (["27 13:00"], [])
    assert view.result == "interrupted"


async def test_jitter_delays_the_beginning_and_not_the_pace(world: World, tmp_path: Path) -> None:
    ran = Ran(world)
    await run_for(world, 3 * 3600, scheduler(world, tmp_path, ran, "0 * * * *", jitter_s=600))
    assert ran.hours == ["27 13:05", "27 14:05"]


async def test_a_clock_that_was_a_year_ahead_stops_nothing_when_it_is_right_again(
    tmp_path: Path,
) -> None:
    for at in ("every 1h", "0 2 * * *"):
        home = tmp_path / at[:1]
        home.mkdir()
        wrong = World(datetime(2027, 3, 27, 12, tzinfo=BERLIN))
        await run_for(wrong, 120, scheduler(wrong, home, Ran(wrong), at))
        right = World(datetime(2026, 3, 27, 12, tzinfo=BERLIN))
        ran = Ran(right)
        await run_for(right, 2 * DAY, scheduler(right, home, ran, at))
        assert len(ran.times) == (48 if at == "every 1h" else 2)


async def test_a_clock_that_steps_back_during_a_run_makes_no_dead_run_of_it(
    world: World, tmp_path: Path
) -> None:
    async def do(_: Asked) -> Outcome:
        world.at -= 2
        return FINE

    one = scheduler(world, tmp_path, do, "every 1h")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.run())
        await world.pass_time(3600 + 200)
        (view,) = await one.views()
        task.cancel()
    assert (view.result, view.seconds) == ("success", 0.0)


async def test_another_hour_in_the_configuration_runs_nothing_at_once(
    world: World, tmp_path: Path
) -> None:
    ran = Ran(world)
    await run_for(world, DAY, scheduler(world, tmp_path, ran, "0 2 * * *"))
    await run_for(world, 3600, scheduler(world, tmp_path, ran, "0 5 * * *"))
    assert ran.hours == ["28 02:00"]
    await run_for(world, DAY, scheduler(world, tmp_path, ran, "0 5 * * *"))
    assert ran.hours == ["28 02:00", "29 05:00"]


async def test_a_pause_that_is_taken_out_of_the_configuration_runs_nothing_at_once(
    world: World, tmp_path: Path
) -> None:
    ran = Ran(world)
    await run_for(world, 3 * DAY, scheduler(world, tmp_path, ran, "0 2 * * *", paused=True))
    await run_for(world, 3600, scheduler(world, tmp_path, ran, "0 2 * * *"))
    assert ran.hours == []
    await run_for(world, DAY, scheduler(world, tmp_path, ran, "0 2 * * *"))
    assert ran.hours == ["31 02:00"]


async def test_a_damaged_file_is_moved_aside_and_said_and_schedules_go_on(
    world: World, tmp_path: Path
) -> None:
    ran, file = Ran(world), ScheduleFile(tmp_path)
    await run_for(world, 3600, scheduler(world, tmp_path, ran, "0 * * * *"))
    assert file.troubles() == ()
    (tmp_path / "schedules.json").write_text("{")
    await run_for(world, 3600, scheduler(world, tmp_path, ran, "0 * * * *"))
    assert ran.hours == ["27 13:00", "27 14:00"]
    (words,) = file.troubles()
    assert "schedules.json was damaged" in words
    assert (tmp_path / "schedules.json.damaged").read_text() == "{"


async def test_a_turn_says_since_when_a_run_counts_as_it_and_a_person_does_not(
    world: World, tmp_path: Path
) -> None:
    """So a second agent of the same database finds what the first has done."""
    ran = Ran(world)
    await run_for(world, 4500, scheduler(world, tmp_path, ran, "0 * * * *", jitter_s=600))
    (asked,) = ran.asked
    assert asked.since == datetime(2026, 3, 27, 13, tzinfo=BERLIN)
    often = When.parse("every 10m")
    assert often.opens(asked.since) == datetime(2026, 3, 27, 12, 55, tzinfo=BERLIN)
    one = scheduler(world, tmp_path, ran, "0 * * * *")
    await one.start("nightly", by="ada")
    await run_for(world, 60, one)
    assert ran.asked[1] == Asked("ada")


async def test_a_run_that_was_done_in_part_tries_what_may_pass_again(
    world: World, tmp_path: Path
) -> None:
    half = Outcome(result="partial", message="crm is down", retry=True, again=("crm",))
    ran = Ran(world, half, Outcome(result="partial"))
    await run_for(world, 2 * 3600, scheduler(world, tmp_path, ran, "0 13 * * *"))
    assert [asked.again for asked in ran.asked] == [(), ("crm",)]
