"""Capture of tables of every shape: keys, partitions, children, odd names and columns."""

from __future__ import annotations

from collections import Counter

import asyncpg
import pytest

from peersync.core.names import quote_ident
from tests.integration.capture_rig import EACH, EACH_ID, chosen, replay, same, take
from tests.plugins.clusters import Database, MakeDatabase


@pytest.fixture(params=EACH, ids=EACH_ID)
def database(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Database:
    return chosen(request, make_database)


async def test_a_table_without_a_key_is_logged_row_by_row(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (a int, b text); CREATE UNIQUE INDEX ON t (a)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'), (NULL, 'b'), (NULL, 'b'), (NULL, NULL)")
    await app.execute("UPDATE t SET b = 'c' WHERE a = 1; DELETE FROM t WHERE b IS NULL")
    assert await same(agent) == Counter({"(1,c)": 1, "(,b)": 2})
    assert await agent.fetchval("SELECT count(*) FROM peersync.change WHERE key IS NOT NULL") == 0


@pytest.mark.parametrize(
    ("definition", "key"),
    [
        ("a int NOT NULL UNIQUE, b int", ["a"]),
        ("a int PRIMARY KEY, b int NOT NULL UNIQUE", ["a"]),
        ("a int UNIQUE, b int", []),
        ("a int NOT NULL UNIQUE DEFERRABLE, b int", []),
        ("a int NOT NULL, b int, EXCLUDE USING btree (a WITH =)", []),
        ("a int NOT NULL, b int NOT NULL, UNIQUE (b, a)", ["b", "a"]),
    ],
)
async def test_the_key_is_the_primary_key_or_else_a_unique_index_that_tells_every_row(
    agent: asyncpg.Connection, app: asyncpg.Connection, definition: str, key: list[str]
) -> None:
    await app.execute(f"CREATE TABLE t ({definition})")
    await app.execute(
        "CREATE UNIQUE INDEX ON t ((a + 1)); CREATE UNIQUE INDEX ON t (a) WHERE a > 0"
    )
    await take(agent)
    assert await agent.fetchval("SELECT key FROM peersync.shape WHERE table_name = 't'") == key
    await app.execute("INSERT INTO t VALUES (1, 1), (2, 2); UPDATE t SET a = 3, b = 3 WHERE a = 1")
    await same(agent)


PARTITIONED = """
CREATE TABLE t (id int, d int, v text, PRIMARY KEY (id, d)) PARTITION BY LIST (d);
CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
CREATE TABLE t2 (v text, gone int, d int NOT NULL, id int NOT NULL);
ALTER TABLE t2 DROP COLUMN gone; ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2);
CREATE TABLE t3 PARTITION OF t FOR VALUES IN (3, 4) PARTITION BY LIST (d);
CREATE TABLE t33 PARTITION OF t3 FOR VALUES IN (3);
CREATE TABLE t34 PARTITION OF t3 FOR VALUES IN (4);
"""


async def test_partitions_are_logged_as_their_root(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(PARTITIONED)
    states = await take(agent)
    assert list(states) == ["t"]
    await app.execute("""
        INSERT INTO t SELECT n, n % 4 + 1, 'v' FROM generate_series(1, 16) AS n;
        INSERT INTO t2 (id, d, v) VALUES (20, 2, 'direct'); UPDATE t2 SET v = 'z' WHERE id = 20;
        DELETE FROM t1 WHERE id = 4; UPDATE t SET d = d % 4 + 1 WHERE id < 9;
        UPDATE t3 SET d = 7 - d WHERE id = 10; UPDATE t33 SET id = id + 500;
        DELETE FROM t WHERE id = 12;
    """)
    assert len(await same(agent)) == 15
    await app.execute("TRUNCATE t3")
    assert 0 < len(await same(agent)) < 15
    await app.execute("TRUNCATE t2; INSERT INTO t34 VALUES (1, 4, 'late')")
    await same(agent)
    before = await agent.fetchval("SELECT count(*) FROM peersync.change")
    await app.execute("TRUNCATE t")
    assert not await same(agent)
    assert await agent.fetchval("SELECT count(*) FROM peersync.change") == before + 1


async def test_a_detached_partition_is_a_table_of_its_own_and_an_attached_one_is_not(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute(PARTITIONED)
    await take(agent)
    await app.execute("INSERT INTO t2 (id, d, v) VALUES (1, 2, 'a')")
    await app.execute("ALTER TABLE t DETACH PARTITION t2")
    await app.execute("INSERT INTO t2 (id, d, v) VALUES (2, 2, 'b')")  # before anybody looked
    assert await replay(agent, "t2") == Counter({"(b,2,2)": 1})
    assert "t2" in await take(agent)
    await app.execute("UPDATE t2 SET v = 'c' WHERE id = 2")
    assert await replay(agent, "t2") == Counter({"(c,2,2)": 1})
    await app.execute("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)")
    await app.execute("INSERT INTO t2 (id, d, v) VALUES (3, 2, 'd')")
    assert (await take(agent))["t2"].state == "gone"
    await app.execute("INSERT INTO t2 (id, d, v) VALUES (4, 2, 'e')")
    assert {"(3,2,d)", "(4,2,e)"} <= set(await replay(agent))


async def test_children_are_logged_under_their_own_name(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (t);
        CREATE TABLE bare (n int) INHERITS (t);
    """)
    await take(agent)
    await app.execute("""
        INSERT INTO t VALUES (1, 'a'), (2, 'b');
        INSERT INTO child VALUES (1, 'c', 'e'), (3, 'd', 'f');
        INSERT INTO bare VALUES (1, 'n', 1), (1, 'n', 1); UPDATE t SET v = v || '!' WHERE id = 1;
        UPDATE t SET id = id + 10 WHERE id <> 2; DELETE FROM t WHERE id = 13
    """)
    assert await same(agent) == Counter({"(11,a!)": 1, "(2,b)": 1})
    assert await same(agent, "child") == Counter({"(11,c!,e)": 1})
    assert await same(agent, "bare") == Counter({"(11,n!,1)": 2})
    await app.execute("TRUNCATE ONLY t")
    assert await same(agent, "child")
    assert not await same(agent)


async def test_a_child_added_to_a_captured_table_does_not_spoil_its_log(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    await app.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await take(agent)
    await app.execute("INSERT INTO t VALUES (1, 'a'); CREATE TABLE child () INHERITS (t)")
    await app.execute("INSERT INTO child VALUES (1, 'c'); UPDATE t SET v = v || '!'")
    await same(agent)
    await take(agent)
    await app.execute("INSERT INTO child VALUES (2, 'd'); UPDATE t SET v = v || '?'")
    await same(agent)


ODD = ['a "quoted"\n%name% %1$s', "Имя'таблицы", "n" * 63, "new", "old", "x", "t", "k1", "key"]


async def test_odd_names_and_many_columns_are_logged(
    agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    names = [quote_ident(name) for name in ODD]
    columns = ", ".join(f"{name} text" for name in names)
    for table in names:
        await app.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({names[0]}, {names[5]}))")
    wide = ", ".join(f"c{n} int DEFAULT {n}" for n in range(300))
    await app.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {wide})")
    await take(agent)
    for table, name in zip(names, ODD, strict=True):
        await app.execute(f"INSERT INTO {table} SELECT {', '.join(['n::text'] * 9)} "
                          "FROM generate_series(1, 3) AS n")  # fmt: skip
        await app.execute(f"UPDATE {table} SET {names[5]} = 'z' WHERE {names[5]} = '1'")
        await app.execute(f"DELETE FROM {table} WHERE {names[0]} = '2'")
        assert len(await same(agent, name)) == 2
    await app.execute("INSERT INTO wide (id) VALUES (1), (2); UPDATE wide SET c7 = NULL")
    assert len(await same(agent, "wide")) == 2


async def test_generated_identity_dropped_and_domain_columns_are_logged(
    database: Database, agent: asyncpg.Connection, app: asyncpg.Connection
) -> None:
    virtual = ", w int GENERATED ALWAYS AS (10 / (n - 5)) VIRTUAL" if database.major >= 18 else ""
    await app.execute(f"""
        CREATE DOMAIN d AS text NOT NULL CHECK (VALUE <> ''); CREATE TYPE e AS ENUM ('a', 'b"');
        CREATE TYPE pair AS (a int, b text);
        CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone text, n int, m d,
            s int GENERATED ALWAYS AS (n * 2) STORED, f e, p pair, q pair[]{virtual});
        ALTER TABLE t DROP COLUMN gone;
    """)
    await take(agent)
    await app.execute("""
        INSERT INTO t (n, m, f, p, q) VALUES (1, 'x', 'b"', (1, 'a,"'), ARRAY[(1, '(')]::pair[]),
                                             (5, 'y', 'a', NULL, '{}');
        UPDATE t SET n = 7 WHERE n = 1;
    """)  # the virtual column of a row with n = 5 can't be read: that is no reason to fail
    log = await agent.fetch("SELECT key, image FROM peersync.change ORDER BY id")
    assert [row["key"] for row in log] == ["(1)", "(2)", "(1)"]
    assert log[2]["image"].startswith('(1,7,x,14,"b""')
