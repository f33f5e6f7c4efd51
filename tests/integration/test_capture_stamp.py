"""The cheap look at the catalog: whatever changes how a table is captured changes it, too."""

from __future__ import annotations

import asyncpg
import pytest

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from tests.plugins.clusters import Database, MakeDatabase

SCENE = """
CREATE TYPE mood AS ENUM ('ok', 'sad');
CREATE DOMAIN code AS text;
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, name text, mood mood, tags text[]);
CREATE UNIQUE INDEX second ON t (n);
CREATE TABLE child (id int PRIMARY KEY, t_id int);
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
"""
CHANGES = (
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE t RENAME COLUMN name TO label",
    "ALTER TABLE t ADD COLUMN extra text",
    "ALTER TABLE t DROP COLUMN name",
    "ALTER TABLE t ALTER COLUMN id TYPE bigint",
    "ALTER TABLE t ALTER COLUMN name TYPE varchar(20)",
    "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER n DROP NOT NULL",
    "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
    "ALTER TYPE mood RENAME TO feeling",
    "CREATE SCHEMA far; ALTER TABLE t SET SCHEMA far",
    "ALTER SCHEMA public RENAME TO main",
    "CREATE TRIGGER own AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nothing()",
    "CREATE RULE quiet AS ON DELETE TO t DO ALSO NOTHING",
    "ALTER TABLE child ADD FOREIGN KEY (t_id) REFERENCES t ON DELETE CASCADE",
    "ALTER TABLE child ADD FOREIGN KEY (t_id) REFERENCES t ON UPDATE SET NULL",
    "ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES other ON UPDATE CASCADE",
    "CREATE TABLE heir () INHERITS (t)",
    "ALTER TABLE parts RENAME TO pieces",
    "ALTER TABLE parts DETACH PARTITION part_1",
    "ALTER TABLE part_1 RENAME TO part_one",
)
STAMPS = """
SELECT c.oid::int, peersync.facts_stamp(peersync.capture_facts(c.oid), c.oid),
       peersync.quick_stamp(c.oid, coalesce(pg_partition_root(c.oid)::oid, c.oid))
  FROM unnest($1::oid[]) AS o JOIN pg_class AS c ON c.oid = o
"""


@pytest.fixture(params=[15, 18])
def database(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    return make_database(request.param)


async def stamps(conn: asyncpg.Connection, *tables: int) -> dict[int, tuple[int, str | None]]:
    return {row[0]: (row[1], row[2]) for row in await conn.fetch(STAMPS, tables)}


async def oid_of(conn: asyncpg.Connection, name: str) -> int:
    return int(await conn.fetchval("SELECT to_regclass($1)::oid::bigint", f"public.{name}"))


async def test_what_changes_a_capture_is_seen_by_the_cheap_look(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(SCENE)
    await enrol(agent, Patterns(["public.*"]), lock_timeout_s=5)
    tables = [await oid_of(app, name) for name in ("t", "parts", "part_1", "child")]
    before = await stamps(app, *tables)
    assert all(quick is not None for _, quick in before.values())
    for change in CHANGES:
        moved = app.transaction()
        await moved.start()
        await app.execute(change)
        after = await stamps(app, *tables)
        await moved.rollback()
        differing = {oid for oid in tables if before[oid][0] != after[oid][0]}
        assert differing, change
        for oid in differing:
            assert after[oid][1] != before[oid][1], change
    assert await stamps(app, *tables) == before


async def test_types_that_can_change_unseen_are_never_looked_at_cheaply(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(
        "CREATE TYPE pair AS (a int, b text);"
        "CREATE TABLE made (id int PRIMARY KEY, p pair);"
        "CREATE TABLE many (id int PRIMARY KEY, p pair[])"
    )
    await enrol(agent, Patterns(["public.*"]), lock_timeout_s=5)
    for name in ("made", "many"):
        oid = await oid_of(agent, name)
        assert (await stamps(agent, oid))[oid][1] is None
    await app.execute("INSERT INTO made VALUES (1, '(1,x)')")
    await app.execute("ALTER TYPE pair ADD ATTRIBUTE c date")
    await app.execute("SET datestyle = 'German, DMY'; UPDATE made SET p = '(1,x,1.2.2020)'")
    last = "SELECT image FROM peersync.change ORDER BY id DESC LIMIT 1"
    assert await agent.fetchval(last) == '(1,"(1,x,2020-02-01)")'
