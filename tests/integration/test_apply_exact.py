"""Rows arrive as they are: every type, generated and identity columns, partitions, large ones."""

from __future__ import annotations

import tracemalloc
from contextlib import AsyncExitStack

import pytest

from peersync.postgres.conninfo import resolve
from peersync.postgres.log.apply import Applier
from tests.integration.apply_rig import Node, drain, make_group, stream
from tests.plugins.clusters import MakeDatabase

# One row of awkward values for each: type, literals.
TYPES = {
    "smallint": ["-32768"],
    "integer": ["2147483647"],
    "bigint": ["-9223372036854775808"],
    "numeric": ["NaN", "Infinity", "0.0000", "1" + "0" * 300 + ".5"],
    "numeric(10,2)": ["1.50"],
    "real": ["-0", "1e-40", "NaN", "3.4028235e38"],
    "double precision": ["0.1234567890123456", "-Infinity", "5e-324"],
    "money": ["-12.34"],
    "text": ["", "NULL", '"q"', "\\N", "\\.", "a\tb\r\nc", "(,)", "ж\u2028"],
    "varchar(3)": ["abc"],
    "char(5)": ["ab"],
    '"char"': ["x"],
    "name": ["some name"],
    "bytea": ["\\x00ff0a5c"],
    "boolean": ["t", "f"],
    "date": ["infinity", "0044-03-15 BC"],
    "time": ["24:00:00"],
    "timetz": ["12:00:00.000001+13:59"],
    "timestamp": ["-infinity", "2026-02-28 12:00:00.123456"],
    "timestamp(3)": ["2026-02-28 12:00:00.123"],
    "timestamptz": ["2026-02-28 12:00:00.123456+05:30"],
    "interval": ["-1 year -2 mons +3 days -04:05:06.789"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"a": 1, "a" : null}', "null"],
    "jsonb": ["null", '{"b": [1.10, "\\u0041"]}'],
    "jsonpath": ['$."a"[*]'],
    "inet": ["192.168.0.1/24", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit(5)": ["10101"],
    "varbit": ["1", ""],
    "point": ["(1.1,-0)"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "circle": ["<(1,2),3>"],
    "tsvector": ["'a' 'b':2A"],
    "tsquery": ["'a' & !'b'"],
    "int4range": ["empty", "[1,)"],
    "tstzmultirange": ["{[2020-01-01 00:00+00,2021-01-01 00:00+00)}"],
    "integer[]": ["[0:2]={1,NULL,3}", "{}", "{{1,2},{3,4}}"],
    "text[]": ['{"a\\"b","NULL",NULL,""}'],
    "oid": ["4294967295"],
    "regclass": ["pg_catalog.pg_class"],
    "pg_lsn": ["16/B374D848"],
    "public.mood": ['it\'s "ok"'],
    "public.pair": ['(1,"a,""b")'],
    "public.positive": ["7"],
}
MADE = """
CREATE TYPE public.mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE public.pair AS (a int, b text);
CREATE DOMAIN public.positive AS int CHECK (value > 0);
"""


async def pair(stack: AsyncExitStack, make: MakeDatabase, sql: str, other: int = 18) -> list[Node]:
    return await make_group(
        stack, make(18, migrated=True), make(other, nth=1, migrated=True), sql=sql
    )


@pytest.mark.parametrize("other", [15, 18])
async def test_every_type_arrives_as_it_was(
    stack: AsyncExitStack, make_database: MakeDatabase, other: int
) -> None:
    columns = ", ".join(f"c{n} {name}" for n, name in enumerate(TYPES))
    sql = f"{MADE} CREATE TABLE public.kinds (id int PRIMARY KEY, {columns})"
    a, b = await pair(stack, make_database, sql, other)
    most = max(map(len, TYPES.values()))
    for row in range(most + 1):
        values = [v[row] if row < len(v) else None for v in TYPES.values()]
        literals = ", ".join(
            "NULL" if v is None else "'" + v.replace("'", "''") + "'" for v in values
        )
        await a.execute(f"INSERT INTO public.kinds VALUES ({row}, {literals})")
    applied = await b.pull(a)
    assert (applied.changes, applied.quarantined) == (most + 1, 0), await b.rows(
        "SELECT reason FROM peersync.quarantine"
    )
    rows = "SELECT k::text FROM kinds k ORDER BY id"
    assert await b.rows(rows) == await a.rows(rows)


async def test_generated_and_identity_columns(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = """
    CREATE TABLE public.made (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int,
        twice int GENERATED ALWAYS AS (n * 2) STORED,
        thrice int GENERATED ALWAYS AS (n * 3) VIRTUAL, serial int GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE public.one (id int PRIMARY KEY)"""
    a, b = await pair(stack, make_database, sql)
    await a.execute("INSERT INTO made (n) VALUES (1), (2), (3); INSERT INTO one VALUES (1)")
    await b.pull(a)
    await a.execute("UPDATE made SET n = 10 WHERE id = 2; DELETE FROM made WHERE id = 1")
    await a.execute("UPDATE one SET id = 1")
    assert (await b.pull(a)).quarantined == 0
    assert await b.rows("SELECT * FROM made ORDER BY id") == [(2, 10, 20, 30, 2), (3, 3, 6, 9, 3)]
    assert await b.rows("SELECT * FROM one") == [(1,)]


async def test_partitions_may_be_cut_differently_and_children_are_apart(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = """
    CREATE TABLE public.parts (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
    CREATE TABLE public.parts_low PARTITION OF public.parts FOR VALUES FROM (0) TO (50);
    CREATE TABLE public.parts_high PARTITION OF public.parts FOR VALUES FROM (50) TO (100);
    CREATE TABLE public.base (id int PRIMARY KEY, n int);
    CREATE TABLE public.child (more text, PRIMARY KEY (id)) INHERITS (public.base)"""
    a, b = await pair(stack, make_database, sql)
    await b.execute(
        "DROP TABLE parts_low, parts_high;"
        "CREATE TABLE public.parts_all PARTITION OF parts FOR VALUES FROM (0) TO (100);"
        "SELECT peersync.capture_install('parts_all'::regclass, tbl, false, false) "
        "FROM peersync.synced_table WHERE table_name = 'parts'"
    )
    await a.execute("INSERT INTO parts SELECT g, 0 FROM generate_series(1, 99) g")
    await a.execute("INSERT INTO parts_low VALUES (0, 0); UPDATE parts SET id = 0 WHERE id = -1")
    await a.execute("UPDATE parts SET n = 1 WHERE id > 90; DELETE FROM parts WHERE id = 60")
    await a.execute("INSERT INTO base VALUES (1, 1); INSERT INTO child VALUES (1, 2, 'c')")
    await drain(a, b)
    await a.execute("UPDATE base SET n = n + 10; DELETE FROM ONLY base")
    await drain(a, b)
    for sql in ("SELECT p::text FROM parts p ORDER BY id", "SELECT c::text FROM child c"):
        assert await b.rows(sql) == await a.rows(sql) != []
    assert await b.rows("SELECT * FROM ONLY base") == []


async def test_a_key_that_is_checked_late(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = "CREATE TABLE public.late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n int)"
    a, b = await pair(stack, make_database, sql)
    await a.execute("INSERT INTO late SELECT g, g FROM generate_series(1, 9) g")
    await b.pull(a)
    await a.execute("UPDATE late SET id = 10 - id; UPDATE late SET n = 0 WHERE id = 2")
    assert (await b.pull(a)).quarantined == 0
    rows = "SELECT t::text FROM late t ORDER BY id"
    assert await b.rows(rows) == await a.rows(rows)


async def test_names_that_need_quotes(stack: AsyncExitStack, make_database: MakeDatabase) -> None:
    sql = '''
    CREATE SCHEMA "it's; a ""schema""";
    CREATE TABLE "it's; a ""schema"""."Тест %s {0}" ("select" int PRIMARY KEY, "a ""b"" $1" text)'''
    a, b = await pair(stack, make_database, sql)
    table = '''"it's; a ""schema"""."Тест %s {0}"'''
    await a.execute(f"INSERT INTO {table} VALUES (1, 'x'), (2, 'y')")
    await a.execute(f"""UPDATE {table} SET "a ""b"" $1" = 'z' """)
    await a.execute(f'DELETE FROM {table} WHERE "select" = 2')
    await b.pull(a)
    assert await b.rows(f"SELECT * FROM {table}") == [(1, "z")]


async def test_without_the_replica_role_foreign_keys_hold_and_nothing_echoes(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = """
    CREATE TABLE public.child (id int PRIMARY KEY, parent int);
    CREATE TABLE public.parent (id int PRIMARY KEY);
    ALTER TABLE public.child ADD FOREIGN KEY (parent) REFERENCES public.parent"""
    a, b = await pair(stack, make_database, sql)
    b.test.cluster.createrole("plain")
    await b.execute("GRANT ALL ON ALL TABLES IN SCHEMA public, peersync TO plain")
    await b.execute("GRANT ALL ON SCHEMA peersync TO plain")
    plain = type(b.database)("plain", resolve(b.test.conninfo(user="plain")))
    stack.push_async_callback(plain.close)
    async with Applier(plain, b.origin) as applier:
        await a.execute(
            "BEGIN; INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1); COMMIT"
        )
        await a.execute("INSERT INTO child VALUES (2, 2)")
        await a.execute(
            "BEGIN; DELETE FROM child WHERE id = 1; DELETE FROM parent WHERE id = 1; COMMIT"
        )
        head, rows = await a.frame(b)
        assert (await applier.apply(head, stream(rows))).quarantined == 0
        await b.execute("DELETE FROM child; DELETE FROM parent")
        await a.execute("INSERT INTO child VALUES (3, 2), (4, NULL)")
        head, rows = await a.frame(b)
        assert (await applier.apply(head, stream(rows))).quarantined == 1
    assert await b.rows("SELECT id FROM child") == [(4,)]
    assert await b.rows("SELECT key, sqlstate FROM peersync.quarantine") == [("(3)", "23503")]
    echoes = await b.rows("SELECT op FROM peersync.change")
    assert echoes == [(b"D",), (b"D",)], "only what was deleted here is a change of ours"


async def test_a_value_of_200_megabytes_and_a_transaction_of_many_rows(
    stack: AsyncExitStack, make_database: MakeDatabase
) -> None:
    sql = "CREATE TABLE public.big (id int PRIMARY KEY, v text)"
    a, b = await pair(stack, make_database, sql)
    await a.execute("INSERT INTO big SELECT g, 'row ' || g FROM generate_series(1, 200000) g")
    head, rows = await a.frame(b)
    tracemalloc.start()
    assert (await b.applier.apply(head, stream(rows))).changes == 200_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000, "rows pass through Python in pieces"
    await a.execute("INSERT INTO big VALUES (0, repeat(md5('x'), 200 * 32768))")
    await b.pull(a)
    sizes = (
        "SELECT count(*), max(octet_length(v)), md5(string_agg(md5(v), '' ORDER BY id)) FROM big"
    )
    assert await b.rows(sizes) == await a.rows(sizes)
    assert (await b.rows(sizes))[0][:2] == (200_001, 200 * 1024 * 1024)
