"""Schema peersync: made, brought up to date, refused when not understood, removed.

The runner's tests bring migrations of their own; only the golden file and PREPARE look at
what is shipped. `PEERSYNC_WRITE_GOLDEN=1` writes the golden file anew.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from peersync.core.errors import Locked, PermissionMissing, SchemaMismatch
from peersync.postgres import migrate as runner
from peersync.postgres.migrate import list_objects, migrate, status, uninstall
from peersync.postgres.sqlfiles import (
    Scripts,
    parse_migration,
    parse_queries,
    queries,
    query_modules,
    shipped,
)
from tests.plugins.clusters import Database, MakeDatabase

GOLDEN = Path(__file__).parent / "golden" / "schema.sql"
ONE = "CREATE TABLE peersync.one (id int);"
TWO = "-- a comment\n-- breaking\nCREATE TABLE peersync.two (id int);"
FUNCTION = (
    "CREATE OR REPLACE FUNCTION peersync.answer() RETURNS int LANGUAGE sql "
    "SET search_path = pg_catalog, pg_temp AS 'SELECT {}';"
)

SHIPPED_QUERIES = {module: queries(module) for module in query_modules()}

Connect = Callable[[Database], Awaitable[asyncpg.Connection]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def one(database: Database) -> asyncpg.Connection:
            conn = await asyncpg.connect(database.url())
            stack.push_async_callback(conn.close)
            return conn

        yield one


@pytest.fixture
async def conn(database: Database, connect: Connect) -> asyncpg.Connection:
    return await connect(database)


def scripts(*migrations: str, function: str | None = None) -> Scripts:
    """As if these files were shipped, numbered from 1."""
    return Scripts(
        bookkeeping=shipped().bookkeeping,
        migrations=tuple(
            parse_migration(f"{number:04}_step.sql", sql)
            for number, sql in enumerate(migrations, start=1)
        ),
        functions=(function,) if function else (),
    )


async def tables(conn: asyncpg.Connection) -> set[str]:
    rows = await conn.fetch("SELECT relname FROM pg_class WHERE relkind = 'r' "
                            "AND relnamespace = to_regnamespace('peersync')")  # fmt: skip
    return {row["relname"] for row in rows} - {"migration", "functions_version"}


async def test_migrations_are_applied_once_in_order(conn: asyncpg.Connection) -> None:
    assert not (await status(conn, scripts(ONE))).installed
    first = scripts(ONE)
    assert [m.number for m in await migrate(conn, first, version="1")] == [1]
    both = scripts(ONE, TWO)
    assert [m.number for m in (await status(conn, both)).pending] == [2]
    assert [m.number for m in await migrate(conn, both, version="2")] == [2]
    assert await migrate(conn, both) == ()
    after = await status(conn, both)
    assert after.current
    assert [(a.number, a.by_version, a.breaking) for a in after.applied] == [
        (1, "1", False),
        (2, "2", True),
    ]


async def test_a_failing_migration_leaves_the_earlier_ones_and_itself_undone(
    conn: asyncpg.Connection,
) -> None:
    broken = scripts(ONE, "CREATE TABLE peersync.half (id int); SELECT 1/0;")
    with pytest.raises(Exception, match=r"0002_step\.sql: division by zero"):
        await migrate(conn, broken)
    assert await tables(conn) == {"one"}
    assert [a.number for a in (await status(conn, scripts(ONE))).applied] == [1]
    await migrate(conn, scripts(ONE, TWO))  # the lock was given back
    assert await tables(conn) == {"one", "two"}


async def test_a_changed_migration_is_refused(conn: asyncpg.Connection) -> None:
    await migrate(conn, scripts(ONE))
    with pytest.raises(SchemaMismatch, match=r"0001_step\.sql is not the one"):
        await migrate(conn, scripts(ONE + " -- later thought", TWO))
    assert await tables(conn) == {"one"}


async def test_old_code_refuses_a_schema_with_a_breaking_migration_it_does_not_know(
    conn: asyncpg.Connection,
) -> None:
    await migrate(conn, scripts(ONE, TWO), version="9.9")
    with pytest.raises(SchemaMismatch) as caught:
        await status(conn, scripts(ONE))
    assert "9.9" in str(caught.value.hint)


async def test_old_code_goes_on_with_a_newer_schema_that_is_not_breaking(
    conn: asyncpg.Connection,
) -> None:
    newer = scripts(ONE, "CREATE TABLE peersync.extra ();", function=FUNCTION.format(2))
    await migrate(conn, newer)
    older = scripts(ONE, function=FUNCTION.format(1))
    assert await migrate(conn, older) == ()
    assert (await status(conn, older)).current
    assert await conn.fetchval("SELECT peersync.answer()") == 2  # the newer one's, untouched


async def test_functions_are_created_again_when_they_change(conn: asyncpg.Connection) -> None:
    await migrate(conn, scripts(ONE, function=FUNCTION.format(1)))
    changed = scripts(ONE, function=FUNCTION.format(2))
    assert not (await status(conn, changed)).current
    await migrate(conn, changed)
    assert await conn.fetchval("SELECT peersync.answer()") == 2
    await conn.execute(FUNCTION.format(3))
    await migrate(conn, changed)  # the same hash: left alone
    assert await conn.fetchval("SELECT peersync.answer()") == 3


async def test_runners_at_the_same_time_apply_each_migration_once(
    database: Database, connect: Connect
) -> None:
    both = scripts(ONE, "SELECT pg_sleep(0.3); " + TWO)
    connections = [await connect(database) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(migrate(conn, both)) for conn in connections]
    assert sorted(len(task.result()) for task in tasks) == [0, 0, 0, 2]


async def test_a_runner_that_waits_too_long_says_so(
    database: Database, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, waiter = await connect(database), await connect(database)
    await holder.fetchval(queries("schema")["take_migration_lock"])
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_S", 1)
    with pytest.raises(Locked):
        await migrate(waiter, scripts(ONE))


async def test_migrations_do_not_see_the_users_search_path(conn: asyncpg.Connection) -> None:
    await conn.execute("CREATE FUNCTION public.now() RETURNS text LANGUAGE sql AS $$SELECT 'bad'$$")
    await conn.execute("SET search_path = public, pg_catalog")
    await migrate(conn, scripts("CREATE TABLE peersync.t AS SELECT now()::text AS at;"))
    assert await conn.fetchval("SELECT at FROM peersync.t") != "bad"
    assert await conn.fetchval("SHOW search_path") == "public, pg_catalog"


async def test_a_schema_of_somebody_else_is_left_alone(conn: asyncpg.Connection) -> None:
    await conn.execute("CREATE SCHEMA peersync CREATE TABLE peersync.mine (id int)")
    with pytest.raises(SchemaMismatch, match="did not make"):
        await migrate(conn, scripts(ONE))
    assert await tables(conn) == {"mine"}


@pytest.mark.parametrize("major", [15, 18])
async def test_an_ordinary_role_is_enough(
    make_database: MakeDatabase, connect: Connect, major: int
) -> None:
    database = make_database(major, owner="plain")
    conn = await connect(database)
    await migrate(conn)
    assert (await status(conn)).current
    assert await uninstall(conn, dry_run=False)


async def test_a_missing_right_is_named_with_its_grant(
    make_database: MakeDatabase, connect: Connect
) -> None:
    database = make_database()
    database.cluster.createrole("plain")
    conn = await connect(Database(database.cluster, database.name, "plain"))
    with pytest.raises(PermissionMissing) as caught:
        await migrate(conn, scripts(ONE))
    assert f"GRANT CREATE ON DATABASE {database.name}" in str(caught.value.hint)


async def test_a_schema_that_the_administrator_made_is_enough(
    make_database: MakeDatabase, connect: Connect
) -> None:
    database = make_database()
    database.cluster.createrole("plain")
    database.psql("CREATE SCHEMA peersync AUTHORIZATION plain")
    conn = await connect(Database(database.cluster, database.name, "plain"))
    await migrate(conn, scripts(ONE))
    assert await tables(conn) == {"one"}


TRIGGER = """
CREATE TABLE public."Odd ""name" (id int);
CREATE FUNCTION peersync.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER peersync_t AFTER INSERT ON public."Odd ""name"
    FOR EACH ROW EXECUTE FUNCTION peersync.t();
