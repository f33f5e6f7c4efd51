"""Pruning: nothing goes that a member may need, the rest goes whole, and nobody waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from peersync.core.errors import ResyncRequired
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import Replica, add_member, encode_vector, set_state
from peersync.postgres.log.membership import say_expire
from peersync.postgres.log.prune import (
    LogSize,
    Pruned,
    Waiting,
    expired_candidates,
    log_size,
    prune,
)
from peersync.postgres.log.publish import publish
from peersync.wire.feed import FeedRequest
from tests.integration.log_rig import SHAPE, Connect, make_log, transactions

BETA, GAMMA = 77, 99


@pytest.fixture
async def conn(open_log: Connect) -> asyncpg.Connection:
    return await open_log()


@pytest.fixture
async def replica(conn: asyncpg.Connection) -> Replica:
    replica = await make_log(conn)
    await add_member(conn, BETA, "b" * 32, "beta")
    await add_member(conn, GAMMA, "c" * 32, "gamma")
    return replica


async def write(conn: asyncpg.Connection, *counts: int) -> None:
    for count in counts:
        await conn.execute(
            "INSERT INTO acc SELECT coalesce((SELECT max(id) FROM acc), 0) + i, 0 "
            "FROM generate_series(1, $1::int) i",
            count,
        )
    await publish(conn)


async def relay(conn: asyncpg.Connection, origin: int, position: int, rows: int) -> None:
    """As if a transaction of another origin had been applied here, and kept."""
    await conn.execute(
        "INSERT INTO peersync.transaction (origin, position, hlc, changes) VALUES ($1, $2, $2, $3)",
        origin, position, rows,
    )  # fmt: skip
    await conn.execute(
        "INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image) "
        f"SELECT $1, $2, i, now(), 1, {SHAPE}, 'I', '(1)', '(1,1)' "
        "FROM generate_series(1, $3::int) i",
        origin, position, rows,
    )  # fmt: skip
    await conn.execute(
        "UPDATE peersync.member SET applied = $2 WHERE origin = $1", origin, position
    )


async def say(conn: asyncpg.Connection, origin: int, seen: dict[int, int]) -> None:
    """What the last transaction of a member that came here had seen."""
    await conn.execute(
        "UPDATE peersync.member SET seen = $2 WHERE origin = $1", origin, encode_vector(seen)
    )


def asking(replica: Replica, vector: dict[int, int]) -> FeedRequest:
    return FeedRequest(database="shop", group=replica.group_id, origin=BETA, vector=vector)


async def left(conn: asyncpg.Connection) -> tuple[list[tuple[int, int]], int, int]:
    """(origin, position) of what is there; changes of our own, of others."""
    return (
        sorted(await transactions(conn, "origin, position")),
        await conn.fetchval("SELECT count(*) FROM peersync.change"),
        await conn.fetchval("SELECT count(*) FROM peersync.relayed"),
    )


@pytest.mark.parametrize("database", [15, 18], indirect=True)
async def test_a_transaction_goes_once_every_member_has_said_that_it_has_it(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    own = replica.origin
    await write(conn, 1, 2, 3)
    await relay(conn, BETA, 1, 4)
    await relay(conn, BETA, 2, 5)
    await say(conn, BETA, {own: 3})
    assert (await prune(conn)).transactions == 0
    await say(conn, GAMMA, {own: 2, BETA: 1})
    assert (await prune(conn)).transactions == 2  # what we have seen of beta is not said yet
    assert await left(conn) == ([(BETA, 1), (BETA, 2), (own, 3)], 3, 9)
    await write(conn, 1)
    done = await prune(conn)
    assert done == Pruned(1, 4, {own: 2, BETA: 1, GAMMA: 0})
    assert await left(conn) == ([(BETA, 2), (own, 3), (own, 4)], 4, 5)


async def test_what_is_gone_is_never_left_out_in_silence(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    own = replica.origin
    await write(conn, 1, 1, 1)
    await say(conn, BETA, {own: 2})
    await say(conn, GAMMA, {own: 2})
    await prune(conn)
    with pytest.raises(ResyncRequired):
        await open_feed(conn, asking(replica, {own: 1}))
    feed = await open_feed(conn, asking(replica, {own: 2}))
    assert [t.position for t in feed.head.transactions] == [3]
    await feed.close()


async def test_a_member_that_has_left_is_not_waited_for(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write(conn, 1)
    await say(conn, BETA, {replica.origin: 1})
    await conn.execute("UPDATE peersync.member SET state = 'left' WHERE origin = $1", GAMMA)
    assert (await prune(conn)).transactions == 1


async def test_an_expired_member_is_waited_for_until_all_the_others_know(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    """Until then one of them may still hand on what it wrote without having seen ours (H12)."""
    own = replica.origin
    await write(conn, 1)
    async with conn.transaction():
        assert await say_expire(conn, GAMMA) == 2
    await say(conn, BETA, {own: 1})
    assert (await prune(conn)).transactions == 0
    await say(conn, BETA, {own: 2})
    assert (await prune(conn)).transactions == 2


async def test_without_other_members_nothing_is_kept(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await conn.execute("DELETE FROM peersync.member WHERE origin <> $1", replica.origin)
    await write(conn, 2, 1)
    await conn.execute("INSERT INTO acc VALUES (0, 0)")  # not published
    assert (await prune(conn)).changes == 3
    assert await left(conn) == ([], 1, 0)


@pytest.mark.parametrize("state", ["joining", "held", "expired"])
async def test_a_database_that_may_not_take_part_forgets_nothing(
    conn: asyncpg.Connection, replica: Replica, state: str
) -> None:
    await conn.execute("DELETE FROM peersync.member WHERE origin <> $1", replica.origin)
    await write(conn, 1)
    await set_state(conn, state)
    assert await prune(conn) == Pruned()


async def test_a_large_transaction_goes_in_pieces(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write(conn, 3, 25, 2, 1)
    await relay(conn, GAMMA, 1, 27)
    await say(conn, BETA, {replica.origin: 4, GAMMA: 1})
    await say(conn, GAMMA, {replica.origin: 4})
    await write(conn, 1)
    done = await prune(conn, batch_rows=10)
    assert (done.transactions, done.changes) == (5, 58)
    assert await left(conn) == ([(replica.origin, 5)], 1, 0)


async def test_one_that_was_cut_off_is_gone_on_with_and_shown_to_nobody(
    conn: asyncpg.Connection, open_log: Connect, replica: Replica
) -> None:
    await write(conn, 50_000, 1)
    for member in (BETA, GAMMA):
        await say(conn, member, {replica.origin: 1})
    other = await open_log()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await prune(other, batch_rows=50)
    rest = await conn.fetchval("SELECT count(*) FROM peersync.change")
    assert 1 < rest < 50_001
    with pytest.raises(ResyncRequired):
        await open_feed(conn, asking(replica, {}))
    await prune(conn)
    assert await left(conn) == ([(replica.origin, 2)], 1, 0)


async def test_a_writer_never_waits_for_it(
    conn: asyncpg.Connection, open_log: Connect, replica: Replica
) -> None:
    await write(conn, *[500] * 20)
    for member in (BETA, GAMMA):
        await say(conn, member, {replica.origin: 20})
    writer = await open_log()
    await writer.execute("SET lock_timeout = '20ms'")
    waited = open_log()

    async def keep_writing() -> None:
        while not done.is_set():
            await writer.execute("UPDATE acc SET n = n + 1 WHERE id < 20")

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_writing(), name="writer")
        assert (await prune(await waited, batch_rows=100)).changes == 10_000
        done.set()
    await publish(conn)
    assert await conn.fetchval("SELECT sum(n) FROM acc") == await conn.fetchval(
        "SELECT count(*) FROM peersync.entry"
    )


# --- rows in conflict, of strategies that need more than the newest change --------------------
async def test_a_row_with_a_base_keeps_its_changes_until_all_of_them_are_stable(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    """Else an older change, unseen by somebody, would be put on top of a stable one (H1)."""
    own = replica.origin
    await write(conn, 1, 1, 1)  # rows 1, 2, 3
    await conn.execute("UPDATE acc SET n = 1 WHERE id = 2")
    await publish(conn)
    await conn.execute(
        "INSERT INTO peersync.row_base (tbl, key, shape) VALUES (1, '(2)', 1), (1, '(3)', 1)"
    )
    for member in (BETA, GAMMA):
        await say(conn, member, {own: 3})
    await prune(conn)
    assert (await left(conn))[0] == [(own, 2), (own, 3), (own, 4)]
    bases = "SELECT array_agg(key ORDER BY key) FROM peersync.row_base"
    assert await conn.fetchval(bases) == ["(2)", "(3)"]
    for member in (BETA, GAMMA):
        await say(conn, member, {own: 4})
    await conn.execute("UPDATE acc SET n = 2 WHERE id = 3")  # not published yet
    await prune(conn)
    assert (await left(conn))[0] == [(own, 3), (own, 4)]
    await publish(conn)
    for member in (BETA, GAMMA):
        await say(conn, member, {own: 5})
    await prune(conn)
    assert await left(conn) == ([], 0, 0)
    assert await conn.fetchval(bases) is None


async def test_a_truncate_belongs_to_every_row_of_its_table(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    own = replica.origin
    await write(conn, 1)
    await conn.execute("INSERT INTO peersync.change (tbl, shape, op) VALUES (1, $1, 'T')", SHAPE)
    await publish(conn)
    await conn.execute("INSERT INTO peersync.row_base (tbl, key, shape) VALUES (1, '(1)', 1)")
    for member in (BETA, GAMMA):
        await say(conn, member, {own: 1})
    assert (await prune(conn)).transactions == 0


# --- what is left, and why --------------------------------------------------------------------
async def test_the_size_of_the_log_says_for_whom_it_is_kept(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    own = replica.origin
    await write(conn, 10, 20)
    await conn.execute(
        "UPDATE peersync.transaction SET at = at - interval '1 hour' WHERE position = 1"
    )
    await say(conn, BETA, {own: 1})
    size = await log_size(conn)
    assert (size.transactions, size.changes) == (2, 30)
    assert size.size_bytes > 10_000
    assert [(w.origin, w.node_name) for w in size.waits_for] == [(GAMMA, "gamma"), (BETA, "beta")]
    assert 3600 <= size.waits_for[0].age_s < 3700
    assert size.waits_for[1].age_s < 100
    for member in (BETA, GAMMA):
        await say(conn, member, {own: 2})
    assert (await log_size(conn)).waits_for == ()


async def test_the_size_is_told_without_periodic_sync(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await conn.execute("DELETE FROM peersync.replica")
    assert (await log_size(conn)).waits_for == ()


def test_who_holds_the_log_back_too_long_can_be_expired() -> None:
    late, later = Waiting(1, "a", "a", 50.0), Waiting(2, "b", "b", 100.0)
    size = LogSize(1, 1, 1000, (later, late))
    assert expired_candidates(size, max_age_s=200, max_bytes=2000) == ()
    assert expired_candidates(size, max_age_s=70, max_bytes=10) == (later,)
    assert expired_candidates(size, max_age_s=20, max_bytes=2000) == (later, late)
    assert expired_candidates(size, max_age_s=200, max_bytes=10) == (later,)
