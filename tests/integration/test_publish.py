"""Publishing: every committed change gets one place, and for each row in the order of commits."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from itertools import pairwise

import asyncpg
import pytest
from pgcluster import Cluster

from peersync.core.errors import NotFound
from peersync.postgres.log.members import (
    add_member,
    last_said,
    read_members,
    read_replica,
    set_state,
)
from peersync.postgres.log.publish import Published, announce, beat, publish, publish_lock
from tests.integration.log_rig import (
    Connect,
    capture_really,
    entries,
    make_log,
    open_connection,
    transactions,
)


@pytest.fixture
async def conn(open_log: Connect) -> asyncpg.Connection:
    conn = await open_log()
    await make_log(conn)
    return conn


# --- what is published ------------------------------------------------------------------------
async def test_committed_transactions_get_a_place_each_and_others_none(
    conn: asyncpg.Connection, open_log: Connect
) -> None:
    assert await publish(conn) is None
    await conn.execute("INSERT INTO acc VALUES (1, 0), (2, 0)")
    await conn.execute("UPDATE acc SET n = 1")
    await conn.execute("BEGIN; DELETE FROM acc; ROLLBACK")
    open_one = await open_log()
    await open_one.execute("BEGIN; INSERT INTO acc VALUES (3, 0)")
    done = await publish(conn)
    assert done is not None
    assert (done.count, done.position) == (2, 2)
    assert await publish(conn) is None
    await open_one.execute("COMMIT")
    again = await publish(conn)
    assert again == Published(1, 3, again.hlc if again else 0)
    assert [(e["position"], e["op"], e["image"]) for e in await entries(conn)] == [
        (1, b"I", "(1,0)"),
        (1, b"I", "(2,0)"),
        (2, b"U", "(1,1)"),
        (2, b"U", "(2,1)"),
        (3, b"I", "(3,0)"),
    ]


async def test_a_savepoint_that_is_taken_back_leaves_nothing(conn: asyncpg.Connection) -> None:
    await conn.execute(
        "BEGIN; INSERT INTO acc VALUES (1, 0); SAVEPOINT s; INSERT INTO acc VALUES (2, 0);"
        "ROLLBACK TO s; SAVEPOINT t; INSERT INTO acc VALUES (3, 0); RELEASE t; COMMIT"
    )
    await publish(conn)
    assert await transactions(conn) == [(1, 2)]
    assert [e["key"] for e in await entries(conn)] == ["(1)", "(3)"]


async def test_what_the_publishing_transaction_changes_is_published_by_the_next_call(
    conn: asyncpg.Connection, open_log: Connect
) -> None:
    other = await open_log()
    async with conn.transaction():
        await conn.execute("INSERT INTO acc VALUES (1, 0)")
        await other.execute("INSERT INTO acc VALUES (2, 0)")  # a higher xid that has ended
        assert (await publish(conn) or Published(0, 0, 0)).count == 1
        await conn.execute("INSERT INTO acc VALUES (3, 0)")
        assert await publish(conn) is None
    assert [e["key"] for e in await entries(conn)] == ["(2)"]
    await publish(conn)
    assert [(e["position"], e["key"]) for e in await entries(conn)] == [
        (1, "(2)"),
        (2, "(1)"),
        (2, "(3)"),
    ]


async def test_a_rolled_back_publishing_is_done_again(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO acc VALUES (1, 0)")
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await publish(conn)
            raise ZeroDivisionError
    done = await publish(conn)
    assert done is not None
    assert (done.count, done.position) == (1, 1)


@pytest.mark.parametrize("state", ["joining", "held", "expired"])
async def test_nothing_is_published_while_this_database_may_not(
    conn: asyncpg.Connection, state: str
) -> None:
    await conn.execute("INSERT INTO acc VALUES (1, 0)")
    await set_state(conn, state, "a test")
    assert await publish(conn) is None
    with pytest.raises(NotFound):
        await beat(conn)
    await set_state(conn, "active")
    assert await publish(conn) is not None


async def test_without_periodic_sync_publishing_does_nothing(conn: asyncpg.Connection) -> None:
    await conn.execute("DELETE FROM peersync.replica")
    assert await publish(conn) is None


# --- what stands beside it --------------------------------------------------------------------
async def test_a_transaction_says_what_had_been_applied_when_it_was_published(
    conn: asyncpg.Connection,
) -> None:
    await add_member(conn, 77, "b" * 32, "beta", applied=5)
    await conn.execute("INSERT INTO acc VALUES (1, 0)")
    await publish(conn)
    await conn.execute("UPDATE peersync.member SET applied = 6 WHERE origin = 77")
    await conn.execute("UPDATE acc SET n = 1")
    await publish(conn)
    assert await transactions(conn, "seen") == [('{"77": 5}',), ('{"77": 6}',)]
    own = next(m for m in await read_members(conn) if m.origin != 77)
    replica = await read_replica(conn)
    assert replica is not None
    assert (own.applied, own.applied_hlc, own.seen) == (2, replica.hlc, {77: 6})


async def test_the_clock_goes_on_from_the_highest_time_that_was_seen(
    conn: asyncpg.Connection,
) -> None:
    ahead = await conn.fetchval("UPDATE peersync.replica SET hlc = hlc + 3600000000 RETURNING hlc")
    for n in range(3):
        await conn.execute("INSERT INTO acc VALUES ($1, 0)", n)
    await publish(conn)
    assert await transactions(conn, "hlc") == [(ahead + 1,), (ahead + 2,), (ahead + 3,)]


async def test_the_time_of_a_transaction_is_that_of_its_last_change(
    conn: asyncpg.Connection,
) -> None:
    for n in range(2):
        await conn.execute("INSERT INTO acc VALUES ($1, 0)", n)
    await publish(conn)
    times = await conn.fetch(
        "SELECT (extract(epoch FROM at) * 1000000)::bigint FROM peersync.change"
    )
    assert await transactions(conn, "hlc") == [tuple(t) for t in times]
    bytes_of = "octet_length('(1)') + octet_length('(1,0)')"
    assert await transactions(conn, f"bytes = {bytes_of}") == [(True,), (True,)]


async def test_an_announcement_comes_after_what_is_pending(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO acc VALUES (1, 0)")
    async with conn.transaction():
        assert await announce(conn, "j", {"origin": 5}) == 2
    assert await beat(conn) == 3
    assert await last_said(conn) == 2  # nobody tells that he has a heartbeat: none waits for that
    assert await transactions(conn, "position, kind, changes, info::text") == [
        (1, b"d", 1, None),
        (2, b"j", 0, '{"origin": 5}'),
        (3, b"b", 0, None),
    ]
    hlcs = [hlc for (hlc,) in await transactions(conn, "hlc")]
    assert hlcs == sorted(set(hlcs))
    replica = await read_replica(conn)
    assert replica is not None
    assert (replica.position, replica.hlc) == (3, hlcs[-1])


# --- inside REPEATABLE READ -------------------------------------------------------------------
async def test_a_view_in_which_everything_is_published(
    conn: asyncpg.Connection, open_log: Connect
) -> None:
    other = await open_log()
    await other.execute("INSERT INTO acc VALUES (1, 0)")
    async with publish_lock(conn), conn.transaction(isolation="repeatable_read"):
        await conn.execute("SELECT FROM acc")
        await other.execute("INSERT INTO acc VALUES (2, 0)")  # after the view
        await publish(conn)
        assert [e["key"] for e in await entries(conn)] == ["(1)"]
        assert await conn.fetchval("SELECT count(*) FROM acc") == 1
    await publish(other)
    assert [e["key"] for e in await entries(conn)] == ["(1)", "(2)"]


async def test_a_view_that_is_older_than_the_last_publishing_fails_and_loses_nothing(
    conn: asyncpg.Connection, open_log: Connect
) -> None:
    other = await open_log()
    await other.execute("INSERT INTO acc VALUES (1, 0)")
    with pytest.raises(asyncpg.SerializationError):
        async with conn.transaction(isolation="repeatable_read"):
            await conn.execute("SELECT FROM acc")
            await publish(other)
            await publish(conn)
    await publish(conn)
    assert await transactions(conn) == [(1, 1)]


# --- under load -------------------------------------------------------------------------------
async def _write(conn: asyncpg.Connection, seed: int, rounds: int) -> None:
    chance = random.Random(seed)
    for _ in range(rounds):
        rows = sorted({chance.randrange(20) for _ in range(chance.randrange(1, 5))})
        transaction = conn.transaction()
        await transaction.start()
        for row in rows:
            savepoint = conn.transaction()
            await savepoint.start()
            await conn.execute("UPDATE acc SET n = n + 1 WHERE id = $1", row)
            await (savepoint.rollback() if chance.random() < 0.1 else savepoint.commit())
        if chance.random() < 0.02:
            await asyncio.sleep(0.2)
        await (transaction.rollback() if chance.random() < 0.1 else transaction.commit())


async def _publish_often(conn: asyncpg.Connection, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await publish(conn)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("database", "real"), [(15, False), (18, False), (18, True)], indirect=["database"]
)
async def test_eight_writers_of_the_same_rows_lose_and_double_nothing(
    conn: asyncpg.Connection, open_log: Connect, real: bool
) -> None:
    if real:
        await capture_really(conn)
    await conn.execute("INSERT INTO acc SELECT i, 0 FROM generate_series(0, 19) i")
    writers = [await open_log() for _ in range(8)]
    publishers = [await open_log() for _ in range(2)]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as publishing:
        for one in publishers:
            publishing.create_task(_publish_often(one, stop), name="publisher")
        async with asyncio.TaskGroup() as writing:
            for seed, writer in enumerate(writers):
                writing.create_task(_write(writer, seed, 150), name="writer")
        stop.set()
    await publish(conn)
    await _check_log(conn)


async def _check_log(conn: asyncpg.Connection) -> None:
    """Each row's images count up by one; nothing is missing, twice or out of order."""
    images = defaultdict(list)
    for entry in await entries(conn):
        key, n = entry["image"].strip("()").split(",")
        images[int(key)].append(int(n))
    for row in await conn.fetch("SELECT id, n FROM acc"):
        assert images[row["id"]] == list(range(row["n"] + 1))
    found = await transactions(conn, "position, hlc")
    assert [position for position, _ in found] == list(range(1, len(found) + 1))
    assert all(a[1] < b[1] for a, b in pairwise(found))
    unpublished = "SELECT count(*) FROM peersync.change c WHERE NOT EXISTS " \
                  "(SELECT FROM peersync.transaction t WHERE t.xid = c.xid)"  # fmt: skip
    assert await conn.fetchval(unpublished) == 0
    assert len(found) > 100


