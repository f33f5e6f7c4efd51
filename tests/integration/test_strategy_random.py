"""Random histories on three databases, beside the core's fold over everything that was logged.

Writes, pulls of any size from anybody and pruning come in any order. In the end every database
has the rows that the fold gives from nothing, also those whose log was cut in between.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack

import pytest

from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import beat
from tests.integration.apply_rig import Node, drain
from tests.integration.strategy_rig import Oracle, group, rows_by_key
from tests.plugins.clusters import MakeDatabase

TABLE = """
CREATE TABLE public.item (id int PRIMARY KEY, name text, n int NOT NULL, m numeric NOT NULL);
CREATE FUNCTION public.longest(candidates jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT c -> 'row' FROM jsonb_array_elements(candidates) WITH ORDINALITY AS u (c, place)
     WHERE c -> 'row' <> 'null'
     ORDER BY coalesce(length(c -> 'row' ->> 'name'), 0) DESC, place DESC LIMIT 1 $$"""
STRATEGIES = (
    "merge_columns", "delta:n,m", "origin_priority:a=2,c=1", "function:public.longest"
)  # fmt: skip
STEPS = 120


async def write(node: Node, rng: random.Random) -> None:
    async with node.conn.transaction():
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            key, kind = rng.randrange(5), rng.random()
            word = rng.choice(("", "a b", "x,y", '"q"', None, "longer word"))
            if kind < 0.2:
                await node.execute(
                    "INSERT INTO item VALUES ($1, $2, $3, 0.5) ON CONFLICT (id) "
                    "DO UPDATE SET n = item.n + excluded.n",
                    key, word, rng.randrange(9),
                )  # fmt: skip
            elif kind < 0.3:
                await node.execute("DELETE FROM item WHERE id = $1", key)
            elif kind < 0.31:
                await node.execute("TRUNCATE item")
            elif kind < 0.5:
                await node.execute("UPDATE item SET name = $2 WHERE id = $1", key, word)
            elif kind < 0.6:
                await node.execute("UPDATE item SET n = n + 1, m = m - 0.125")
            else:
                sql = "UPDATE item SET n = n + $2, m = m * 2 WHERE id = $1"
                await node.execute(sql, key, rng.randrange(-9, 9))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("seed", "size"), [(1, 3), (2, 2)])
async def test_every_database_has_what_the_fold_gives(
    stack: AsyncExitStack, make_database: MakeDatabase, strategy: str, seed: int, size: int
) -> None:
    rng = random.Random(f"{strategy} {seed}")
    nodes = await group(stack, make_database, size, strategy, TABLE)
    oracle, pruned = Oracle(), 0
    for key in range(5):
        await nodes[0].execute("INSERT INTO item VALUES ($1, 'first', 10, 1)", key)
    for _ in range(STEPS):
        node = rng.choice(nodes)
        kind = rng.random()
        if kind < 0.45:
            await write(node, rng)
        elif kind < 0.9:
            source = rng.choice([other for other in nodes if other is not node])
            await node.pull(source, max_changes=rng.choice((1, 2, 5, 50)))
        else:
            await beat(node.feed)
            await oracle.look(node)
            pruned += (await prune(node.feed)).transactions
    await drain(*nodes)
    for node in nodes:
        await oracle.look(node)
    expected = await oracle.rows(strategy, nodes[0])
    for node in nodes:
        assert await rows_by_key(node, "item") == expected, node.name
    counts = [await node.rows("SELECT winner FROM peersync.conflict") for node in nodes]
    assert sum(map(len, counts)) > 10
    assert pruned
