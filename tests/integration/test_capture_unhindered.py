"""Capture hinders nobody: altered tables, rights, settings, and an agent that sleeps."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

from tests.integration.capture_rig import EACH, EACH_ID, chosen, replay, same, take
from tests.integration.log_rig import Connect
from tests.plugins.clusters import Database, MakeDatabase


@pytest.fixture(params=EACH, ids=EACH_ID)
def database(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    return chosen(request, make_database)


ALTERED = [
    "ALTER TABLE t RENAME COLUMN id TO key",
    "ALTER TABLE t RENAME COLUMN v TO w",
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE t DROP COLUMN id",
    "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (n)",
    "ALTER TABLE t DROP COLUMN v",
    "ALTER TABLE t ADD COLUMN extra timestamptz DEFAULT now()",
    "ALTER TABLE t ALTER id TYPE text USING id::text",
    "ALTER TABLE t ALTER n TYPE float8",
    "ALTER SCHEMA public RENAME TO moved",
    "ALTER TABLE t SET SCHEMA other",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "ALTER TABLE t DROP COLUMN id, DROP COLUMN v, DROP COLUMN n",
]
NEW_TABLE = """
CREATE TABLE t (id int PRIMARY KEY, v text, n int NOT NULL);
CREATE POLICY p ON t USING (true) WITH CHECK (true)
"""


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
async def test_a_session_with_warm_plans_goes_on_after_the_table_was_altered(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect, isolation: str
) -> None:
    other = await connect()
    await app.execute("CREATE SCHEMA other")
    for ddl in ALTERED:
        await app.execute(NEW_TABLE)
        await take(agent)
        for n in range(7):
            await app.execute(f"INSERT INTO t VALUES ({n}, 'v', {n}); UPDATE t SET v = v || 'x'")
            await app.execute(f"DELETE FROM t WHERE id = {n} AND id % 3 = 0")
        oid = await app.fetchval("SELECT 't'::regclass::oid")
        before = await agent.fetchval("SELECT max(id) FROM peersync.change")
        async with app.transaction(isolation=isolation):
            await app.fetchval("SELECT 1 FROM pg_class LIMIT 1")  # takes the snapshot
            await other.execute(ddl)
            name = await agent.fetchval("SELECT $1::oid::regclass::text", oid)
            deleted = await app.execute(
                f"DELETE FROM {name} WHERE ctid = (SELECT max(ctid) FROM {name})"
            )
            insert = f"INSERT INTO {name} SELECT * FROM jsonb_populate_record(NULL::{name}, $1)"
            await app.execute(insert, '{"id": 90, "key": 90, "n": 90}')
        log = await agent.fetch(
            "SELECT op::text, c.shape IN (SELECT shape FROM peersync.shape) AS ok "
            "FROM peersync.change AS c WHERE id > $1 ORDER BY id", before)  # fmt: skip
        assert len(log) == (2 if deleted == "DELETE 1" else 1), ddl
        if isolation == "read_committed" and ddl != ALTERED[-1]:
            assert [row["op"] for row in log] == ["D", "I"], ddl
            assert all(row["ok"] for row in log), ddl
        await app.execute(f"DROP TABLE {name}")
        if name.startswith("moved"):
            await app.execute("ALTER SCHEMA moved RENAME TO public")


async def test_row_security_and_missing_rights_of_the_user_do_not_hide_changes(
    database: Database, agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    database.cluster.createrole("visitor")
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v text);
        ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (v <> 'hidden') WITH CHECK (true);
        GRANT SELECT, INSERT, UPDATE, DELETE ON t TO visitor;
        GRANT USAGE ON SCHEMA public TO visitor;
    """)
    await take(agent)
    visitor = await connect("visitor")
    await visitor.execute("SET row_security = on; SET DateStyle = 'SQL, DMY'")
    await visitor.execute("INSERT INTO t VALUES (1, 'a'), (2, 'hidden')")
    await visitor.execute("UPDATE t SET v = 'b', id = 3 WHERE id = 1; DELETE FROM t WHERE id = 3")
    assert await replay(agent) == Counter({"(2,hidden)": 1})
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await visitor.fetch("SELECT * FROM peersync.change")


