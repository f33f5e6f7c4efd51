"""A person's decision on a conflict holds for the row, on all nodes, and is not lost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from peersync.core.errors import PeersyncError, RowsLocked
from peersync.postgres.log import decided
from peersync.postgres.log.conflicts import Choice, Settled, get_conflict, resolve
from tests.integration.apply_rig import Node, drain
from tests.integration.operators_rig import connect
from tests.integration.strategy_rig import group
from tests.plugins.clusters import MakeDatabase

TABLE = "CREATE TABLE public.item (id int PRIMARY KEY, name text)"
PARTITIONED = """
CREATE TABLE public.item (id int PRIMARY KEY, name text) PARTITION BY HASH (id);
CREATE TABLE public.item_0 PARTITION OF public.item FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.item_1 PARTITION OF public.item FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""


async def manual(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int, sql: str = TABLE
) -> list[Node]:
    """With one row that all have."""
    nodes = await group(stack, make_database, size, "manual", sql)
    await nodes[0].execute("INSERT INTO item VALUES (1, 'first')")
    await drain(*nodes)
    return nodes


async def clash(nodes: list[Node], *statements: str) -> None:
    for node, statement in zip(nodes, statements, strict=True):
        await node.execute(statement)
        await asyncio.sleep(0.01)  # the last one is the newest
    await drain(*nodes)


def named(name: str) -> str:
    return f"UPDATE item SET name = '{name}' WHERE id = 1"


async def open_of(node: Node) -> list[int]:
    return [
        number
        for (number,) in await node.rows(
            "SELECT id FROM peersync.conflict WHERE state = 'open' ORDER BY id"
        )
    ]


async def decide(
    node: Node, number: int, choice: Choice, name: str | None = None, *, force: bool = False
) -> Settled:
    """On a connection of its own, as the agent does it."""
    conn = await connect(node.test)
    values = {} if name is None else {"name": name}
    try:
        return await resolve(conn, number, choice=choice, values=values, force=force, by="ann")
    finally:
        await conn.close()


async def view(node: Node, number: int) -> Any:
    conn = await connect(node.test)
    try:
        return await get_conflict(conn, number)
    finally:
        await conn.close()


async def same_rows(nodes: list[Node]) -> list[tuple[Any, ...]]:
    rows = [await node.rows("SELECT * FROM item ORDER BY id") for node in nodes]
    assert rows == rows[:1] * len(nodes)
    return rows[0]


