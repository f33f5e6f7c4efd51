"""Capture: what users do to a table is in the log, statement by statement."""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest

from tests.integration.capture_rig import EACH, EACH_ID, chosen, same, take
from tests.plugins.clusters import Database, MakeDatabase


@pytest.fixture(params=EACH, ids=EACH_ID)
def database(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    return chosen(request, make_database)


STATEMENTS = """
INSERT INTO t SELECT n, 'v' || n, n FROM generate_series(1, 20) AS n;
UPDATE t SET v = 'q"\\, (' WHERE id % 3 = 0;
UPDATE t SET v = NULL WHERE id = 4;
DELETE FROM t WHERE id > 15;
INSERT INTO t VALUES (1, 'again', 1), (30, 'new', 0) ON CONFLICT (id) DO UPDATE SET v = 'merged';
INSERT INTO t VALUES (2, 'no', 1) ON CONFLICT DO NOTHING;
MERGE INTO t USING (VALUES (3, 'm'), (40, 'i'), (5, 'd')) AS s (id, v) ON t.id = s.id
 WHEN MATCHED AND s.v = 'd' THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v
 WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v, 0);
WITH gone AS (DELETE FROM t WHERE id = 6 RETURNING *), up AS (UPDATE t SET n = 99 WHERE id = 7)
INSERT INTO t SELECT id + 100, v, n FROM gone;
UPDATE t SET id = id + 1000 WHERE id BETWEEN 8 AND 10;
BEGIN; INSERT INTO t VALUES (50); SAVEPOINT s; INSERT INTO t VALUES (51);
DELETE FROM t WHERE id = 7; ROLLBACK TO s; INSERT INTO t VALUES (52); COMMIT;
BEGIN; DELETE FROM t; ROLLBACK;
"""


async def test_every_way_to_write_a_row_is_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n int)")
    await take(agent)
    await app.execute(STATEMENTS)
    await app.copy_records_to_table("t", records=[(60, "copied", 1), (61, None, 2)])
    assert len(await same(agent)) > 15
    await app.execute("TRUNCATE t RESTART IDENTITY; INSERT INTO t VALUES (1)")
    assert await same(agent) == Counter({"(1,,)": 1})


async def test_one_row_that_takes_another_key_leaves_its_old_one(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (a numeric, b text, v int, PRIMARY KEY (a, b))")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1.0, 'x', 1), (2, 'y', 2), (3, 'z', 3)")
    for change in ("a = 1.00", "b = 'X'", "v = 7", "a = 10, v = 8", "a = a"):
        await app.execute(f"UPDATE t SET {change} WHERE v IN (1, 7)")
        assert len(await same(agent)) == 3
    await app.execute("UPDATE t SET v = 9 WHERE a = 99")  # none
    await app.execute("UPDATE t SET a = 5 - a WHERE a IN (2, 3) AND b = 'y'")
    assert len(await same(agent)) == 3


async def test_a_shift_of_keys_keeps_every_row(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, v text)")
    await take(agent)
    await app.execute("INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 9) AS n")
    await app.execute("UPDATE t SET id = id + 1")
    await app.execute("UPDATE t SET id = 12 - id")
    assert len(await same(agent)) == 9


async def test_equal_keys_of_different_texts_are_told_apart(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id numeric PRIMARY KEY, v text)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1.0, 'a'); UPDATE t SET id = 1.000")
    assert await same(agent) == Counter({"(1.000,a)": 1})


async def test_a_row_trigger_that_updates_the_same_row_wins(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """Its statement is logged before the outer one, whose transition table has the older row."""
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0);
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.n < 3 THEN UPDATE t SET n = n + 1, v = v || 'x' WHERE id = NEW.id; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER a_again AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION again();
        CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF OLD.id = 7 AND NOT EXISTS (SELECT FROM t WHERE id = 7) THEN
                INSERT INTO t VALUES (7, 'is back', 9); END IF; RETURN NULL; END $$;
        CREATE TRIGGER z_back AFTER DELETE OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION back();
    """)
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'), (7, 'b'); UPDATE t SET v = 'c' WHERE id = 1")
    await app.execute("DELETE FROM t WHERE id = 7; UPDATE t SET id = 8, n = 9 WHERE id = 7")
    assert '(7,"is back",9)' in await same(agent)


async def test_cascades_and_truncate_cascade_are_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t ON DELETE CASCADE
            ON UPDATE CASCADE);
        CREATE TABLE kept (id int PRIMARY KEY, t int REFERENCES t ON DELETE SET NULL);
        CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self ON DELETE CASCADE
            ON UPDATE CASCADE);
    """)
    await take(agent)
    await app.execute("""
        INSERT INTO t VALUES (1), (2), (3); INSERT INTO child VALUES (1, 1), (2, 2), (3, 3);
        INSERT INTO kept VALUES (1, 1); INSERT INTO self VALUES (1, 1), (2, 1), (3, 2);
        DELETE FROM t WHERE id = 1; UPDATE t SET id = 20 WHERE id = 2;
        UPDATE self SET id = 9 WHERE id = 1
    """)
    for name in ("t", "child", "kept", "self"):
        assert await same(agent, name)
    await app.execute("TRUNCATE t CASCADE; DELETE FROM self WHERE id = 9")
    for name in ("t", "child", "kept", "self"):
        assert not await same(agent, name)


async def test_a_prepared_transaction_can_be_prepared_also_when_the_agent_sleeps(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await take(agent)
    if await app.fetchval("SHOW max_prepared_transactions") == "0":
        source = await agent.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'wake'")
        assert "max_prepared_transactions" in source  # the tests' servers can't prepare any
        return
    await agent.execute("SELECT pg_advisory_lock(x'70737963'::int, hashtext('awake'))")
    await app.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")
    await app.execute("COMMIT PREPARED 'p'")
    await same(agent)
