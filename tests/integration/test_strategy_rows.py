"""Each strategy gives every node the same row, whatever arrives first."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import permutations

import pytest

from tests.integration.apply_rig import Node, drain
from tests.integration.strategy_rig import group
from tests.plugins.clusters import MakeDatabase

STOCK = """
CREATE TABLE public.stock (
    id int PRIMARY KEY, name text, n int NOT NULL, price numeric(10,2) NOT NULL DEFAULT 1)"""
ROWS = "SELECT id, name, n, price::text FROM stock ORDER BY id"
FUNCTION = """
CREATE FUNCTION public.longest(candidates jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT c -> 'row' FROM jsonb_array_elements(candidates) WITH ORDINALITY AS u (c, place)
     ORDER BY length(c -> 'row' ->> 'name') DESC NULLS LAST, place DESC LIMIT 1 $$;
CREATE FUNCTION public.failing(candidates jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN RETURN to_jsonb(1 / (jsonb_array_length(candidates) - 2)); END $$"""


async def equal_rows(nodes: list[Node]) -> list[tuple[object, ...]]:
    await drain(*nodes)
    rows = await nodes[0].rows(ROWS)
    for node in nodes[1:]:
        assert await node.rows(ROWS) == rows
    return rows


async def told(node: Node) -> list[tuple[object, ...]]:
    return await node.rows(
        "SELECT kind, winner, strategy, state FROM peersync.conflict ORDER BY id"
    )


@pytest.mark.parametrize("size", [2, 3])
async def test_what_both_have_sold_is_taken_off_the_stock(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int
) -> None:
    nodes = await group(stack, make_database, size, "delta:n,price", STOCK)
    a, b = nodes[0], nodes[-1]
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 100)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = n - 30, price = price + 0.10 WHERE id = 1")
    await b.execute("UPDATE stock SET n = n - 4 WHERE id = 1")
    await b.execute("UPDATE stock SET n = n - 1, name = 'Pen', price = price + 0.05 WHERE id = 1")
    assert await equal_rows(nodes) == [(1, "Pen", 65, "1.15")]
    assert set(await told(a)) == {("update_origin_differs", "merged", "delta:n,price", "resolved")}
    await b.execute("UPDATE stock SET n = n + 1")
    await a.execute("UPDATE stock SET n = n + 2")
    assert (await equal_rows(nodes))[0][2] == 68


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_deltas_of_three_nodes_add_up_in_every_order_of_delivery(
    stack: AsyncExitStack, make_database: MakeDatabase, order: tuple[int, ...]
) -> None:
    nodes = await group(stack, make_database, 3, "delta:n", STOCK)
    await nodes[0].execute("INSERT INTO stock VALUES (1, 'pen', 1000), (2, 'cup', 0)")
    await equal_rows(nodes)
    for n, node in enumerate(nodes):
        for _ in range(2):
            await node.execute("UPDATE stock SET n = n + $1", 10**n)
    for n in order:
        for m in order:
            if n != m:
                await nodes[n].pull(nodes[m], max_changes=1)
        await nodes[n].execute("UPDATE stock SET n = n - 1 WHERE id = 2")
    assert await equal_rows(nodes) == [(1, "pen", 1222, "1.00"), (2, "cup", 219, "1.00")]


async def test_different_columns_of_a_row_are_both_kept(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 2, "merge_columns", STOCK)
    a, b = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 1), (2, 'cup', 1), (3, 'hat', 1)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = 5 WHERE id = 1")
    await b.execute("UPDATE stock SET name = 'a \"pen\", (new)' WHERE id = 1")
    await a.execute("UPDATE stock SET n = 7 WHERE id = 2")
    await b.execute("DELETE FROM stock WHERE id = 2")
    await b.execute("UPDATE stock SET name = NULL, n = 9 WHERE id = 3")
    await a.execute("UPDATE stock SET n = 8 WHERE id = 3")
    assert await equal_rows(nodes) == [(1, 'a "pen", (new)', 5, "1.00"), (3, None, 8, "1.00")]
    assert [t[:2] for t in await told(a)] == [
        ("update_origin_differs", "merged"),
        ("delete_origin_differs", "incoming"),
        ("update_origin_differs", "merged"),
    ]


async def test_the_favoured_node_wins_though_it_is_older(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 3, "origin_priority:a=2,b=1", STOCK)
    a, b, c = nodes
    await c.execute("INSERT INTO stock VALUES (1, 'pen', 1), (2, 'cup', 1)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET name = 'a'")
    await b.execute("UPDATE stock SET name = 'b'")
    await c.execute("UPDATE stock SET name = 'c'")
    await c.pull(a)
    await c.execute("UPDATE stock SET name = 'c saw a' WHERE id = 2")
    rows = await equal_rows(nodes)
    assert [row[1] for row in rows] == ["a", "b"]


async def test_a_function_of_the_operators_makes_the_row(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 3, "function:public.longest", f"{STOCK};{FUNCTION}")
    a, b, c = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 1)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET name = 'a pen', n = 2")
    await b.execute("UPDATE stock SET name = 'the longest', n = 3")
    await c.execute("UPDATE stock SET name = 'c', n = 4")
    assert await equal_rows(nodes) == [(1, "the longest", 3, "1.00")]


async def test_a_function_that_fails_leaves_the_newest_and_tells_a_person(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 2, "function:public.failing", f"{STOCK};{FUNCTION}")
    a, b = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 1)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET name = 'older'")
    await b.execute("UPDATE stock SET name = 'newer'")
    assert (await equal_rows(nodes))[0][1] == "newer"
    assert [state for *_, state in await told(a)] == ["open"]
    reason = "SELECT reason FROM peersync.conflict"
    assert "division by zero" in str(await a.rows(reason))


async def test_a_delta_of_a_row_that_is_deleted_meanwhile_is_lost_and_told_of(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 2, "delta:n", STOCK)
    a, b = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 1), (2, 'cup', 1)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = n + 5 WHERE id = 1")
    await b.execute("DELETE FROM stock WHERE id = 1")
    await b.execute("DELETE FROM stock WHERE id = 2")
    await a.execute("UPDATE stock SET n = n + 5 WHERE id = 2")
    assert await equal_rows(nodes) == [(2, "cup", 6, "1.00")]
    assert "count for nothing" in str(await a.rows("SELECT reason FROM peersync.conflict"))


async def test_a_truncate_and_a_change_of_the_same_table(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 2, "delta:n", STOCK)
    a, b = nodes
    await a.execute("INSERT INTO stock SELECT i, 'pen', 1 FROM generate_series(1, 5) AS i")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = n + 5 WHERE id = 1")
    await b.execute("TRUNCATE stock")
    await b.execute("INSERT INTO stock VALUES (9, 'new', 1)")
    await a.execute("UPDATE stock SET n = n + 5 WHERE id = 2")
    assert await equal_rows(nodes) == [(2, "pen", 6, "1.00"), (9, "new", 1, "1.00")]


async def test_what_a_trigger_adds_to_the_same_row_counts_once(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    """The inner statement is logged first, and the outer one spans it."""
    sql = f"""{STOCK};
    CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN UPDATE stock SET n = n + 100 WHERE id = NEW.id; RETURN NULL; END $$;
    CREATE TRIGGER more AFTER UPDATE OF name ON public.stock FOR EACH ROW
        EXECUTE FUNCTION public.more()"""
    nodes = await group(stack, make_database, 2, "delta:n", sql)
    a, b = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 0)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = n + 1, name = 'Pen'")
    async with b.conn.transaction():
        await b.execute("UPDATE stock SET n = n + 10")
        await b.execute("UPDATE stock SET n = n + 20, name = 'PEN'")
        await b.execute("UPDATE stock SET n = n + 40")
    assert await equal_rows(nodes) == [(1, "PEN", 271, "1.00")]


async def test_deltas_that_waited_for_a_parked_table_are_added(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    nodes = await group(stack, make_database, 2, "delta:n", STOCK)
    a, b = nodes
    await a.execute("INSERT INTO stock VALUES (1, 'pen', 0)")
    await equal_rows(nodes)
    await a.execute("UPDATE stock SET n = n + 1")
    await b.execute("UPDATE stock SET n = n + 10")
    await b.execute("ALTER TABLE stock RENAME price TO cost")
    assert (await b.pull(a)).parked
    await a.execute("UPDATE stock SET n = n + 100")
    await b.pull(a)
    await b.execute("ALTER TABLE stock RENAME cost TO price")
    assert [done.changes for done in await b.applier.resume_parked()] == [2]
    assert await equal_rows(nodes) == [(1, "pen", 111, "1.00")]
