"""Sessions that several files of tests open to the one `database` of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED
from tests.integration.log_rig import Connect, open_connection
from tests.plugins.clusters import Database, MakeDatabase


@pytest.fixture
async def stack(make_database: MakeDatabase) -> AsyncIterator[AsyncExitStack]:
    """What is entered here ends before the databases do."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def connect(database: Database) -> AsyncIterator[Connect]:
    """An application's sessions: no settings of ours."""
    async with AsyncExitStack() as stack:

        async def one(user: str | None = None, **settings: str) -> asyncpg.Connection:
            conn = await asyncpg.connect(database.url(user=user), server_settings=settings)
            stack.push_async_callback(conn.close)
            return conn

        yield one


@pytest.fixture
async def app(connect: Connect) -> asyncpg.Connection:
    return await connect()


@pytest.fixture
async def agent(connect: Connect) -> asyncpg.Connection:
    """A session like the agent's, in a database that has schema peersync."""
    conn = await connect(**PINNED)
    await migrate(conn)
    return conn


@pytest.fixture
async def open_log(database: Database) -> AsyncIterator[Connect]:
    """Sessions of ours that see the test's tables."""
    async with AsyncExitStack() as stack:

        async def one() -> asyncpg.Connection:
            conn = await open_connection(database.url())
            stack.push_async_callback(conn.close)
            return conn

        yield one
