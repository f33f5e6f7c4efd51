"""Applications add to the same counters on several databases while changes arrive on all.

Every sum is exact in the end: nothing that was added is lost, and nothing counts twice.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import asyncpg
import pytest

from peersync.core.errors import PeersyncError
from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import beat
from tests.integration.apply_rig import Node, drain
from tests.integration.strategy_rig import group
from tests.plugins.clusters import MakeDatabase

BANK = "CREATE TABLE public.account (id int PRIMARY KEY, balance numeric NOT NULL, seen text)"
ACCOUNTS, SECONDS, WRITERS = 6, 0.8, 2


async def pay(node: Node, seed: int, until: float, sums: dict[int, int]) -> int:
    """Transfers between two accounts; gives how many were committed, `sums` what they add."""
    choose, done = random.Random(seed), 0
    conn = await asyncpg.connect(node.test.url())
    try:
        while asyncio.get_running_loop().time() < until:
            one, other = choose.sample(range(ACCOUNTS), 2)
            amount = choose.randrange(1, 100)
            try:
                async with conn.transaction():
                    for key, what in sorted(((one, amount), (other, -amount))):
                        await conn.execute(
                            "UPDATE account SET balance = balance + $2, seen = $3 WHERE id = $1",
                            key, what, node.name,
                        )  # fmt: skip
            except asyncpg.DeadlockDetectedError:
                continue  # with the apply, which takes the rows in its own order
            sums[one] += amount
            sums[other] -= amount
            done += 1
            if choose.random() < 0.3:
                await asyncio.sleep(choose.random() / 200)
    finally:
        await conn.close()
    return done


async def follow(node: Node, source: Node, until: float) -> None:
    choose = random.Random(node.name)
    while asyncio.get_running_loop().time() < until:
        try:
            await node.pull(source, max_changes=choose.choice((1, 20, 500)))
            if choose.random() < 0.2:
                await beat(node.asks)
                await prune(node.asks)
        except PeersyncError as error:
            assert error.retryable, repr(error)


async def race(nodes: list[Node], sums: dict[int, int], seed: int) -> int:
    until = asyncio.get_running_loop().time() + SECONDS
    async with asyncio.TaskGroup() as tasks:
        payers = [
            tasks.create_task(pay(node, seed + n * 100 + w, until, sums))
            for n, node in enumerate(nodes)
            for w in range(WRITERS)
        ]
        for n, node in enumerate(nodes):  # three are a ring: each relays
            tasks.create_task(follow(node, nodes[n - 1], until))
    await drain(*nodes)
    return sum(task.result() for task in payers)


@pytest.mark.parametrize("size", [2, 3])
async def test_sums_are_exact_after_many_concurrent_payments(
    stack: AsyncExitStack, make_database: MakeDatabase, size: int
) -> None:
    nodes = await group(stack, make_database, size, "delta:balance", BANK)
    await nodes[0].execute(
        "INSERT INTO account SELECT i, 1000, NULL FROM generate_series(0, $1) AS i", ACCOUNTS - 1
    )
    await drain(*nodes)
    sums, payments, pruned = dict.fromkeys(range(ACCOUNTS), 1000), 0, 0
    for seed in (0, 1000):
        payments += await race(nodes, sums, seed)
        for node in nodes:
            rows = await node.rows("SELECT id, balance::int FROM account ORDER BY id")
            assert dict(rows) == sums, node.name
            await beat(node.asks)
        await nodes[0].execute("UPDATE account SET balance = balance + 1")  # not seen by the rest
        sums = {key: balance + 1 for key, balance in sums.items()}
        for node in nodes[1:]:
            await node.execute("UPDATE account SET balance = balance + 1")
            sums = {key: balance + 1 for key, balance in sums.items()}
        await drain(*nodes)
        pruned += sum([(await prune(node.asks)).transactions for node in nodes])
    assert payments > 100
    assert pruned > 100
    merged = "SELECT count(*) FROM peersync.conflict WHERE winner = 'merged'"
    assert (await nodes[0].rows(merged))[0][0] > 10


@pytest.mark.parametrize("earlier", [False, True], ids=["no conflict before", "in conflict before"])
async def test_what_is_committed_while_a_row_is_applied_is_in_it(
    stack: AsyncExitStack, make_database: MakeDatabase, earlier: bool
) -> None:
    """The apply waits for the row, and then writes over what it had not seen (ORDER R2)."""
    a, b = await group(stack, make_database, 2, "delta:balance", BANK)
    await a.execute("INSERT INTO account VALUES (1, 1000, NULL)")
    await drain(a, b)
    if earlier:
        await a.execute("UPDATE account SET balance = balance + 1")
    await b.execute("UPDATE account SET balance = balance + 10")
    watch = await asyncpg.connect(a.test.url())  # the connections of `a` are busy
    stack.push_async_callback(watch.close)
    async with asyncio.TaskGroup() as tasks, a.conn.transaction():
        await a.execute("UPDATE account SET balance = balance + 100")
        pulling = tasks.create_task(a.pull(b))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype <> 'relation'"
        while not await watch.fetchval(waiting):
            assert not pulling.done(), pulling
            await asyncio.sleep(0.01)
    expected = 1111 if earlier else 1110
    assert await a.rows("SELECT balance::int FROM account") == [(expected,)]
    await drain(a, b)
    assert await b.rows("SELECT balance::int FROM account") == [(expected,)]
