"""Rows over an ordinary connection: what pg_dump prints, without pg_dump."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pgcluster
import pytest

from peersync.core.errors import Cancelled, DatabaseUnreachable, PeersyncError, SchemaMismatch
from peersync.core.names import TableName
from peersync.dump.pieces import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    LargeObject,
    LargeObjectData,
    SequenceValue,
)
from peersync.dump.scan import DataScanner
from peersync.postgres.backup import Dump, View, data_arguments, open_view
from peersync.postgres.catalog import read_catalog
from peersync.postgres.conninfo import resolve
from peersync.postgres.copyout import PIECE_BYTES, CopyOut, TableCopy
from peersync.postgres.pool import Database as Pool
from peersync.postgres.sqlfiles import queries
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.corpus import Corpus

queries("catalog")  # read now: later, the loop would wait for a file
SQL = Path(__file__).with_name("sql")
ODD = [
    'Ca"ps',
    "it's",
    "line\nbreak",
    "dot.ted",
    "select",
    "100%s %(x)s",
    "back\\slash",
    "$1",
    ":x",
]


@dataclass
class Read:
    """What a scanner finds in a part; rows without their order."""

    columns: dict[TableName, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[TableName, Counter[bytes]] = field(default_factory=dict)
    sequences: dict[TableName, tuple[int, bool]] = field(default_factory=dict)
    objects: dict[int, bytes] = field(default_factory=dict)


def read(pieces: Sequence[bytes]) -> Read:
    found, scanner = Read(), DataScanner()
    text, table = b"", TableName("", "")
    for piece in [p for data in pieces for p in scanner.feed(data)] + scanner.finish():
        match piece:
            case CopyBegin():
                table, text = piece.table, b""
                found.columns[table] = piece.columns
            case CopyRows():
                text += piece.data
            case CopyEnd():
                found.rows[table] = Counter(text.split(b"\n")[:-1])
                assert found.rows[table].total() == piece.rows
            case SequenceValue():
                found.sequences[piece.sequence] = (piece.value, piece.is_called)
            case LargeObject():
                found.objects.setdefault(piece.oid, b"")
            case LargeObjectData():
                found.objects[piece.oid] += piece.data
    assert scanner.complete
    return found


async def both_ways(database: Database) -> tuple[Read, Read]:
    """By CopyOut and by pg_dump, of one view."""
    resolved = resolve(database.conninfo())
    copied: list[bytes] = []
    dumped: list[bytes] = []
    async with Pool("shop", resolved).connect("test") as keeper:
        view, catalog = await open_view(keeper, []), await read_catalog(keeper)
        tables = [
            TableCopy(t.name, tuple(c.name for c in t.columns if not c.generated))
            for t in catalog.tables.values()
        ]
        out = CopyOut(resolved, view, tables, sequences=True, large_objects=True)
        await asyncio.to_thread(out.run, copied.append)
        found = await asyncio.to_thread(pgcluster.find_installations)
        program = list(found.values())[-1].bindir / "pg_dump"
        with resolved.child_env() as env:
            dump = Dump(program, data_arguments(None, (), large_objects=True), env, view)
            await asyncio.to_thread(dump.run, dumped.append)
    assert max(map(len, copied)) <= PIECE_BYTES
    return read(copied), read(dumped)


async def copied(database: Database, *tables: TableCopy) -> Read:
    resolved = resolve(database.conninfo())
    pieces: list[bytes] = []
    async with Pool("shop", resolved).connect("test") as keeper:
        out = CopyOut(resolved, await open_view(keeper, []), tables)
        await asyncio.to_thread(out.run, pieces.append)
    return read(pieces)


@pytest.mark.parametrize("major", [15, 18])
async def test_values_of_every_kind_are_printed_as_pg_dump_prints_them(
    major: int, make_database: MakeDatabase
) -> None:
    database = make_database(major)
    database.psql((SQL / "types.sql").read_text())
    for setting in ("DateStyle = 'German, DMY'", "TimeZone = 'Europe/Berlin'",
                    "bytea_output = escape", "IntervalStyle = iso_8601",
                    "extra_float_digits = -5", "quote_all_identifiers = on"):  # fmt: skip
        database.psql(f"ALTER DATABASE {database.name} SET {setting}")
    copy, dump = await both_ways(database)
    assert len(copy.rows) > 5
    if "quote_all_identifiers" in database.psql("SHOW ALL"):
        database.psql(f"ALTER DATABASE {database.name} RESET quote_all_identifiers")
        _, dump = await both_ways(database)
    assert copy == dump


@pytest.mark.parametrize("name", ["kitchensink", "sakila", "pagila"])
async def test_databases_of_others_are_printed_as_pg_dump_prints_them(
    name: str, corpus: Corpus, make_database: MakeDatabase
) -> None:
    cluster = make_database(15).cluster
    database = make_database(15, template=corpus.template(name, cluster))
    copy, dump = await both_ways(database)
    assert sum(rows.total() for rows in copy.rows.values()) > 100
    assert copy == dump


async def test_shapes_and_names_that_are_hard_to_print(make_database: MakeDatabase) -> None:
    database = make_database(18)
    script = [
        "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;"
        "INSERT INTO nothing DEFAULT VALUES;"
        "CREATE TABLE made (a int, b int GENERATED ALWAYS AS (a * 2) STORED,"
        " c int GENERATED ALWAYS AS (a * 3) VIRTUAL, d text);"
        "INSERT INTO made (a, d) VALUES (1, E'a\\\\.b\\n\\\\.\\n\\r'), (2, NULL);"
        "CREATE TABLE only_made (g int GENERATED ALWAYS AS (7) STORED);"
        "INSERT INTO only_made DEFAULT VALUES;"
        "CREATE TABLE parted (a int, v text) PARTITION BY LIST (a);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);"
        "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);"
        "INSERT INTO parted VALUES (1, 'a'), (2, 'b'), (2, 'c');"
        "CREATE TABLE mother (a int); CREATE TABLE child () INHERITS (mother);"
        "INSERT INTO mother VALUES (1); INSERT INTO child VALUES (2);"
        "CREATE SEQUENCE unused START 5; CREATE SEQUENCE down INCREMENT -2; SELECT nextval('down');"
    ]
    for name in ODD:
        q = pgcluster.identifier(name)
        script.append(
            f"CREATE SCHEMA {q}; CREATE TABLE {q}.{q} ({q} serial, v text);"
            f"INSERT INTO {q}.{q} (v) VALUES ({pgcluster.literal(name)});"
        )
    database.psql("\n".join(script))
    copy, dump = await both_ways(database)
    assert copy == dump
    assert copy.rows[TableName("public", "nothing")] == Counter({b"": 2})
    assert copy.rows[TableName("public", "mother")] == Counter({b"1": 1})
    assert copy.columns[TableName("public", "made")] == ("a", "d")
    assert copy.sequences[TableName("public", "unused")] == (5, False)
    assert len(copy.rows) == 8 - 1 + len(ODD)


async def test_large_objects_of_every_size_arrive(make_database: MakeDatabase) -> None:
    database = make_database(15)
    database.psql(
        "SELECT lo_from_bytea(1000 + n, decode(repeat(md5(n::text), size), 'hex'))"
        " FROM (VALUES (1, 1), (2, 4095), (3, 4096), (4, 4097), (5, 8192), (6, 100000))"
        " AS v (n, size);"
        "SELECT lo_create(2000); SELECT lo_create(3000); SELECT lo_put(3000, 200000, 'end');"
        "SELECT lo_from_bytea(10000 + n, 'x') FROM generate_series(1, 50) n"
    )
    copy, dump = await both_ways(database)
    assert copy.objects == dump.objects
    assert len(copy.objects[1006]) == 1_600_000
    assert copy.objects[2000] == b""


# --- filters ----------------------------------------------------------------------------------
async def test_only_the_rows_and_columns_of_the_filter_are_read(
    make_database: MakeDatabase,
) -> None:
    database = make_database(15)
    database.psql(
        'CREATE TABLE "Or ders" (id int, "Na me" text, is_demo bool);'
        "INSERT INTO \"Or ders\" VALUES (1, 'a', false), (2, 'demo', true), (3, '(;', NULL);"
        "CREATE TABLE nothing ()"
    )
    name = TableName("public", "Or ders")
    found = await copied(
        database, TableCopy(name, ("Na me", "id"), "NOT is_demo OR \"Na me\" = '(;'")
    )
    assert found.columns[name] == ("Na me", "id")
    assert found.rows[name] == Counter({b"a\t1": 1, b"(;\t3": 1})
    some = await copied(database, TableCopy(name, ("id",)))
    assert some.rows[name] == Counter({b"1": 1, b"2": 1, b"3": 1})
    empty = TableName("public", "nothing")
    assert (await copied(database, TableCopy(empty, (), "true"))).rows[empty] == Counter()


async def test_a_filter_that_the_database_refuses_is_named_with_its_words(
    make_database: MakeDatabase,
) -> None:
    database = make_database(15)
    database.psql("CREATE TABLE orders (id int); INSERT INTO orders VALUES (0)")
    name = TableName("public", "orders")
    with pytest.raises(SchemaMismatch) as caught:
        await copied(database, TableCopy(name, ("id",), "NOT is_demo"))
    for words in ("public.orders", "NOT is_demo", 'column "is_demo" does not exist'):
        assert words in caught.value.message
    with pytest.raises(PeersyncError, match="division by zero"):
        await copied(database, TableCopy(name, ("id",), "1 / id > 0"))


async def test_a_filter_cannot_change_anything(make_database: MakeDatabase) -> None:
    database = make_database(15)
    database.psql(
        "CREATE TABLE orders (id int); INSERT INTO orders VALUES (0);"
        "CREATE FUNCTION bad() RETURNS bool LANGUAGE sql VOLATILE AS"
        " 'DELETE FROM public.orders; SELECT true'"
    )
    with pytest.raises(PeersyncError, match="read-only transaction"):
        await copied(database, TableCopy(TableName("public", "orders"), ("id",), "public.bad()"))
    assert database.psql("SELECT count(*) FROM orders") == "1"


# --- the view, stopping, memory -----------------------------------------------------------------
async def test_what_is_written_after_the_view_was_taken_is_not_read(
    make_database: MakeDatabase,
) -> None:
    database = make_database(18)
    database.psql("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    resolved, name = resolve(database.conninfo()), TableName("public", "orders")
    pieces: list[bytes] = []
    async with Pool("shop", resolved).connect("test") as keeper:
        out = CopyOut(resolved, await open_view(keeper, []), [TableCopy(name, ("id",))])
        database.psql("INSERT INTO orders VALUES (2)")
        await asyncio.to_thread(out.run, pieces.append)
    assert read(pieces).rows[name] == Counter({b"1": 1})


@pytest.mark.parametrize("major", [15, 18])
async def test_a_view_that_is_gone_is_a_reason_to_begin_again(
    major: int, make_database: MakeDatabase
) -> None:
    resolved = resolve(make_database(major).conninfo())
    async with Pool("shop", resolved).connect("test") as keeper:
        view = await open_view(keeper, [])
    with pytest.raises(DatabaseUnreachable, match="view"):
        await asyncio.to_thread(CopyOut(resolved, view, []).run, lambda _: None)
    with pytest.raises(DatabaseUnreachable):
        CopyOut(resolved, View("not one", "", ""), []).run(lambda _: None)


async def test_a_stop_ends_a_statement_that_runs(make_database: MakeDatabase) -> None:
    database = make_database(15)
    database.psql("CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    resolved = resolve(database.conninfo())
    table = TableCopy(TableName("public", "orders"), ("id",), "pg_sleep(60) IS NULL")
    async with Pool("shop", resolved).connect("test") as keeper:
        out = CopyOut(resolved, await open_view(keeper, []), [table])
        timer = threading.Timer(0.5, out.stop)
        timer.start()
        async with asyncio.timeout(20):
            with pytest.raises(Cancelled):
                await asyncio.to_thread(out.run, lambda _: None)
        timer.join()
        out.run(lambda _: pytest.fail("it was stopped"))


MEASURE = """
import resource, sys
from peersync.postgres.backup import View
from peersync.postgres.conninfo import resolve
from peersync.postgres.copyout import CopyOut, TableCopy
from peersync.core.names import TableName
def run(name):
    out = CopyOut(resolve(sys.argv[1]), View(sys.argv[2], "", ""),
                  [TableCopy(TableName("public", name), ("id", "v"))])
    seen = [0, 0]
    def take(data):
        seen[0] += len(data); seen[1] = max(seen[1], len(data))
    out.run(take)
    return *seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(*run("small"), *run("many"), *run("large"))
"""


async def test_memory_is_flat_and_a_row_of_100_mb_is_held_twice_at_most(
    make_database: MakeDatabase,
) -> None:
    database = make_database(18)
    database.psql(
        "CREATE TABLE small (id int, v text); INSERT INTO small VALUES (1, 'x');"
        "CREATE TABLE many (id int, v text);"
        "INSERT INTO many SELECT n, repeat('x', 1000) FROM generate_series(1, 60000) n;"
        "CREATE TABLE large (id int, v text);"
        "INSERT INTO large SELECT n, repeat('x', 100000000) FROM generate_series(1, 2) n"
    )
    resolved = resolve(database.conninfo())
    async with Pool("shop", resolved).connect("test") as keeper:
        view = await open_view(keeper, [])
        measured = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", MEASURE, database.conninfo(), view.exported],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    values = list(map(int, measured.stdout.split()))
    (_, _, base), (many, _, flat), (large, piece, peak) = values[:3], values[3:6], values[6:]
    assert many > 60_000_000
    assert large > 200_000_000
    assert piece <= PIECE_BYTES
    assert flat - base < 8 << 20
    assert peak - base < 2 * 100_000_000 + (16 << 20), f"{(peak - base) >> 20} MiB"
