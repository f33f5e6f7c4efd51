"""Sessions of ours are the same whatever the database's defaults are, and errors are ours."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import asyncpg
import psycopg
import pytest

from peersync.core.errors import (
    Cancelled,
    DatabaseError,
    DatabaseUnreachable,
    DiskFull,
    Locked,
    PeersyncError,
    PermissionMissing,
    SchemaMismatch,
)
from peersync.postgres.conninfo import resolve
from peersync.postgres.errors import translate, translated
from peersync.postgres.pool import Database
from tests.plugins.clusters import Database as Made

ODD_DEFAULTS = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'iso_8601'",
    "TimeZone": "'Asia/Kathmandu'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-3",
    "search_path": "'public'",
    "statement_timeout": "'50ms'",
    "lock_timeout": "'50ms'",
    "idle_in_transaction_session_timeout": "'50ms'",
}


@pytest.fixture
async def opened(database: Made) -> AsyncIterator[Database]:
    found = Database("shop", resolve(database.conninfo()))
    yield found
    await found.close()


@pytest.mark.parametrize("database", [15, 18], indirect=True)
async def test_odd_defaults_of_the_database_change_nothing(
    database: Made, opened: Database
) -> None:
    for name, value in ODD_DEFAULTS.items():
        database.psql(f"ALTER DATABASE {database.name} SET {name} = {value}")
    if database.major >= 17:
        database.psql(f"ALTER DATABASE {database.name} SET transaction_timeout = '50ms'")
    query = (
        "SELECT '2026-02-03 04:05+00'::timestamptz::text, '1 day 2 hours'::interval::text, "
        "'\\x00ff'::bytea::text, (0.1::float8 + 0.2)::text, current_setting('search_path')"
    )
    wanted = ("2026-02-03 04:05:00+00", "1 day 02:00:00", "\\x00ff", "0.30000000000000004")
    for use in (opened.acquire(), opened.acquire(), opened.connect("test/1")):
        async with use as conn, conn.transaction():
            await conn.execute("SELECT pg_sleep(0.2)")
            await asyncio.sleep(0.1)
            assert tuple(await conn.fetchrow(query)) == (*wanted, "pg_catalog")


async def test_a_query_goes_on_after_the_table_changed(opened: Database) -> None:
    async with opened.acquire() as conn, opened.acquire() as other:
        await other.execute("CREATE TABLE public.t AS SELECT 1 AS a")
        for column in ("b", "c"):
            assert await conn.fetchrow("SELECT * FROM public.t")
            await other.execute(f"ALTER TABLE public.t ADD {column} int")
        assert len(await conn.fetchrow("SELECT * FROM public.t")) == 3


async def test_a_lock_is_waited_for_as_long_as_was_said(opened: Database) -> None:
    async with opened.connect("holder") as holder, holder.transaction():
        await holder.execute("CREATE TABLE public.t ()")
        await holder.execute("SELECT pg_advisory_xact_lock(7)")
        with pytest.raises(Locked, match="taking the lock"):
            async with opened.acquire("taking the lock", lock_timeout_s=0.1) as conn:
                await conn.execute("SELECT pg_advisory_lock(7)")
    async with opened.acquire() as conn:  # the timeout went with its use
        assert await conn.fetchval("SHOW lock_timeout") == "0"


async def test_a_dba_sees_who_we_are(opened: Database) -> None:
    async with opened.connect("full-sync/7") as conn, opened.acquire() as pooled:
        rows = await conn.fetch(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() ORDER BY 1"
        )
        assert [row[0] for row in rows] == ["peersync/full-sync/7", "peersync/pool"]
        assert await pooled.fetchval("SELECT 1") == 1


QUERY_S, AT_ONCE_S = 60, 10


async def test_a_cancelled_use_leaves_no_session_behind(opened: Database) -> None:
    started = asyncio.Event()

    async def work() -> None:
        async with opened.connect("victim") as conn, conn.transaction():
            started.set()
            await conn.execute(f"SELECT pg_sleep({QUERY_S})")

    async with asyncio.timeout(AT_ONCE_S), asyncio.TaskGroup() as group:
        task = group.create_task(work())
        await started.wait()
        task.cancel()
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'peersync/victim'"
    async with asyncio.timeout(AT_ONCE_S), opened.acquire() as conn:
        while await conn.fetchval(query):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("pooled", [True, False])
async def test_a_cancel_is_not_lost_on_a_server_too_busy_to_have_read_the_query(
    opened: Database, pooled: bool
) -> None:
    pids: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        use = opened.acquire() if pooled else opened.connect("victim")
        async with use as conn, conn.transaction():
            pid = conn.get_server_pid()
            os.kill(pid, signal.SIGSTOP)
            pids.put_nowait(pid)
            await conn.execute(f"SELECT pg_sleep({QUERY_S})")

    async with asyncio.timeout(AT_ONCE_S), asyncio.TaskGroup() as group:
        task = group.create_task(work())
        pid = await pids.get()
        try:
            task.cancel()
            await asyncio.sleep(0.3)  # until the request is there
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_the_callers_own_errors_are_not_translated(opened: Database) -> None:
    with pytest.raises(FileNotFoundError):
        async with opened.acquire():
            raise FileNotFoundError("mine")
    with pytest.raises(TimeoutError):
        async with opened.connect("x"):
            raise TimeoutError("mine")


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    database = Database("shop", resolve("host=127.0.0.1 port=1 user=u dbname=d password=canary"))
    with pytest.raises(DatabaseUnreachable) as caught:
        async with database.acquire("reading"):
            pass
    assert "u@127.0.0.1:1/d" in caught.value.message
    assert caught.value.exit_code == 5
    assert "canary" not in f"{caught.value.message} {caught.value.detail} {database!r}"


async def test_a_server_that_stops_is_unreachable_and_comes_back(opened: Database) -> None:
    with pytest.raises(DatabaseUnreachable):
        async with opened.acquire("reading") as conn, opened.connect("killer") as killer:
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            await killer.execute(f"SELECT pg_terminate_backend({pid})")
            await conn.execute("SELECT pg_sleep(5)")
    with pytest.raises(DatabaseUnreachable):  # the end was seen before the session is used again
        async with opened.acquire("reading") as conn, opened.connect("killer") as killer:
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            await killer.execute(f"SELECT pg_terminate_backend({pid})")
            async with asyncio.timeout(60):
                while not conn.is_closed():
                    await asyncio.sleep(0.01)
            await conn.execute("SELECT pg_sleep(5)")
    async with opened.acquire() as conn:
        assert await conn.fetchval("SELECT 1") == 1


# --- translation ----------------------------------------------------------------------------
SCHEMA = """
CREATE TABLE public.parent (id int PRIMARY KEY, n int NOT NULL CHECK (n > 0));
INSERT INTO public.parent VALUES (1, 1);
CREATE ROLE nobody_here; GRANT USAGE ON SCHEMA public TO nobody_here;
"""
REFUSED = [
    ("INSERT INTO public.parent VALUES (1, 2)", DatabaseError, {"constraint": "parent_pkey"}),
    ("INSERT INTO public.parent VALUES (2, 0)", DatabaseError, {"constraint": "parent_n_check"}),
    ("INSERT INTO public.parent (id) VALUES (2)", DatabaseError, {"column": "n"}),
    ("SELECT * FROM public.gone", SchemaMismatch, {"sqlstate": "42P01"}),
    ("SET statement_timeout = 20; SELECT pg_sleep(9)", Cancelled, {"sqlstate": "57014"}),
    ("DO $$BEGIN RAISE SQLSTATE '53100'; END$$", DiskFull, {"sqlstate": "53100"}),
    ("DO $$BEGIN RAISE SQLSTATE '53300'; END$$", DatabaseUnreachable, {"sqlstate": "53300"}),
    ("DO $$BEGIN RAISE SQLSTATE '40P01'; END$$", DatabaseUnreachable, {"sqlstate": "40P01"}),
    ("DO $$BEGIN RAISE SQLSTATE '55P03'; END$$", Locked, {"sqlstate": "55P03"}),
    ("SET ROLE nobody_here; SELECT * FROM public.parent", PermissionMissing, {}),
]


async def by_asyncpg(database: Made, sql: str) -> PeersyncError:
    conn = await asyncpg.connect(database.url())
    try:
        with translated("working"):
            await conn.execute(sql)
    except PeersyncError as error:
        return error
    finally:
        await conn.close()
    raise AssertionError("nothing was raised")


async def by_psycopg(database: Made, sql: str) -> PeersyncError:
    try:
        with translated("working"):
            async with await psycopg.AsyncConnection.connect(
                database.conninfo(), autocommit=True
            ) as conn:
                await conn.execute(sql.encode())
    except PeersyncError as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.may_block("the tables are made by psql")
async def test_both_drivers_errors_become_the_same_one_of_ours(database: Made) -> None:
    database.psql(SCHEMA)
    try:
        for sql, kind, data in REFUSED:
            first, second = await by_asyncpg(database, sql), await by_psycopg(database, sql)
            assert type(first) is type(second) is kind, sql
            assert (first.message, first.detail, first.hint) == (
                second.message,
                second.detail,
                second.hint,
            )
            assert first.message.startswith("working: ")
            assert {**data, "sqlstate": first.data["sqlstate"]}.items() <= first.data.items()
            assert data.items() <= second.data.items()
            assert first.data["sqlstate"] in str(first.detail)
            assert first.__cause__ is not None
        denied = await by_asyncpg(database, REFUSED[-1][0])
        assert "peersync grants --missing" in str(denied.hint)
    finally:
        database.psql("DROP OWNED BY nobody_here; DROP ROLE nobody_here")


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        ({"password": "wrong"}, PermissionMissing, "password_file"),
        ({"dbname": "nowhere"}, DatabaseError, "createdb"),
        ({"user": "stranger"}, PermissionMissing, ""),
    ],
)
async def test_a_refused_login_says_what_to_do(
    database: Made, change: dict[str, str], kind: type[PeersyncError], hint: str
) -> None:
    conninfo = psycopg.conninfo.make_conninfo(database.conninfo(host="127.0.0.1"), **change)
    resolved = resolve(conninfo)
    errors = []
    for connect in (
        lambda: asyncpg.connect(**resolved.asyncpg_kwargs()),
        lambda: psycopg.AsyncConnection.connect(resolved.psycopg_conninfo()),
    ):
        with pytest.raises(kind) as caught, translated("connecting"):
            await connect()
        errors.append(caught.value)
    assert type(errors[0]) is type(errors[1]) is kind
    for error in errors:
        assert hint in str(error.hint)


def test_a_bug_is_not_translated() -> None:
    with pytest.raises(ZeroDivisionError), translated("working"):
        raise ZeroDivisionError
    ours = Locked("busy")
    assert translate(ours, what="x") is ours