"""


async def test_uninstall_takes_everything_of_ours_and_nothing_else(
    conn: asyncpg.Connection,
) -> None:
    await migrate(conn, scripts(ONE))
    await conn.execute(TRIGGER)
    listed = {(item.kind, item.name) for item in await list_objects(conn)}
    assert {
        ("trigger", 'peersync_t ON public."Odd ""name"'),
        ("function", "peersync.t()"),
        ("table", "peersync.one"),
        ("table", "peersync.migration"),
        ("schema", "peersync"),
    } <= listed

    await uninstall(conn, dry_run=True)
    assert await tables(conn) == {"one"}
    gone = await uninstall(conn, dry_run=False)
    assert {(item.kind, item.name) for item in gone} == listed
    assert await conn.fetchval("SELECT to_regnamespace('peersync')") is None
    await conn.execute('INSERT INTO public."Odd ""name" VALUES (1)')
    assert await uninstall(conn, dry_run=False) == ()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW public.theirs AS SELECT * FROM peersync.migration",
        "CREATE TABLE public.theirs (n int REFERENCES peersync.migration)",
    ],
)
async def test_uninstall_does_not_take_what_the_user_built_on_it(
    conn: asyncpg.Connection, sql: str
) -> None:
    await migrate(conn, scripts(ONE))
    await conn.execute(sql)
    with pytest.raises(SchemaMismatch) as caught:
        await uninstall(conn, dry_run=False)
    assert "theirs" in str(caught.value.detail)
    assert await conn.fetchval("SELECT to_regclass('public.theirs') IS NOT NULL")


# --- what is shipped ------------------------------------------------------------------------
@pytest.mark.parametrize("database", [15, 17, 18], indirect=True)
async def test_every_named_query_fits_the_shipped_schema(conn: asyncpg.Connection) -> None:
    await migrate(conn)
    failures = []
    for module, named in SHIPPED_QUERIES.items():
        for name, sql in named.items():
            try:
                await conn.prepare(sql)
            except asyncpg.PostgresError as error:
                failures.append(f"{module}.{name}: {error}")
    assert not failures, "\n".join(failures)


def normalised(dump: str) -> str:
    """Without what differs between runs and minor versions of pg_dump."""
    lines = [
        line
        for line in dump.splitlines()
        if not re.match(r"(\\|SET |SELECT pg_catalog\.set_config|--)", line)
    ]
    return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip() + "\n"


def schema_of(database: Database) -> str:
    program = str(database.cluster.bindir / "pg_dump")
    options = ["--schema-only", "--no-owner", "-n", "peersync", "-d", database.conninfo()]
    done = subprocess.run([program, *options], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.may_block("the golden file")
async def test_a_fresh_migrate_gives_the_committed_schema(
    database: Database, conn: asyncpg.Connection
) -> None:
    await migrate(conn)
    schema = normalised(await asyncio.to_thread(schema_of, database))
    if os.environ.get("PEERSYNC_WRITE_GOLDEN"):
        GOLDEN.write_text(schema)
    assert schema == GOLDEN.read_text(), "PEERSYNC_WRITE_GOLDEN=1 writes the file anew"


def test_every_function_file_pins_its_search_path() -> None:
    for sql in shipped().functions:
        assert re.search(r"^ *SET search_path", sql, re.MULTILINE | re.IGNORECASE)


# --- the form of the files ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1;", "before the first"),
        ("-- name: a\nSELECT 1;", "sentence"),
        ("-- name: a\n-- Does.\nSELECT 1", "semicolon"),
        ("-- name: a\n-- Does.\nSELECT 1;\n-- name: a\n-- Does.\nSELECT 2;", "second query"),
    ],
)
def test_a_query_file_of_the_wrong_form_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_queries(text, "x.sql")


def test_a_query_keeps_its_own_comments_and_loses_the_semicolon() -> None:
    text = "-- about the file\n-- name: a\n-- Does.\n-- $1 x\nSELECT 1 -- one\n\n  + $1;\n"
    assert parse_queries(text, "x.sql") == {"a": "SELECT 1 -- one\n\n  + $1"}


def test_a_migration_is_breaking_only_when_it_says_so_at_its_head() -> None:
    assert [m.breaking for m in scripts(ONE, TWO, ONE + "\n-- breaking\n").migrations] == [
        False,
        True,
        False,
    ]


def test_a_migration_with_a_wrong_name_is_refused() -> None:
    with pytest.raises(ValueError, match="NNNN_words"):
        parse_migration("2_x.sql", ONE)
