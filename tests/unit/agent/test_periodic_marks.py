"""A database that is older than what it has sent is told so by a file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from peersync.agent.periodic.marks import Marks
from peersync.agent.workers import Workers
from peersync.core.errors import ConfigError
from peersync.postgres.log.members import Replica

REPLICA = Replica("g", 7, "node", "active", None, 10, 0)


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(pumps=1)
    yield made
    made.close()


async def test_a_database_behind_its_mark_may_not_go_on(tmp_path: Path, workers: Workers) -> None:
    marks = Marks(tmp_path, workers)
    assert await marks.objection("shop", REPLICA, "node") is None
    await marks.note("shop", 7, 10)
    await marks.note("shop", 7, 9)  # an older frame that was slow
    for fresh in (marks, Marks(tmp_path, workers)):
        assert await fresh.objection("shop", REPLICA, "node") is None
        said = await fresh.objection("shop", replace(REPLICA, position=9), "node")
        assert said is not None
        assert "position 9, they may have 10" in said


async def test_what_is_sent_while_a_database_is_read_holds_nobody(
    tmp_path: Path, workers: Workers
) -> None:
    marks = Marks(tmp_path, workers)
    nothing = await marks.current("shop")
    await marks.note("shop", 7, 10)
    before = await marks.current("shop")
    await marks.note("shop", 7, 11)  # REPLICA was read before this one left
    assert await marks.objection("shop", REPLICA, "node", "", nothing) is None
    assert await marks.objection("shop", REPLICA, "node", "", before) is None
    assert await marks.objection("shop", replace(REPLICA, position=9), "node", "", before)
    assert await marks.objection("shop", REPLICA, "node")


async def test_a_copy_of_another_nodes_database_is_seen(tmp_path: Path, workers: Workers) -> None:
    said = await Marks(tmp_path, workers).objection("shop", REPLICA, "another")
    assert said is not None
    assert "another node" in said


async def test_an_origin_that_was_given_up_does_not_come_back(
    tmp_path: Path, workers: Workers
) -> None:
    marks = Marks(tmp_path, workers)
    await marks.note("shop", 7, 10)
    await marks.note("shop", 8, 1)
    assert await marks.objection("shop", replace(REPLICA, origin=8, position=1), "node") is None
    said = await marks.objection("shop", replace(REPLICA, position=99), "node")
    assert said is not None
    assert "given up for 8" in said


async def test_a_damaged_mark_is_no_leave_to_go_on(tmp_path: Path, workers: Workers) -> None:
    await Marks(tmp_path, workers).note("shop", 7, 10)
    path = tmp_path / "positions" / "shop.json"
    path.write_text("{")
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        await Marks(tmp_path, workers).objection("shop", REPLICA, "node")


async def test_a_database_that_a_dump_brought_is_not_the_one_that_was_noted(
    tmp_path: Path, workers: Workers
) -> None:
    marks = Marks(tmp_path, workers)
    await marks.note("shop", 7, 10)
    assert await marks.objection("shop", REPLICA, "node", "16384/16390") is None  # an older file
    await marks.note("shop", 7, 10, "16384/16390")
    await marks.note("shop", 7, 11)
    for fresh in (marks, Marks(tmp_path, workers)):
        replica = replace(REPLICA, position=11)
        assert await fresh.objection("shop", replica, "node", "16384/16390") is None
        said = await fresh.objection("shop", replica, "node", "16999/17001")
        assert said is not None
        assert "dump" in said
    await marks.note("shop", 8, 1, "16999/17001")
    again = replace(REPLICA, origin=8, position=1)
    assert await marks.objection("shop", again, "node", "16999/17001") is None