async def test_texts_do_not_depend_on_the_sessions_settings(
    agent: asyncpg.Connection, connect: Connect, app: asyncpg.Connection
) -> None:
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY, a timestamptz, b interval, c float8, d bytea, e date[],
                        f regclass, g tstzrange);
    """)
    await take(agent)
    odd = await connect(
        DateStyle="SQL, DMY", IntervalStyle="sql_standard", extra_float_digits="-3",
        bytea_output="escape", TimeZone="Asia/Kathmandu", search_path="public, pg_catalog",
    )  # fmt: skip
    row = (
        "'2024-02-03 04:05:06+00', '1 mon -2 days', 0.1234567890123456, '\\x00ff', "
        "'{2024-02-03}', 'public.t', '[2024-02-03 04:05+00,)'"
    )
    await odd.execute(f"INSERT INTO t VALUES (1, {row})")
    await same(agent)
    await odd.execute("ALTER TABLE t ADD COLUMN h timestamptz")
    await odd.execute(f"INSERT INTO t VALUES (2, {row}, '2024-02-03 04:05:06+00')")  # out of date
    assert await odd.fetchval("SELECT current_setting('DateStyle')") == "SQL, DMY"
    assert await odd.fetchval("SELECT current_setting('TimeZone')") == "Asia/Kathmandu"
    row = await agent.fetchval("SELECT t::text FROM public.t WHERE id = 2")
    assert row == await agent.fetchval("SELECT image FROM peersync.change ORDER BY id DESC LIMIT 1")


async def test_the_row_before_is_kept_only_where_the_strategy_needs_it(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'); UPDATE t SET v = 'c'")
    assert await agent.fetchval("SELECT count(old) FROM peersync.change") == 0
    await agent.execute("UPDATE peersync.synced_table SET strategy = 'merge_columns'")
    await take(agent)
    await app.execute(
        "UPDATE t SET v = 'd' WHERE id = 1; UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t"
    )
    log = await agent.fetch(
        "SELECT op::text, key, old FROM peersync.change WHERE id > 4 ORDER BY id, key"
    )
    assert Counter((r["op"], r["key"], r["old"]) for r in log) == Counter([
        ("U", "(1)", "(1,c)"), ("D", "(2)", "(2,c)"), ("U", "(3)", None),
        ("D", "(1)", "(1,d)"), ("D", "(3)", "(3,c)"),
    ])  # fmt: skip
    await same(agent)


async def test_applied_rows_are_not_logged(database: Database, agent: asyncpg.Connection) -> None:
    if database.user == "plain":
        database.psql("GRANT SET ON PARAMETER session_replication_role TO plain", user="postgres")
    await agent.execute("CREATE TABLE public.t (id int PRIMARY KEY)")
    await take(agent)
    await agent.execute("SET session_replication_role = replica; INSERT INTO public.t VALUES (1)")
    assert await agent.fetchval("SELECT count(*) FROM peersync.change") == 0


async def test_the_agent_is_told_only_when_it_sleeps(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await take(agent)
    heard: list[str] = []
    await agent.add_listener("peersync", lambda *args: heard.append(args[2]))
    lock = "SELECT {}(x'70737963'::int, hashtext('awake'))"
    await app.execute("INSERT INTO t VALUES (1)")
    await asyncio.sleep(0.2)
    assert not heard
    async with app.transaction():
        await app.execute("INSERT INTO t VALUES (2)")
        assert not await agent.fetchval(lock.format("pg_try_advisory_lock"))  # a writer is open
    assert await agent.fetchval(lock.format("pg_try_advisory_lock"))
    async with app.transaction():
        for n in range(3, 6):
            await app.execute("INSERT INTO t VALUES ($1)", n)
    await asyncio.sleep(0.2)
    assert len(heard) == 1
    await agent.execute(lock.format("pg_advisory_unlock"))
    await app.execute("INSERT INTO t VALUES (9)")
    await asyncio.sleep(0.2)
    assert len(heard) == 1
