"""One at a time copies into a database, in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from peersync.agent.orchestration.line import MIDDLE, Line, Patience, Rank
from peersync.core.errors import Locked


async def test_what_is_due_together_runs_by_priority_and_name_one_at_a_time() -> None:
    line, done, at_work = Line(), list[str](), 0

    async def work(name: str, rank: Rank) -> None:
        nonlocal at_work
        async with line.turn("shop", name, Patience(2, name), rank=rank, together=True):
            at_work += 1
            assert at_work == 1
            await asyncio.sleep(0.01)
            at_work -= 1
            done.append(name)

    async with asyncio.TaskGroup() as group:
        for name, rank in (("c", (True, 9, "c")), ("b", (True, 9, "b")), ("a", (True, 1, "a"))):
            group.create_task(work(name, rank))
    assert done == ["a", "b", "c"]


async def test_databases_do_not_wait_for_each_other() -> None:
    line = Line()
    async with (
        line.turn("shop", "one", Patience(1, "one")),
        line.turn("crm", "two", Patience(1, "two")),
    ):
        pass


async def test_who_has_waited_for_too_long_is_told_for_whom_and_is_in_nobodys_way() -> None:
    line, said = Line(), list[str]()

    async def hear(words: str) -> None:
        said.append(words)

    async with line.turn("shop", "the first", Patience(1, "the first")):
        with pytest.raises(Locked, match="shop is busy: the first is running"):
            async with line.turn("shop", "late", Patience(0.05, "late", hear)):
                pytest.fail("the first has it")
    assert [words[:37] for words in said] == ["it waits: shop is busy: the first is r"[:37]]
    async with line.turn("shop", "third", Patience(0.05, "third"), rank=MIDDLE):
        pass


async def test_somebody_else_is_waited_for_until_the_time_is_over() -> None:
    patience, busy = Patience(0.2, "it"), Locked("shop is busy: a pull")
    await patience.wait(busy)
    with pytest.raises(Locked, match="a pull"):
        await patience.wait(busy)
