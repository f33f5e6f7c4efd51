"""Sleeping until somebody commits: woken at once, without a commit that nobody saw."""

from __future__ import annotations

import asyncio
import random
import time

import asyncpg
import pytest
from pgcluster import Cluster

from peersync.postgres.log.publish import Waker, publish
from tests.integration.log_rig import Connect, capture_really, make_log, open_connection

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
async def writer(open_log: Connect) -> asyncpg.Connection:
    conn = await open_log()
    await make_log(conn)
    await conn.execute("INSERT INTO acc VALUES (1, 0)")
    await publish(conn)
    return conn


WRITE = "UPDATE acc SET n = n + 1"


async def _write_after(conn: asyncpg.Connection, delay_s: float, *, slowly: bool) -> None:
    await asyncio.sleep(delay_s)
    if slowly:
        async with conn.transaction():
            await conn.execute(WRITE)
            await asyncio.sleep(delay_s)
    else:
        await conn.execute(WRITE)


@pytest.mark.parametrize(("slowly", "real"), [(False, False), (True, False), (False, True)])
async def test_a_commit_while_it_falls_asleep_is_never_missed(
    writer: asyncpg.Connection, open_log: Connect, slowly: bool, real: bool
) -> None:
    if real:
        await capture_really(writer)
    sleeper, chance = await open_log(), random.Random(1)
    waker = Waker(sleeper)
    for _ in range(400):
        async with asyncio.TaskGroup() as group:
            delay_s = chance.random() * 0.003
            group.create_task(_write_after(writer, delay_s, slowly=slowly), name="writer")
            async with asyncio.timeout(8):
                assert await waker.sleep(10)
        assert await publish(sleeper) is not None


async def test_nothing_to_do_ends_the_sleep_in_time_and_gives_the_lock_back(
    writer: asyncpg.Connection, open_log: Connect
) -> None:
    waker = Waker(await open_log())
    started = time.monotonic()
    assert not await waker.sleep(0.2)
    assert 0.15 < time.monotonic() - started < 10
    assert await writer.fetchval(LOCKS) == 0


async def test_writers_notify_only_while_somebody_sleeps(
    writer: asyncpg.Connection, open_log: Connect
) -> None:
    listener, heard = await open_log(), asyncio.Event()
    await listener.add_listener("peersync", lambda *_: heard.set())
    await writer.execute(WRITE)
    await listener.execute("SELECT")
    assert not heard.is_set()
    await publish(writer)
    waker = Waker(await open_log())
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_after(writer, 0.05, slowly=False), name="writer")
        assert await waker.sleep(5)
    async with asyncio.timeout(10):
        await heard.wait()


async def test_a_commit_is_seen_while_another_transaction_stays_open(
    writer: asyncpg.Connection, open_log: Connect
) -> None:
    open_one = await open_log()
    await open_one.execute("BEGIN; INSERT INTO acc VALUES (2, 0)")
    waker = Waker(await open_log())
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_after(writer, 0.05, slowly=False), name="writer")
        assert await waker.sleep(5)
    await open_one.execute("ROLLBACK")


async def test_a_lost_connection_ends_the_sleep_aloud(
    writer: asyncpg.Connection, open_log: Connect
) -> None:
    sleeper = await open_log()

    async def end() -> None:
        await asyncio.sleep(0.1)
        pid = sleeper.get_server_pid()
        await writer.execute("SELECT pg_terminate_backend($1)", pid)

    async with asyncio.TaskGroup() as group, asyncio.timeout(5):
        group.create_task(end(), name="end")
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await Waker(sleeper).sleep(60)


@pytest.mark.may_block("a server of its own")
async def test_a_transaction_can_be_prepared_while_somebody_sleeps() -> None:
    """One that has notified could not: PostgreSQL refuses it."""
    with Cluster(18, settings={"max_prepared_transactions": "5"}) as cluster:
        writer, sleeper = [await open_connection(cluster.url()) for _ in range(2)]
        await make_log(writer)

        async def prepare() -> None:
            await asyncio.sleep(0.1)
            await writer.execute("BEGIN; INSERT INTO acc VALUES (1, 0); PREPARE TRANSACTION 'p'")
            await writer.execute("COMMIT PREPARED 'p'")

        async with asyncio.TaskGroup() as group:
            group.create_task(prepare(), name="prepare")
            assert await Waker(sleeper).sleep(5)
        await sleeper.close()
        await writer.close()