async def test_all_of_the_row_is_settled_on_all_nodes(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await manual(stack, make_database, 3)
    await clash(nodes, *map(named, "abc"))
    assert all([await open_of(node) for node in nodes])
    first, *more = await open_of(nodes[0])
    assert more
    await decide(nodes[0], first, "set", "agreed", force=True)
    together = await view(nodes[0], more[0])
    assert together.settled_by == "ann"
    assert together.settled_how == f"settled together with conflict {first}: set name"
    await drain(*nodes)
    assert await same_rows(nodes) == [(1, "agreed")]
    assert [await open_of(node) for node in nodes] == [[], [], []]


async def test_what_a_rebaseline_left_is_not_settled_by_deciding_the_row(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    """A change that this node alone has: it is without a position."""
    nodes = await manual(stack, make_database, 3)
    await clash(nodes, *map(named, "abc"))
    kept_back = (await open_of(nodes[0]))[-1]
    await nodes[0].execute(
        "UPDATE peersync.conflict SET strategy = 'rebaseline', in_position = 0 WHERE id = $1",
        kept_back,
    )
    await decide(nodes[1], (await open_of(nodes[1]))[0], "set", "agreed", force=True)
    await drain(*nodes)
    assert [await open_of(node) for node in nodes] == [[kept_back], [], []]


async def test_what_the_person_did_not_know_stays_open_everywhere(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await manual(stack, make_database, 3)
    a, b, c = nodes
    await clash([a, b], named("a"), named("b"))
    (number,) = await open_of(a)
    await c.execute("UPDATE item SET name = 'c' WHERE id = 1")
    await drain(b, c)
    unknown = (await open_of(b))[-1], (await open_of(c))[-1]
    await decide(a, number, "set", "agreed")
    await drain(*nodes)
    await same_rows(nodes)
    assert await open_of(a)
    assert unknown[0] in await open_of(b)
    assert unknown[1] in await open_of(c)
    assert (await view(a, number)).state == "resolved"


@pytest.mark.parametrize("table", [TABLE, PARTITIONED])
async def test_two_who_decide_otherwise_at_once_are_told(
    stack: AsyncExitStack, make_database: MakeDatabase, table: str
) -> None:
    """Each keeps the row of its own node: one of them has it already."""
    nodes = await manual(stack, make_database, 2, table)
    await clash(nodes, named("a"), named("b"))
    (of_a,), (of_b,) = [await open_of(node) for node in nodes]
    assert (await decide(nodes[1], of_b, "keep")).written is False
    assert (await decide(nodes[0], of_a, "keep")).written is True
    await drain(*nodes)
    await same_rows(nodes)
    assert [len(await open_of(node)) for node in nodes] == [1, 1]
    shown = await view(nodes[1], (await open_of(nodes[1]))[0])
    assert {shown.kept.row["name"], shown.incoming.row["name"]} == {"a", "b"}


async def test_two_who_decide_the_same_at_once_are_in_no_conflict(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await manual(stack, make_database, 2)
    await clash(nodes, named("a"), named("b"))
    (of_a,), (of_b,) = [await open_of(node) for node in nodes]
    await decide(nodes[0], of_a, "keep")
    await decide(nodes[1], of_b, "take")
    await drain(*nodes)
    assert await same_rows(nodes) == [(1, "a")]
    assert [await open_of(node) for node in nodes] == [[], []]


@pytest.mark.parametrize("gone_last", [True, False])
async def test_who_leaves_a_row_deleted_is_told_when_another_wants_it_back(
    stack: AsyncExitStack, make_database: MakeDatabase, gone_last: bool
) -> None:
    nodes = await manual(stack, make_database, 2)
    await clash(nodes, named("a"), "DELETE FROM item")
    assert await same_rows(nodes) == []
    (of_a,), (of_b,) = [await open_of(node) for node in nodes]
    if gone_last:
        assert (await decide(nodes[0], of_a, "keep")).written is True
        await asyncio.sleep(0.01)
    gone = await decide(nodes[1], of_b, "keep")
    assert (gone.written, gone.before, gone.after) == (False, None, None)
    if not gone_last:
        await asyncio.sleep(0.01)
        assert (await decide(nodes[0], of_a, "keep")).written is True
    await drain(*nodes)
    assert await same_rows(nodes) == ([] if gone_last else [(1, "a")])
    assert [len(await open_of(node)) for node in nodes] == [1, 1]


async def test_a_row_that_stays_deleted_can_be_inserted_again(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await manual(stack, make_database, 2)
    await clash(nodes, named("a"), "DELETE FROM item")
    (of_a,) = await open_of(nodes[0])
    await decide(nodes[0], of_a, "take")
    await drain(*nodes)
    assert [await open_of(node) for node in nodes] == [[], []]
    await nodes[1].execute("INSERT INTO item VALUES (1, 'again')")
    await drain(*nodes)
    assert await same_rows(nodes) == [(1, "again")]
    assert [await open_of(node) for node in nodes] == [[], []]


@pytest.mark.parametrize("commits", [True, False])
async def test_a_row_that_is_being_inserted_is_waited_for(
    stack: AsyncExitStack, make_database: MakeDatabase, commits: bool
) -> None:
    """Else its change is placed before the decision that it is gone, and the nodes differ."""
    nodes = await manual(stack, make_database, 2)
    await clash(nodes, named("a"), "DELETE FROM item")
    (of_b,) = await open_of(nodes[1])
    writer = nodes[1].conn.transaction()
    await writer.start()
    await nodes[1].execute("INSERT INTO item VALUES (1, 'again')")
    async with asyncio.TaskGroup() as tasks:
        deciding = tasks.create_task(_outcome(nodes[1], of_b))
        await asyncio.sleep(0.3)
        assert not deciding.done()
        await (writer.commit() if commits else writer.rollback())
    assert deciding.result() == ("RowMoved" if commits else "Settled")
    await drain(*nodes)
    assert await same_rows(nodes) == ([(1, "again")] if commits else [])
    assert len(await open_of(nodes[1])) == (1 if commits else 0)


async def test_a_writer_that_does_not_end_is_named_and_nothing_is_decided(
    stack: AsyncExitStack, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decided, "_WRITERS_END_S", 0.2)
    nodes = await manual(stack, make_database, 2)
    await clash(nodes, named("a"), "DELETE FROM item")
    (of_b,) = await open_of(nodes[1])
    async with nodes[1].conn.transaction():
        await nodes[1].execute("INSERT INTO item VALUES (7, 'other')")
        with pytest.raises(RowsLocked, match=r"writes public\.item"):
            await decide(nodes[1], of_b, "keep")
    assert await open_of(nodes[1]) == [of_b]
    await decide(nodes[1], of_b, "keep")
    assert await open_of(nodes[1]) == []


async def test_two_who_decide_two_conflicts_of_one_row_do_not_wait_for_each_other(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await manual(stack, make_database, 3)
    await clash(nodes, *map(named, "abc"))
    numbers = await open_of(nodes[0])
    assert len(numbers) == 2
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(_outcome(nodes[0], n, force=True)) for n in numbers]
    assert sorted(task.result() for task in both) == ["BadRequest", "Settled"]


async def _outcome(node: Node, number: int, *, force: bool = False) -> str:
    try:
        return type(await decide(node, number, "keep", force=force)).__name__
    except PeersyncError as error:
        return type(error).__name__
