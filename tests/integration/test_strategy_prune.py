"""A row that is always in conflict somewhere does not keep the log for ever."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from peersync.postgres.log.prune import prune
from tests.integration.apply_rig import drain
from tests.integration.strategy_rig import group
from tests.plugins.clusters import MakeDatabase

COUNTER = "CREATE TABLE public.counter (id int PRIMARY KEY, n int NOT NULL, m int NOT NULL)"
ROUNDS = 12


@pytest.mark.parametrize("strategy", ["delta:n,m", "merge_columns", "origin_priority:a=1"])
async def test_what_all_have_seen_of_a_row_in_conflict_goes(
    stack: AsyncExitStack, make_database: MakeDatabase, strategy: str
) -> None:
    a, b = await group(stack, make_database, 2, strategy, COUNTER)
    await a.execute("INSERT INTO counter VALUES (1, 0, 0)")
    await drain(a, b)
    sizes, based = [], 0
    for _ in range(ROUNDS):
        await a.execute("UPDATE counter SET n = n + 1")
        await b.execute("UPDATE counter SET m = m + 1")
        await a.pull(b)
        await b.execute("UPDATE counter SET m = m + 1")  # in conflict with what a is about to say
        await a.execute("UPDATE counter SET n = n + 1")
        await b.pull(a)
        for node in (a, b):
            await prune(node.feed)
            sizes += [count for (count,) in await node.rows("SELECT count(*) FROM peersync.entry")]
            based += len(await node.rows("SELECT FROM peersync.row_base"))
    assert max(sizes) < 12, sizes  # of four a round
    assert based > ROUNDS
    await drain(a, b)
    rows = await a.rows("SELECT n, m FROM counter")
    assert await b.rows("SELECT n, m FROM counter") == rows
    if not strategy.startswith("origin"):
        assert rows == [(2 * ROUNDS, 2 * ROUNDS)]
