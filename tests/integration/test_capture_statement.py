"""Capture where one statement of the client changes a row more than once, by many ways.

A trigger of another table, a function, a second part of the statement: the log's last entry of
a row is the row as the statement left it, in whatever order the triggers fired.
"""

from __future__ import annotations

import asyncpg
import pytest

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from tests.integration.log_rig import Connect

BOTH = pytest.mark.parametrize("database", [15, 18], indirect=True)

ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, state text, total int NOT NULL DEFAULT 0);
CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders, price int);
CREATE FUNCTION add_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    UPDATE orders SET total = total + NEW.price WHERE id = NEW.order_id; RETURN NULL; END $$;
CREATE TRIGGER add_up AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION add_up();
"""
ORDER_WITH_LINES = """
WITH o AS (INSERT INTO orders (id) VALUES ({0}) RETURNING id)
INSERT INTO lines SELECT {0}, o.id, 42 FROM o
"""
FUNCTIONS = """
CREATE TABLE t (id int PRIMARY KEY, v int, n int DEFAULT 0);
CREATE FUNCTION bump(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    UPDATE t SET n = n + 1 WHERE id = i - 1; RETURN i; END $$;
CREATE FUNCTION bump_in_vain(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    UPDATE t SET n = n + 1 WHERE id = i - 1; RAISE EXCEPTION 'no';
    EXCEPTION WHEN raise_exception THEN RETURN i; END $$;
CREATE FUNCTION drop_it(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    DELETE FROM t WHERE id = i - 1; RETURN i; END $$;
CREATE FUNCTION renew(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO t VALUES (i - 1, 100) ON CONFLICT (id) DO UPDATE SET v = 101; RETURN i; END $$;
"""
PARENTS = """
CREATE TABLE p (id int PRIMARY KEY, v text);
CREATE TABLE c (p int REFERENCES p ON UPDATE CASCADE ON DELETE CASCADE, n int, v text,
    PRIMARY KEY (p, n));
CREATE TABLE d (id int PRIMARY KEY, p int REFERENCES p ON UPDATE CASCADE ON DELETE SET NULL);
INSERT INTO p SELECT n FROM generate_series(1, 9) AS n;
"""


async def take(agent: asyncpg.Connection, left_out: str = "nothing") -> None:
    states = await enrol(agent, Patterns(["*"], [left_out]), lock_timeout_s=5)
    assert {s.state for s in states if s.name.name != left_out} == {"captured"}


async def same(agent: asyncpg.Connection, *tables: str) -> None:
    """The last entries of each table's keys are its rows; capture saw each row be born."""
    for table in tables:
        last = await agent.fetch(
            "SELECT DISTINCT ON (c.key) c.op::text, c.image FROM peersync.change AS c "
            "JOIN peersync.shape AS s USING (shape) WHERE s.table_name = $1 "
            "ORDER BY c.key, c.id DESC",
            table,
        )
        there = await agent.fetch(f"SELECT t::text AS r FROM public.{table} AS t")
        logged = sorted(image for op, image in last if op != "D")
        assert logged == sorted(row["r"] for row in there), table


KEYS = """
CREATE TABLE whole (gone text, id int PRIMARY KEY, v text, tags text[]);
CREATE TABLE words (id text PRIMARY KEY, v text, gone int, tags text[]);
CREATE TABLE pairs (a int, gone int, b uuid, v text, PRIMARY KEY (a, b));
CREATE TABLE parts (id numeric PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part (gone int, v text, id numeric NOT NULL);
CREATE TABLE bag (gone int, id int, v text);
ALTER TABLE whole DROP gone; ALTER TABLE words DROP gone; ALTER TABLE pairs DROP gone;
ALTER TABLE part DROP gone; ALTER TABLE bag DROP gone;
ALTER TABLE parts ATTACH PARTITION part DEFAULT;
INSERT INTO whole SELECT n, 'a' FROM generate_series(1, 5) AS n;
INSERT INTO words SELECT 'key ' || n, 'a' FROM generate_series(1, 5) AS n;
INSERT INTO pairs SELECT n, lpad('', 32, '0')::uuid, 'a' FROM generate_series(1, 5) AS n;
INSERT INTO parts SELECT n, 'a' FROM generate_series(1, 5) AS n;
INSERT INTO bag SELECT n, 'a' FROM generate_series(1, 5) AS n;
"""
# what is changed of each table, and what is logged for it
MOVES = (
    ("SET v = 'b' WHERE {0} = {1}", "U"),
    ("SET v = 'c' WHERE {0} = {1} AND v = 'not there'", ""),
    ("SET {0} = {2}, v = 'd' WHERE {0} = {1}", "DU"),
    ("SET v = 'e'", "UUUUU"),
)


# --- a row that keeps its key ---------------------------------------------------------------
@BOTH
async def test_an_update_is_one_entry_a_row_and_one_for_a_key_that_it_left(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(KEYS)
    await take(agent)
    columns = {"whole": "id", "words": "id", "pairs": "a", "parts": "id"}
    for table, column in columns.items():
        first, other = ("'key 1'", "'key 9'") if table == "words" else ("1", "9")
        for move, expected in MOVES:
            await agent.execute("DELETE FROM peersync.change")
            await app.execute(f"UPDATE {table} {move.format(column, first, other)}")
            log = await agent.fetch("SELECT op::text, image FROM peersync.change ORDER BY id")
            assert "".join(row["op"] for row in log) == expected, (table, move)
            there = await app.fetch(f"SELECT t::text AS r FROM {table} AS t")
            assert {row["image"] for row in log} - {None} <= {row["r"] for row in there}
    await agent.execute("DELETE FROM peersync.change")
    await app.execute("UPDATE bag SET v = 'b' WHERE id = 1")
    log = await agent.fetch("SELECT op::text || image AS r FROM peersync.change ORDER BY id")
    assert [row["r"] for row in log] == ["D(1,a)", "I(1,b)"]


# --- another table's trigger ----------------------------------------------------------------
@BOTH
async def test_an_order_and_its_lines_in_one_statement_keep_the_sum_a_trigger_made(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(ORDERS)
    await take(agent)
    await app.execute(ORDER_WITH_LINES.format(1))
    await same(agent, "orders", "lines")
    await app.execute(
        "WITH o AS (UPDATE orders SET state = 'open' WHERE id = 1 RETURNING id) "
        "INSERT INTO lines SELECT 2, o.id, 8 FROM o"
    )
    await same(agent, "orders", "lines")
    assert await app.fetchval("SELECT orders::text FROM orders") == "(1,open,50)"


@BOTH
async def test_an_order_with_lines_later_in_a_transaction_and_after_a_savepoint(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(ORDERS)
    await take(agent)
    for n, isolation in enumerate(("read_committed", "repeatable_read", "serializable")):
        async with app.transaction(isolation=isolation):
            await app.execute(ORDER_WITH_LINES.format(10 * n))
            await app.execute("SAVEPOINT s")
            await app.execute(ORDER_WITH_LINES.format(10 * n + 1))
            await app.execute("ROLLBACK TO s")
            await app.execute(ORDER_WITH_LINES.format(10 * n + 2))
    await app.execute(f"BEGIN; {ORDER_WITH_LINES.format(50)}; {ORDER_WITH_LINES.format(51)}; END")
    await app.execute(
        f"DO $do$ BEGIN {ORDER_WITH_LINES.format(60)}; COMMIT;"
        f"{ORDER_WITH_LINES.format(61)}; {ORDER_WITH_LINES.format(62)}; END $do$"
    )
    await same(agent, "orders", "lines")
    assert await app.fetchval("SELECT array_agg(DISTINCT total) FROM orders") == [42]


@BOTH
async def test_the_session_s_way_to_write_times_does_not_matter(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """A trigger changes the settings after the row was written, before it is logged."""
    await app.execute(
        ORDERS + "ALTER TABLE orders ADD at timestamptz DEFAULT now(), ADD f float8;"
        "CREATE FUNCTION zone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL DateStyle = 'German';"
        "SET LOCAL extra_float_digits = -10; RETURN NEW; END $$;"
        "CREATE TRIGGER a_zone BEFORE INSERT ON lines FOR EACH ROW "
        "EXECUTE FUNCTION zone();"
    )
    await take(agent)
    await app.execute(ORDER_WITH_LINES.format(1))
    await app.execute("RESET ALL; SET TimeZone = 'UTC'")
    images = await agent.fetch(
        "SELECT image FROM peersync.change WHERE key = '(1)' AND image LIKE '(1,,%' ORDER BY id"
    )
    assert [row["image"].split(",")[2] for row in images][-1] == "42"


# --- several parts of one statement ---------------------------------------------------------
PARTS = [
    "WITH d AS (DELETE FROM t WHERE id = 1 RETURNING *) "
    "INSERT INTO t SELECT id, 9 FROM d LIMIT 1",
    "WITH d AS (DELETE FROM t WHERE id < 3 RETURNING *) INSERT INTO t SELECT id, 9 FROM d",
    "WITH i AS (INSERT INTO t VALUES (7, 7) RETURNING id), u AS (UPDATE t SET v = 5 WHERE id = 2) "
    "DELETE FROM t WHERE id = 3",
    "WITH d AS (DELETE FROM t WHERE id = 1 RETURNING *), i AS (INSERT INTO t SELECT id, 8 FROM d) "
    "UPDATE t SET id = 10 WHERE id = 2",
]  # fmt: skip


@BOTH
async def test_a_row_deleted_and_inserted_by_one_statement_is_there(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    await take(agent)
    for part in PARTS:
        await app.execute("DELETE FROM t; INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
        await app.execute(part)
        await same(agent, "t")


# --- functions ------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("function", ["bump", "bump_in_vain", "drop_it", "renew"])
async def test_a_function_that_changes_the_table_inside_the_statement_is_logged_last(
    agent: asyncpg.Connection, app: asyncpg.Connection, function: str
) -> None:
    await app.execute(FUNCTIONS)
    await take(agent)
    await app.execute(f"INSERT INTO t SELECT g, {function}(g) FROM generate_series(1, 4) AS g")
    await same(agent, "t")
    await app.execute(
        "INSERT INTO t SELECT g, 0 FROM generate_series(1, 4) AS g ON CONFLICT DO NOTHING"
    )
    await app.execute("BEGIN; UPDATE t SET v = 1 WHERE id = 4; COMMIT")
    await app.execute(f"UPDATE t SET v = {function}(id)")
    await same(agent, "t")
    await app.execute(f"DELETE FROM t WHERE {function}(id) = 2")
    await same(agent, "t")
    await app.execute(
        f"SELECT {function}(3); INSERT INTO t VALUES (3, 3), (20, {function}(4)) "
        f"ON CONFLICT (id) DO UPDATE SET v = {function}(3), n = 7"
    )
    await same(agent, "t")


# --- foreign keys that act ------------------------------------------------------------------
CASCADES = [
    "WITH u AS (UPDATE c SET p = 2 WHERE p = 1) UPDATE p SET id = 30 WHERE id = 2",
    "WITH u AS (UPDATE c SET v = 'x' WHERE p = 1) UPDATE p SET id = 31 WHERE id = 1",
    "WITH i AS (INSERT INTO c VALUES (3, 30, 'new')) UPDATE p SET id = 33 WHERE id = 3",
    "WITH i AS (INSERT INTO c VALUES (4, 30, 'new')), j AS (INSERT INTO d VALUES (9, 4)) "
    "DELETE FROM p WHERE id = 4",
    "WITH u AS (UPDATE d SET p = 6, id = id + 10) UPDATE p SET id = 36 WHERE id = 6",
    "WITH u AS (UPDATE d SET p = 7, id = id + 10) DELETE FROM p WHERE id = 7",
    "WITH u AS (UPDATE p SET id = 99 WHERE id = 5) UPDATE c SET v = 'y', n = 9 WHERE p = 5",
    "WITH u AS (DELETE FROM p WHERE id = 99) UPDATE c SET v = 'y', n = n + 100",
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("left_out", ["nothing", "p"])
async def test_a_foreign_key_s_action_and_a_change_of_the_same_row_in_one_statement(
    agent: asyncpg.Connection, app: asyncpg.Connection, left_out: str
) -> None:
    await app.execute(PARENTS)
    await take(agent, left_out)
    await app.execute("INSERT INTO c SELECT n, n, 'v' FROM generate_series(1, 7) AS n")
    await app.execute("INSERT INTO d SELECT n, n FROM generate_series(1, 3) AS n")
    for cascade in CASCADES:
        await app.execute(cascade)
        await same(agent, "c", "d")


# --- what stays cheap -----------------------------------------------------------------------
@BOTH
async def test_serializable_statements_of_one_transaction_still_do_not_fail(
    agent: asyncpg.Connection, app: asyncpg.Connection, connect: Connect
) -> None:
    """Each statement of the client logs its rows without reading them back."""
    await app.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text)"
    )
    await take(agent)
    other = await connect()
    for n in range(5):
        first = app.transaction(isolation="serializable")
        second = other.transaction(isolation="serializable")
        await first.start()
        await second.start()
        for step, table in enumerate(("t", "u", "t")):
            for mine, conn in enumerate((app, other)):
                await conn.execute(
                    f"INSERT INTO {table} VALUES ($1, 'a')", 10 * n + 2 * step + mine
                )
        await first.commit()
        await second.commit()
    await same(agent, "t", "u")


@BOTH
async def test_keys_of_a_deferrable_key_that_are_swapped_one_after_the_other(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    """For a moment two rows have one key; the log keeps the one that is left with it."""
    await app.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    for swap in (
        ("UPDATE t SET id = 2 WHERE id = 1", "UPDATE t SET id = 1 WHERE v = 'b'"),
        ("INSERT INTO t VALUES (2, 'c')", "DELETE FROM t WHERE v = 'a'"),
        (
            "INSERT INTO t VALUES (2, 'd')",
            "UPDATE t SET v = v || id",
            "DELETE FROM t WHERE v = 'c2'",
        ),
    ):
        async with app.transaction():
            for statement in swap:
                await app.execute(statement)
        await same(agent, "t")
