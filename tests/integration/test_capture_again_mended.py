"""Capture of tables that are made anew, that become ordinary ones, and of odd sessions."""

from __future__ import annotations

import asyncpg
import pytest

from peersync.agent.member_checks import check_member
from peersync.config.model import Config
from peersync.core.patterns import Patterns
from peersync.postgres.conninfo import resolve
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import found, read_replica
from peersync.postgres.pool import Database
from tests.integration.capture_rig import take
from tests.integration.log_rig import Connect
from tests.plugins import clusters

BOTH = pytest.mark.parametrize("database", [15, 18], indirect=True)
LOG = "SELECT op::text, image FROM peersync.change ORDER BY id"


@pytest.fixture
async def agent(agent: asyncpg.Connection) -> asyncpg.Connection:
    """Of an active member."""
    await found(agent, "a" * 32, "alpha")
    return agent


async def log(agent: asyncpg.Connection) -> list[tuple[str, str | None]]:
    return [tuple(row) for row in await agent.fetch(LOG)]


@BOTH
@pytest.mark.parametrize(
    "ddl",
    ["DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY)",
     "ALTER TABLE t RENAME TO t_old; CREATE TABLE t (id int PRIMARY KEY)"],
    ids=["dropped", "renamed"],
)  # fmt: skip
async def test_where_all_captured_tables_are_made_again_their_rows_are_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection, ddl: str
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await take(agent)
    async with app.transaction():
        await app.execute(f"{ddl}; CREATE TABLE u (id int); INSERT INTO u VALUES (8)")
        await app.execute("INSERT INTO t VALUES (7)")
    states = await take(agent)
    assert (states["t"].state, states["u"].state) == ("captured", "captured")
    assert await log(agent) == [("I", "(7)"), ("I", "(8)")]


@BOTH
async def test_rows_that_a_restored_dump_has_are_not_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (id int)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1); INSERT INTO busy VALUES (1)")
    await agent.execute("DELETE FROM peersync.change")
    for oid in await agent.fetch("SELECT relation::int FROM peersync.synced_table"):
        await agent.execute(f"DROP FUNCTION peersync.capture_{oid[0]} CASCADE")
    await agent.execute("UPDATE peersync.synced_table SET relation = tbl, home = '1/2'")
    async with app.transaction():  # one that is tried again belongs to the dump as well
        await app.execute("LOCK TABLE busy")
        await enrol(agent, Patterns(["*"]), lock_timeout_s=0.1)
    assert {state.state for state in (await take(agent)).values()} == {"captured"}
    assert await log(agent) == []
    await app.execute("CREATE TABLE new (id int); INSERT INTO new VALUES (2)")
    await take(agent)
    assert await log(agent) == [("I", "(2)")]


@BOTH
async def test_rows_that_were_loaded_into_an_unlogged_table_are_logged_when_it_is_an_ordinary_one(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE UNLOGGED TABLE load (id int PRIMARY KEY)")
    assert (await take(agent))["load"].state == "excluded"
    await app.execute("INSERT INTO load VALUES (1), (2)")
    await take(agent)
    await app.execute("ALTER TABLE load SET LOGGED")
    assert (await take(agent))["load"].state == "captured"
    assert await log(agent) == [("I", "(1)"), ("I", "(2)")]
    await app.execute("ALTER TABLE load SET UNLOGGED")
    await take(agent)
    await app.execute("ALTER TABLE load SET LOGGED")
    await take(agent)
    assert len(await log(agent)) == 2  # the others have them


@BOTH
async def test_names_are_the_same_from_a_session_that_quotes_them_all(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    await app.execute(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE s (id int PRIMARY KEY, m mood, c regclass)"
    )
    shape = (await take(agent))["s"].shape
    other = await connect(quote_all_identifiers="on")
    for conn in (other, app):
        await conn.execute("INSERT INTO s SELECT count(*), 'sad', 's' FROM s")
        await conn.execute("UPDATE s SET m = 'sad'")  # also before the function is made anew
        await app.execute("ALTER TABLE s ALTER c SET NOT NULL")
    logged = await agent.fetch("SELECT DISTINCT shape, image FROM peersync.change")
    assert {row["shape"] for row in logged} == {shape}
    assert {row["image"] for row in logged} == {"(0,sad,public.s)", "(1,sad,public.s)"}


async def test_a_captured_table_without_a_key_is_named_by_the_check(
    database: clusters.Database, agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    replica = await read_replica(agent)
    assert replica is not None
    shop = Database("shop", resolve(database.conninfo()))
    name = "keys of the tables of shop"

    async def check() -> tuple[str, str, str | None]:
        results = await check_member(shop, replica, Config())
        return next((r.state, r.text, r.fix) for r in results if r.name == name)

    try:
        await app.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await take(agent)
        assert (await check())[0] == "ok"
        await app.execute("CREATE TABLE bag (v text)")
        await take(agent)
        state, text, fix = await check()
        assert (state, text[:18]) == ("warning", "public.bag: no key")
        assert fix == 'ALTER TABLE "public"."bag" ADD PRIMARY KEY (…);   -- on every node'
    finally:
        await shop.close()


async def test_a_row_that_refers_to_nothing_is_named_by_the_check(
    database: clusters.Database, agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """What is left where one node deletes a row, and another makes one that refers to it."""
    replica = await read_replica(agent)
    assert replica is not None
    shop = Database("shop", resolve(database.conninfo()))
    await app.execute(
        """CREATE TABLE customer (id int PRIMARY KEY, name text);
        CREATE TABLE "Order" (id int, of int REFERENCES customer, at int, PRIMARY KEY (id, at))
         PARTITION BY RANGE (at);
        CREATE TABLE "Order 1" PARTITION OF "Order" DEFAULT;
        INSERT INTO customer VALUES (1, 'a'), (2, 'b');
        INSERT INTO "Order" VALUES (1, 1, 1), (2, 2, 1), (3, NULL, 1)"""
    )
    await take(agent)

    async def check() -> tuple[str, str, str | None]:
        results = await check_member(shop, replica, Config())
        return next((r.state, r.text, r.fix) for r in results if r.name == "foreign keys of shop")

    try:
        assert await check() == ("ok", "1 key, every row refers to one that is here", None)
        async with app.transaction():
            await app.execute("SET LOCAL session_replication_role = replica")
            await app.execute("DELETE FROM customer WHERE id = 2")
        state, text, fix = await check()
        assert state == "warning"
        assert text.startswith("1 row of public.Order 1 refers to no row of public.customer (")
        assert fix is not None
        assert [row["id"] for row in await agent.fetch(fix.splitlines()[0])] == [2]
    finally:
        await shop.close()
