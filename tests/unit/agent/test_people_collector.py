"""The stream of the page: one collector for all, at rest without readers, held up by none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from peersync.agent.people.board import Board
from peersync.agent.people.collector import Collector
from peersync.agent.people.lookout import Lookout
from peersync.agent.people.overview import Facts, Waiting
from peersync.agent.periodic.news import News
from peersync.agent.status_sentence import RANK
from peersync.agent.status_view import LinkStatus
from peersync.core.progress import Progress
from peersync.transport.sse import Event


class Known:
    """Stands for the lookout: what is known, and how often somebody wanted to know."""

    def __init__(self) -> None:
        self.news, self.asked, self.state = News(), 0, "in sync"

    async def refresh(self, *, max_age_s: float, wait_s: float) -> None:
        self.asked += 1

    def begin(self) -> None:
        self.asked += 1

    def tell(self, state: str) -> None:
        self.state = state
        self.news.tell()

    def facts(self) -> Facts:
        link = LinkStatus(database="shop", peer="server-b", state=self.state)
        return Facts(
            node="server-a",
            version="1",
            sentence=self.state,
            fine=True,
            at=str(self.asked),
            links={"server-b": [link]},
            rank=RANK,
            waiting=Waiting(),
            running=[],
            giving=[],
            history=lambda _name: [],
            next_at=lambda _name: None,
        )


class Rig:
    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.known, self.running, self.board = Known(), list[Progress](), Board("e")
        self.on_end: list[Callable[[Any], None]] = []
        views = SimpleNamespace(running=lambda: [*self.running])
        self.tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
            self.tasks.append(group.create_task(work, name=name))
            return self.tasks[-1]

        self.collector = Collector(
            cast(Lookout, self.known),
            cast(Any, SimpleNamespace(views=views, on_end=self.on_end)),
            cast(Any, SimpleNamespace(running=list)),
            self.board,
            spawn,
        )

    def open_page(self, after: str | None = None) -> AsyncIterator[Event]:
        self.collector.listen()
        return self.board.read(after, alive=lambda: True, tick_s=60)


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        made = Rig(group)
        yield made
        made.board.close()
        for task in made.tasks:
            task.cancel()


async def following(page: AsyncIterator[Event], event: str) -> Any:
    async for found in page:
        if found.event == event:
            return msgspec.json.decode(found.data)
    raise EOFError


def a_job(session: str, percent: float) -> Progress:
    return Progress(session=session, action="pull", database="shop", source="b", target="a",
                    state="running", percent=percent)  # fmt: skip


async def test_nothing_is_looked_at_while_no_page_is_open() -> None:
    async with rig() as made:
        await asyncio.sleep(0.3)
        assert made.known.asked == 0
        page = made.open_page()
        assert (await following(page, "overview"))["sentence"] == "in sync"
        await page.aclose()  # type: ignore[attr-defined]
        while made.collector.works:
            await asyncio.sleep(0.02)
        asked = made.known.asked
        await asyncio.sleep(0.4)
        assert made.known.asked == asked
        again = made.open_page()
        assert (await following(again, "overview"))["generated_at"] == str(asked + 2)


async def test_many_pages_have_one_collector_and_a_sleepy_one_holds_up_nobody() -> None:
    async with rig() as made:
        quick, other, sleepy = (made.open_page() for _ in range(3))
        for page in (quick, other, sleepy):
            await following(page, "overview")
        for state in ("paused", "failed", "behind"):
            made.known.tell(state)
            told = [(await following(page, "overview"))["sentence"] for page in (quick, other)]
            assert told == [state] * 2
        assert (await following(sleepy, "overview"))["sentence"] == "behind"  # the newest alone
        assert len(made.tasks) == 1


async def test_what_has_not_changed_is_not_told_again() -> None:
    async with rig() as made:
        page = made.open_page()
        await following(page, "overview")
        made.known.news.tell()  # looked again, and found the same
        await asyncio.sleep(0.3)
        made.known.tell("behind")
        assert (await following(page, "overview"))["sentence"] == "behind"


async def test_jobs_are_told_while_they_run_and_once_when_they_are_over() -> None:
    async with rig() as made:
        page = made.open_page()
        await following(page, "overview")
        made.running = [a_job("1", 10.0)]
        assert (await following(page, "jobs"))["running"][0]["percent"] == 10
        made.running = [a_job("1", 20.0)]
        assert (await following(page, "jobs"))["running"][0]["percent"] == 20
        made.running = []
        assert await following(page, "jobs") == {"running": [], "giving": []}
        for callback in made.on_end:
            callback({"id": "1", "state": "done"})
        assert (await following(page, "ended"))["state"] == "done"


async def test_who_comes_back_is_told_what_ended_meanwhile_and_a_new_page_is_not() -> None:
    board = Board("e")
    board.show("overview", 1)
    page = board.read(None, alive=lambda: True, tick_s=60)
    last = (await anext(page)).id
    board.ended({"id": "a"})
    board.ended({"id": "b"})
    board.show("overview", 2)

    async def told(after: str | None) -> list[tuple[str, str]]:
        reader = board.read(after, alive=lambda: False, tick_s=0.01)
        return [(event.event, event.data) async for event in reader]

    assert await told(last) == [("ended", '{"id":"a"}'), ("ended", '{"id":"b"}'), ("overview", "2")]
    assert await told(None) == [("overview", "2")]
    assert await told("other-3") == [("overview", "2")]
    board.close()
    assert [event.data async for event in page] == []
    assert board.readers == 0
