"""A database that takes part in periodic sync, with a hand-made capture of one table.

Its trigger writes what the real one writes, one row at a time, so that the order of the log
can be tested without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import Replica, found
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED

Connect = Callable[..., Awaitable[asyncpg.Connection]]

NODE = "a" * 32
SHAPE = 4711
CAPTURE = f"""
INSERT INTO peersync.synced_table (schema_name, table_name, shape)
VALUES ('public', 'acc', {SHAPE});
INSERT INTO peersync.shape (shape, schema_name, table_name, columns, types, key)
VALUES ({SHAPE}, 'public', 'acc', '{{id,n}}', '{{integer,integer}}', '{{id}}');
CREATE TABLE public.acc (id int PRIMARY KEY, n int NOT NULL);
CREATE FUNCTION public.capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO peersync.change (tbl, shape, op, key, image)
    VALUES (1, {SHAPE}, substr(TG_OP, 1, 1)::"char", ROW((coalesce(NEW, OLD)).id)::text, NEW::text);
    IF NOT pg_try_advisory_xact_lock_shared(x'70737963'::int, hashtext('awake')) THEN
        NOTIFY peersync;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON public.acc
    FOR EACH ROW EXECUTE FUNCTION public.capture();
"""
ENTRIES = "SELECT origin, position, ordinal, hlc, op, key, image FROM peersync.entry ORDER BY 2, 3"


async def open_connection(url: str) -> asyncpg.Connection:
    """With the settings of our own sessions, and the test's tables in view."""
    settings = {**PINNED, "search_path": "pg_catalog, public"}
    return await asyncpg.connect(url, server_settings=settings, statement_cache_size=0)


async def make_log(conn: asyncpg.Connection, node: str = NODE) -> Replica:
    """The schema, an origin, and a captured table public.acc(id, n)."""
    await migrate(conn)
    await conn.execute(CAPTURE)
    return await found(conn, node, "alpha")


async def capture_really(conn: asyncpg.Connection) -> None:
    """The triggers of `postgres.log.capture` instead of the hand-made one."""
    await conn.execute("DROP FUNCTION public.capture() CASCADE")
    await enrol(conn, Patterns(["public.*"]), lock_timeout_s=5)


async def entries(conn: asyncpg.Connection) -> list[Any]:
    return list(await conn.fetch(ENTRIES))


async def transactions(conn: asyncpg.Connection, columns: str = "position, changes") -> list[Any]:
    sql = f"SELECT {columns} FROM peersync.transaction ORDER BY position"
    return [tuple(row) for row in await conn.fetch(sql)]
