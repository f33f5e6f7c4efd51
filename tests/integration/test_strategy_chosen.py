"""What `tables strategy` takes, what it refuses and why, and what it changes in the capture."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from peersync.core.errors import BadRequest
from peersync.postgres.log.chosen import TableView, change_tables
from tests.integration.operators_rig import ALL, connect, join_group, tbl_of
from tests.plugins.clusters import Database

TABLES = """
CREATE DOMAIN public.amount AS numeric(12,2);
CREATE TABLE public.stock (
    id int PRIMARY KEY, name text, n int, total numeric(10,2), weight float8, owed public.amount,
    twice int GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE public.heap (n int);
CREATE FUNCTION public.merge(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT $1 -> 0';
CREATE FUNCTION public.merge_now(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1 -> 0';
CREATE FUNCTION public.other(text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT NULL::jsonb'
"""


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[asyncpg.Connection]:
    opened = await connect(database)
    try:
        await opened.execute(TABLES)
        await join_group(opened)
        yield opened
    finally:
        await opened.close()


async def choose(
    conn: asyncpg.Connection, strategy: str | None, pattern: str = "public.stock"
) -> TableView:
    (one,) = await change_tables(conn, ALL, "strategy", pattern=pattern, strategy=strategy)
    return one


async def test_every_form_is_taken(conn: asyncpg.Connection) -> None:
    for strategy in (
        "manual",
        "merge_columns",
        "delta:n",
        "delta:n,total",
        "origin_priority:server-a=2,7000007=1",
        "function:public.merge",
        "newer_wins",
    ):
        assert (await choose(conn, strategy)).strategy == strategy
    assert (await choose(conn, "manual", "heap")).strategy == "manual"


async def test_what_does_not_fit_is_refused_with_the_reason(conn: asyncpg.Connection) -> None:
    for strategy, reason in (
        (None, "is no strategy"),
        ("source_wins", "is no strategy"),
        ("merge_columns:n", "is no strategy"),
        ("delta:", "is no strategy"),
        ("delta:n,n", "named twice"),
        ("delta:m", "no column 'm'"),
        ("delta:name", "of type text"),
        ("delta:weight", "of type double precision"),
        ("delta:owed", "of type public.amount"),
        ("delta:id", "part of the key"),
        ("delta:twice", "generated"),
        ("origin_priority:server-z=1", "no node .* server-z"),
        ("origin_priority:server-a", "how high"),
        ("origin_priority:server-a=-1", "how high"),
        ("origin_priority:server-a=1,server-a=2", "how high"),
        ("function:public.none", "no function"),
        ("function:public.other", "no function"),
        ("function:public.merge_now", "IMMUTABLE"),
    ):
        with pytest.raises(BadRequest, match=reason):
            await choose(conn, strategy)
    with pytest.raises(BadRequest, match="no key"):
        await choose(conn, "merge_columns", "heap")
    kept = "SELECT DISTINCT strategy FROM peersync.synced_table"
    assert await conn.fetchval(kept) == "newer_wins"


async def test_old_rows_are_caught_only_where_they_are_needed(conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO public.stock (id, n) VALUES (1, 1)")
    olds = []
    for strategy in ("newer_wins", "delta:n", "origin_priority:server-a=1", "merge_columns"):
        await choose(conn, strategy)
        await conn.execute("UPDATE public.stock SET n = n + 1")
        sql = "SELECT old FROM peersync.change WHERE tbl = $1 ORDER BY id DESC LIMIT 1"
        olds.append(await conn.fetchval(sql, await tbl_of(conn, "stock")))
    assert olds == [None, "(1,,2,,,,4)", None, "(1,,4,,,,8)"]