@pytest.mark.may_block("a server of its own")
async def test_a_prepared_transaction_is_published_when_it_is_committed() -> None:
    with Cluster(18, settings={"max_prepared_transactions": "5"}) as cluster:
        conn = await open_connection(cluster.url())
        await make_log(conn)
        await conn.execute("BEGIN; INSERT INTO acc VALUES (1, 0); PREPARE TRANSACTION 'p'")
        await conn.execute("INSERT INTO acc VALUES (2, 0)")
        assert (await publish(conn) or Published(0, 0, 0)).count == 1
        await conn.execute("COMMIT PREPARED 'p'")
        assert (await publish(conn) or Published(0, 0, 0)).count == 1
        assert [e["key"] for e in await entries(conn)] == ["(2)", "(1)"]
        await conn.close()


# --- what it costs ----------------------------------------------------------------------------
async def test_a_look_that_finds_nothing_reads_no_part_of_the_log(
    conn: asyncpg.Connection, open_log: Connect
) -> None:
    """Also where a large transaction is open, and one was taken back; and without statistics."""
    await conn.execute("ALTER TABLE peersync.change SET (autovacuum_enabled = off)")
    load = "INSERT INTO acc SELECT i, 0 FROM generate_series({}, {}) i"
    await conn.execute(load.format(1, 20_000))
    await publish(conn)
    open_one = await open_log()
    await open_one.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {load.format(20_001, 40_000)}")
    await conn.execute(f"BEGIN; {load.format(40_001, 60_000)}; ROLLBACK")
    assert await publish(conn) is None  # goes over the rolled back rows, once
    async with conn.transaction():
        before = await conn.fetchval(PAGES_READ)
        for _ in range(10):
            assert await publish(conn) is None
        assert await conn.fetchval(PAGES_READ) - before < 10 * 10
    await open_one.execute("ROLLBACK")


PAGES_READ = """
SELECT pg_stat_get_xact_blocks_fetched('peersync.change'::regclass)
       + pg_stat_get_xact_blocks_fetched('peersync.change_xid_id'::regclass)
"""
