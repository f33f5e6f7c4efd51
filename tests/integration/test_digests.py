"""Digests say which rows of two tables differ: all of them, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from peersync.postgres.digest import ROWS_IN_BLOCK, Block, Range, blocks, probe
from peersync.postgres.keyorder import shown_key
from tests.integration.digest_rig import compare, pinned, shape_of
from tests.plugins.clusters import MakeDatabase

# (table, rows, what `here` does to them, rows missing here, extra here, different)
KEYS = {
    "small_numbers": ("k smallint PRIMARY KEY", "g"),
    "numbers": ("k int PRIMARY KEY", "g * 3 - 500"),
    "big_numbers": ("k bigint PRIMARY KEY", "(g - 250) * 4294967297"),
    "uuids": ("k uuid PRIMARY KEY", "md5(g::text)::uuid"),
    "texts": ("k text PRIMARY KEY", "chr(65 + g % 58) || '-' || md5(g::text)"),
    "own_c": ('k varchar(40) COLLATE "C" PRIMARY KEY', "chr(65 + g % 58) || md5(g::text)"),
    "icu": ('k text COLLATE "en-x-icu" PRIMARY KEY', "chr(65 + g % 58) || '-' || g"),
    "fixed": ("k char(8) PRIMARY KEY", "'x' || g"),
    "times": ("k timestamptz PRIMARY KEY", "'2020-01-01'::timestamptz + g * interval '1 h'"),
    "days": ("k date PRIMARY KEY", "'2020-01-01'::date + g"),
    "numerics": ("k numeric PRIMARY KEY", "g / 7.0"),
    "floats": ("k float8 PRIMARY KEY", "g / 7.0"),
    "bytes": ("k bytea PRIMARY KEY", "decode(md5(g::text), 'hex')"),
    "enums": ("k step, n int, PRIMARY KEY (k, n)", "(ARRAY['a','c','b']::step[])[1 + g % 3], g"),
    "pairs": ("k int, n text, PRIMARY KEY (k, n)", "g % 5, 'B' || g"),
    "odd_names": ('"sel ect" int, "a""b" uuid, PRIMARY KEY ("a""b", "sel ect")',
                  "g, md5(g::text)::uuid"),
    "descending": ("k int NOT NULL, UNIQUE (k)", "g"),
    "arrays": ("k int[] PRIMARY KEY", "ARRAY[g % 7, g]"),
    "jsons": ("k jsonb PRIMARY KEY", "jsonb_build_object('g', g)"),
}  # fmt: skip


@pytest.fixture
async def sides(
    make_database: MakeDatabase,
) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """A session on 18, which makes the blocks, and one on 15."""
    there, here = make_database(18), make_database(15)
    there.psql("CREATE TYPE step AS ENUM ('a', 'b', 'c')")
    here.psql("CREATE TYPE step AS ENUM ('c', 'a', 'b')")
    async with pinned(there) as one, pinned(here) as other:
        await one.execute("SET search_path = public")
        await other.execute("SET search_path = public")
        assert await probe(one) == await probe(other)
        yield one, other


Sides = tuple[asyncpg.Connection, asyncpg.Connection]


# A server may be built without it: then the two sides have different collations.
_NO_ICU = "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_collation WHERE collname = 'en-x-icu')"


async def _run(sides: Sides, *statements: str) -> None:
    for conn in sides:
        await conn.execute("SET search_path = public")
        own = "" if await conn.fetchval(_NO_ICU) else 'COLLATE "en-x-icu"'
        for statement in statements:
            await conn.execute(statement.replace('COLLATE "en-x-icu"', own))
        await conn.execute("SET search_path = pg_catalog")


async def test_any_key_leads_to_the_rows_that_differ(sides: Sides) -> None:
    there, here = sides
    for name, (columns, values) in KEYS.items():
        await _run(
            sides,
            f"CREATE TABLE {name} ({columns}, v text)",
            f"INSERT INTO {name} SELECT {values}, g FROM generate_series(1, 500) g",
        )
        ours, theirs = await shape_of(here, name), await shape_of(there, name)
        equal = await compare(there, here, theirs, ours)
        assert (name, equal.there, equal.here, equal.ranges) == (name, 500, 500, ())
        await there.execute(f"DELETE FROM public.{name} WHERE v IN ('7', '450')")
        await here.execute(f"DELETE FROM public.{name} WHERE v IN ('1', '200', '500')")
        await here.execute(f"UPDATE public.{name} SET v = 'x' WHERE v IN ('64', '65')")
        for wide, portable in ((False, False), (True, False), (False, True)):
            given = replace(theirs, wide=wide, portable=portable)
            own = replace(ours, wide=wide, portable=portable)
            found = await compare(there, here, given, own)
            assert (name, found.counts) == (name, (3, 2, 2))
            assert (found.there, found.here) == (498, 497)
            assert found.blocks == 8
        # a table of which one side has nothing
        await here.execute(f"DELETE FROM public.{name}")
        found = await compare(there, here, theirs, ours)
        assert (name, found.counts, found.here) == (name, (498, 0, 0), 0)
        found = await compare(here, there, ours, theirs)
        assert (name, found.counts, found.blocks) == (name, (0, 498, 0), 1)


async def test_rows_without_a_key_are_counted_one_by_one(sides: Sides) -> None:
    there, here = sides
    await _run(
        sides,
        "CREATE TABLE bag (a int, b text)",
        "INSERT INTO bag SELECT g % 10, NULL FROM generate_series(1, 100) g",
    )
    for wide in (False, True):
        shape = replace(await shape_of(there, "bag"), wide=wide)
        assert (await compare(there, here, shape)).ranges == ()
        # Two pairs of the same rows for two other pairs: a plain xor would see nothing.
        await there.execute("INSERT INTO public.bag VALUES (77, ''), (77, ''), (78, 'x')")
        await here.execute("INSERT INTO public.bag VALUES (78, ''), (78, ''), (78, 'x')")
        found = await compare(there, here, shape)
        assert (found.there, found.here) == (103, 103)
        assert found.counts == (1, 1, 0)
        await here.execute("INSERT INTO public.bag VALUES (77, '')")
        assert (await compare(there, here, shape)).counts == (0, 1, 1)
        await there.execute("DELETE FROM public.bag WHERE a > 76")
        await here.execute("DELETE FROM public.bag WHERE a > 76")


@pytest.mark.parametrize("rows", [0, 1, ROWS_IN_BLOCK, ROWS_IN_BLOCK + 1, 2 * ROWS_IN_BLOCK])
async def test_a_row_before_the_first_and_after_the_last_key_is_found(
    sides: Sides, rows: int
) -> None:
    there, here = sides
    await _run(
        sides,
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        f"INSERT INTO t SELECT g * 10, g FROM generate_series(1, {rows}) g",
    )
    shape = await shape_of(there, "t")
    found = await compare(there, here, shape)
    assert (found.there, found.here, found.ranges) == (rows, rows, ())
    assert found.blocks == max(1, -(-rows // ROWS_IN_BLOCK))
    await here.execute("INSERT INTO public.t VALUES (-5, 0), (645, 0), (99999, 0)")
    found = await compare(there, here, shape)
    assert found.extra == (("-5",), ("645",), ("99999",))
    assert found.ranges[0].low is None
    assert found.ranges[-1].high is None
    assert (found.there, found.here) == (rows, rows + 3)
    assert (await compare(here, there, shape)).missing == found.extra


async def test_a_part_of_a_table_is_compared_on_its_own(sides: Sides) -> None:
    there, _ = sides
    await _run(
        sides,
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        "INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g",
    )
    shape = await shape_of(there, "t")
    async with there.transaction():
        made = [b async for some in blocks(there, shape, ("101",), ("301",)) for b in some]
        assert [b.low for b in made] == [("101",), ("165",), ("229",), ("293",)]
        assert [b.rows for b in made] == [64, 64, 64, 8]
        empty = [b async for some in blocks(there, shape, ("5000",)) for b in some]
        assert empty == [Block(("5000",), 0, 0)]
        only = replace(shape, where="k % 2 = 0 -- even\n")
        made = [b async for some in blocks(there, only) for b in some]
        assert sum(b.rows for b in made) == 500


async def test_ranges_that_touch_are_put_together(sides: Sides) -> None:
    there, here = sides
    await _run(
        sides,
        "CREATE TABLE t (k int PRIMARY KEY, v int)",
        "INSERT INTO t SELECT g, g FROM generate_series(0, 1279) g",
    )
    await here.execute("UPDATE public.t SET v = 0 WHERE k BETWEEN 200 AND 400 OR k = 1000")
    shape = await shape_of(there, "t")
    found = await compare(there, here, shape)
    assert found.ranges == (
        Range(("192",), ("448",), 256, 256),
        Range(("960",), ("1024",), 64, 64),
    )


# What `=` or a careless text takes for the same, and what only looks different.
DIFFERENT = (
    ("numeric", "1.0", "1.00"),
    ("float8", "'-0'", "0"),
    ("float4", "'-0'", "0"),
    ("bigint", "0", "4294967297"),
    ("bigint", "-1", "4294967295"),
    ("bigint", "NULL", "0"),
    ("smallint", "NULL", "0"),
    ("float4", "'NaN'", "'inf'"),
    ("float8", "NULL", "0"),
    ("varchar(5)", "'a'", "'a '"),
    ("timestamptz", "'2000-01-01 00:00:00+00'", "'2000-01-01 01:11:34.967297+00'"),
    ("interval", "'1 mon'", "'30 days'"),
    ("char(5)", "NULL", "''"),
    ("bpchar", "'a'", "'a '"),
    ("text", "NULL", "''"),
    ("jsonb", "'{\"a\": 1.0}'", "'{\"a\": 1}'"),
    ("json", "'{\"a\": 1}'", "'{\"a\":1}'"),
    ("int[]", "'{1,2,3,4}'", "'{{1,2},{3,4}}'"),
    ("int[]", "'{1,2}'", "'[0:1]={1,2}'"),
    ("two", "ROW(NULL, 'x')", "ROW(NULL, NULL)"),
    ("two", "ROW(NULL, NULL)", "NULL"),
    ("two", "ROW(NULL, '')", "ROW(NULL, NULL)"),
    ("step", "'a'", "'b'"),
    ("timestamptz", "'infinity'", "'-infinity'"),
    ("date", "'infinity'", "NULL"),
    ("float8", "'NaN'", "NULL"),
    ("timetz", "'12:00+00'", "'13:00+01'"),
    ("int4range", "'[1,2]'", "'[1,3]'"),
    ("citext_like", "'A'", "'a'"),
    ("bytea", "'\\x00'", "'\\x0000'"),
    # one that is long is hashed in another way than one that is short
    ("bytea", "convert_to(repeat('a', 128), 'UTF8')", "convert_to(repeat('a', 129), 'UTF8')"),
    ("bytea", "decode(repeat('61', 300), 'hex')", "decode(repeat('61', 299) || '62', 'hex')"),
    ("bytea", "NULL", "''"),
    ("date", "'infinity'", "'-infinity'"),
    ("date", "'4713-01-01 BC'", "'5874897-12-31'"),
    ("numeric", "'NaN'", "NULL"),
    ("numeric", "-5", "5"),
    ("numeric", "0", "0.0"),
    ("jsonb", "'{\"a\": -5}'", "'{\"a\": 5}'"),
    ("jsonb", "'null'", "NULL"),
    ("text[]", "'{}'", "NULL"),
    ("numeric[]", "'{1.0}'", "'{1.00}'"),
    ("boolean", "false", "NULL"),
    ("bit varying", "B'0'", "B'00'"),
    ("tsvector", "'a:1'", "'a:2'"),
    ("point", "'(0,0)'", "'(0,-0)'"),
    ("money", "1", "1.01"),
    ("inet", "'10.0.0.1'", "'10.0.0.1/24'"),
)
EQUAL = (
    ("timestamptz", "'2000-01-01 00:00:00+00'", "'2000-01-01 02:00:00+02'"),
    ("jsonb", '\'{"b": 1, "a": 2}\'', '\'{"a":2,"b":1,"a":2}\''),
    ("char(5)", "'a'", "'a  '"),
    ("int4range", "'[1,2]'", "'[1,3)'"),
    ("step", "'c'", "'c'"),
    ("step[]", "'{c,a}'", "'{c,a}'"),
    ("float8", "'NaN'", "'inf'::float8 - 'inf'::float8"),
    ("money", "1.01", "1.01"),
    ("numeric", "'NaN'", "'NaN'"),
    ("numeric", "1e3", "1000"),
    ("two", "ROW(1, 'a')", "ROW(1, 'a')"),
    ("bpchar", "'a '", "'a '"),
    ("text[]", "ARRAY[NULL, 'a']", "ARRAY[NULL, 'a']"),
    ("float4", "'-0'", "'-0'"),
    ("bytea", "convert_to(repeat('a', 300), 'UTF8')", "decode(repeat('61', 300), 'hex')"),
    ("date", "'0044-03-15 BC'", "'2000-01-01'::date - 746117"),
    ("uuid", "'A0000000-0000-0000-0000-00000000000a'", "'a0000000-0000-0000-0000-00000000000A'"),
)


async def test_a_value_is_equal_only_to_itself(sides: Sides) -> None:
    there, here = sides
    await _run(sides, "CREATE TYPE two AS (a int, b text)")
    for conn in sides:
        kind = "text"
        if not await conn.fetchval(_NO_ICU):
            kind = "text COLLATE public.folded"
            await conn.execute(
                "CREATE COLLATION public.folded "
                "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            )
        await conn.execute(f"CREATE DOMAIN public.citext_like AS {kind}")
    cases = [(*case, True) for case in DIFFERENT] + [(*case, False) for case in EQUAL]
    for number, (of, theirs, ours, differ) in enumerate(cases):
        name = f"v{number}"
        await _run(sides, f"CREATE TABLE {name} (id int PRIMARY KEY, v {of}, w int DEFAULT 1)")
        await there.execute(f"INSERT INTO public.{name} VALUES (1, {theirs})")
        await here.execute(f"INSERT INTO public.{name} VALUES (1, {ours})")
        shape = await shape_of(there, name)
        for wide, portable in ((False, False), (True, False), (False, True)):
            shape = replace(shape, wide=wide, portable=portable)
            found = await compare(there, here, shape)
            assert (of, theirs, ours, found.counts) == (of, theirs, ours, (0, 0, int(differ)))


async def test_rows_that_swap_values_do_not_cancel_out(sides: Sides) -> None:
    there, here = sides
    await _run(
        sides,
        "CREATE TABLE t (k int PRIMARY KEY, a int, b int)",
        "INSERT INTO t SELECT g, g % 2, g % 3 FROM generate_series(1, 60) g",
    )
    await here.execute("UPDATE public.t SET a = 1 - a WHERE k IN (10, 11)")
    await here.execute("UPDATE public.t SET a = b, b = a WHERE k IN (3, 4)")
    found = await compare(there, here, await shape_of(there, "t"))
    assert found.different == (("10",), ("11",), ("3",), ("4",))


async def test_hundreds_of_columns_are_hashed(sides: Sides) -> None:
    there, here = sides
    listed = ", ".join(f"c{n} {'date' if n < 900 else 'bigint'}" for n in range(1500))
    await _run(sides, f"CREATE TABLE t (k int PRIMARY KEY, {listed})")
    await _run(sides, "INSERT INTO t (k, c0, c1499) VALUES (1, '2000-01-07', 8)")
    shape = await shape_of(there, "t")
    assert (await compare(there, here, shape)).ranges == ()
    for change in ("c1499 = 9", "c1499 = 8, c899 = c0, c0 = c899"):
        await here.execute(f"UPDATE public.t SET {change}")
        assert (await compare(there, here, shape)).different == (("1",),)


async def test_two_encodings_have_the_same_rows_in_the_same_order(
    make_database: MakeDatabase,
) -> None:
    there_db, here_db = make_database(18), make_database(15)
    other = replace(there_db, name=f"{there_db.name}_1252")
    there_db.psql(
        f"CREATE DATABASE {other.name} ENCODING 'WIN1252' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    try:
        async with pinned(other) as there, pinned(here_db) as here:
            for conn in (there, here):
                await conn.execute(
                    "CREATE TABLE public.t (k text, n int, v text, PRIMARY KEY (k, n))"
                )
                for letter in "\u20ac\u00e9\u00ff\u0160a":
                    await conn.execute(
                        "INSERT INTO public.t SELECT $1 || g, g, $1 FROM generate_series(1, 50) g",
                        letter,
                    )
            assert await probe(there) != await probe(here)
            shape = replace(await shape_of(there, "t"), portable=True)
            assert (await compare(there, here, shape)).ranges == ()
            await here.execute("DELETE FROM public.t WHERE k = '\u20ac7'")
            found = await compare(there, here, shape)
            assert [shown_key(shape, key) for key in found.missing] == [("\u20ac7", "7")]
            assert found.counts == (1, 0, 0)
    finally:
        there_db.psql(f"DROP DATABASE {other.name}")
