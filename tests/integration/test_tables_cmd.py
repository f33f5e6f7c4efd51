"""Which tables are captured: what a person leaves out stays left out, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from peersync.core.errors import BadRequest
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.chosen import TableView, change_tables, view_tables
from peersync.postgres.migrate import migrate
from tests.integration.operators_rig import ALL, captured, connect, join_group, put_quarantined
from tests.plugins.clusters import Database

TABLES = """
CREATE TABLE public.orders (id int PRIMARY KEY);
CREATE TABLE public."Order lines" (id int PRIMARY KEY);
CREATE UNLOGGED TABLE public.scratch (id int PRIMARY KEY);
"""


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(database)
    try:
        await opened.execute(TABLES)
        await migrate(opened)
        yield opened
    finally:
        await opened.close()


def states(tables: list[TableView]) -> dict[str, str]:
    return {one.table: one.state for one in tables}


async def change(
    conn: asyncpg.Connection, action: str, pattern: str | None = None, patterns: Patterns = ALL
) -> dict[str, str]:
    return states(
        await change_tables(conn, patterns, action, pattern=pattern, strategy=None)  # type: ignore[arg-type]
    )


async def triggers(conn: asyncpg.Connection) -> set[str]:
    rows = await conn.fetch(
        "SELECT DISTINCT tgrelid::regclass::text AS t FROM pg_trigger WHERE tgname ~ '^peersync_'"
    )
    return {row["t"] for row in rows}


async def test_what_a_person_leaves_out_stays_so_until_it_is_taken_back(
    conn: asyncpg.Connection,
) -> None:
    await join_group(conn)
    assert await change(conn, "remove", "public.order?") == {"orders": "excluded"}
    assert await triggers(conn) == {'public."Order lines"'}
    await enrol(conn, ALL, lock_timeout_s=5)  # as the agent does every few seconds
    assert states(await view_tables(conn))["orders"] == "excluded"
    await conn.execute("INSERT INTO public.orders VALUES (1)")
    assert await captured(conn, "orders") == []
    assert await change(conn, "add", "orders") == {"orders": "captured"}
    await conn.execute("INSERT INTO public.orders VALUES (2)")
    assert await captured(conn, "orders") == [("I", "(2)")]


async def test_the_configuration_is_the_outer_bound(conn: asyncpg.Connection) -> None:
    await join_group(conn)
    bound = Patterns(["*"], ["orders"])
    assert (await change(conn, "refresh", patterns=bound))["orders"] == "excluded"
    with pytest.raises(BadRequest, match="configuration leaves public\\.orders out"):
        await change(conn, "add", "orders", patterns=bound)


async def test_reasons_and_what_waits_are_listed(conn: asyncpg.Connection) -> None:
    await join_group(conn)
    await put_quarantined(conn, "orders", "I", "(9)", "(9)", position=3)
    listed = {one.table: one for one in await view_tables(conn)}
    assert (listed["orders"].state, listed["orders"].waiting) == ("captured", 1)
    assert listed["scratch"].state == "excluded"
    assert "unlogged" in str(listed["scratch"].reason)


async def test_a_new_table_is_seen_by_a_refresh(conn: asyncpg.Connection) -> None:
    await join_group(conn)
    await conn.execute("CREATE TABLE public.later (id int PRIMARY KEY)")
    assert (await change(conn, "refresh"))["later"] == "captured"


async def test_without_a_group_nothing_is_captured(conn: asyncpg.Connection) -> None:
    with pytest.raises(BadRequest, match="no periodic sync"):
        await change(conn, "refresh")
    assert await triggers(conn) == set()
