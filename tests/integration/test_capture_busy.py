"""Capture of a table that somebody holds: who writes it hardly notices, and it is soon captured."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from peersync.agent.periodic.capturing import capture_tables
from peersync.agent.periodic.hub import Hub
from peersync.postgres.conninfo import resolve
from peersync.postgres.log.capture import LOCKED, table_states
from peersync.postgres.log.members import found
from peersync.postgres.pool import Database
from tests.integration.log_rig import Connect
from tests.plugins import clusters


async def test_who_writes_a_table_that_is_held_hardly_waits_for_its_capture(
    database: clusters.Database,
    agent: asyncpg.Connection,
    app: asyncpg.Connection,
    connect: Connect,
) -> None:
    hub = Hub("shop", Database("shop", resolve(database.conninfo())))
    await found(agent, "a" * 32, "alpha")
    await app.execute("CREATE TABLE t (id serial PRIMARY KEY)")
    other = await connect()
    waits = []
    async with app.transaction():
        await app.execute("INSERT INTO t DEFAULT VALUES")
        async with asyncio.TaskGroup() as group:
            look = group.create_task(capture_tables(hub, agent, patience_s=1.5))
            while not look.done():
                began = time.monotonic()
                await other.execute("INSERT INTO t DEFAULT VALUES")
                waits.append(time.monotonic() - began)
        assert max(waits) < 1.2  # less than the look would wait for the lock
        assert [state.reason for state in await table_states(agent)] == [LOCKED]
        pauses = []
        for _ in range(4):
            pauses.append(round(hub.capture_at - time.monotonic()))
            hub.capture_at = 0.0
            await capture_tables(hub, agent)
    assert pauses == [1, 2, 4, 8]
    await capture_tables(hub, agent)  # not yet
    assert [state.state for state in await table_states(agent)] == ["refused"]
    await capture_tables(hub, agent, patience_s=1.0)  # somebody waits for the answer
    assert [state.state for state in await table_states(agent)] == ["captured"]
    assert hub.capture_at == float("inf")
