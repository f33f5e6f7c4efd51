"""A database in a group, with captured tables and a log that a test writes by hand.

Another node's changes are put where apply would have put them, so that what an operator does
with them can be tested without a second server.
"""

from __future__ import annotations

import asyncpg

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import Replica, add_member, found
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED
from tests.plugins.clusters import Database

OTHER = 7_000_007
ALL = Patterns(["*"])


async def connect(database: Database) -> asyncpg.Connection:
    """As the agent does it: with the settings that every session of ours has."""
    return await asyncpg.connect(
        database.url(), server_settings=dict(PINNED), statement_cache_size=0
    )


async def join_group(conn: asyncpg.Connection, *, other: bool = True) -> Replica:
    """Migrated, founded, with server-b as a member, and every table captured."""
    await migrate(conn)
    replica = await found(conn, "a" * 64, "server-a")
    if other:
        await add_member(conn, OTHER, "b" * 64, "server-b", sponsor=replica.origin, joined_at=1)
    await enrol(conn, ALL, lock_timeout_s=5)
    return replica


async def tbl_of(conn: asyncpg.Connection, table: str) -> int:
    number: int = await conn.fetchval(
        "SELECT tbl FROM peersync.synced_table WHERE table_name = $1", table
    )
    return number


async def publish(conn: asyncpg.Connection) -> None:
    await conn.execute("SELECT peersync.publish()")


async def captured(conn: asyncpg.Connection, table: str) -> list[tuple[str, str | None]]:
    """What the triggers have logged of a table: (op, image), in order."""
    rows = await conn.fetch(
        "SELECT op::text, image FROM peersync.change WHERE tbl = $1 ORDER BY id",
        await tbl_of(conn, table),
    )
    return [(row["op"], row["image"]) for row in rows]


async def put_conflict(
    conn: asyncpg.Connection,
    own: int,
    table: str,
    key: str,
    kept: str | None,
    incoming: str | None,
    *,
    winner: str = "incoming",
    state: str = "resolved",
) -> int:
    """A conflict between this node (kept) and server-b; an image of None is a delete."""
    number: int = await conn.fetchval(
        """
        INSERT INTO peersync.conflict (tbl, schema_name, table_name, key, kind, strategy, winner,
            reason, state, kept_origin, kept_position, kept_hlc, kept_op, kept_shape, kept_image,
            in_origin, in_position, in_ordinal, in_hlc, in_op, in_shape, in_image)
        SELECT tbl, schema_name, table_name, $2, 'update_origin_differs', 'newer_wins', $5,
               'it is 2 s newer', $6,
               $7, 1, 1000000, CASE WHEN $3::text IS NULL THEN 'D' ELSE 'U' END, shape, $3,
               $8, 1, 1, 3000000, CASE WHEN $4::text IS NULL THEN 'D' ELSE 'U' END, shape, $4
          FROM peersync.synced_table WHERE table_name = $1 RETURNING id
        """,
        table,
        key,
        kept,
        incoming,
        winner,
        state,
        own,
        OTHER,
    )
    return number


async def put_quarantined(
    conn: asyncpg.Connection,
    table: str,
    op: str,
    key: str | None,
    image: str | None,
    *,
    position: int,
    hlc: int = 5_000_000,
    cause: str = "row",
) -> int:
    """A change of server-b that waits."""
    number: int = await conn.fetchval(
        """
        INSERT INTO peersync.quarantine (cause, origin, position, ordinal, hlc, changed_at, tbl,
            schema_name, table_name, shape, op, key, image, sqlstate, reason)
        SELECT $7, $6, $5, 1, $8, now(), tbl, schema_name, table_name, shape,
               $2::text::"char", $3, $4, '23505', 'duplicate key value violates unique constraint'
          FROM peersync.synced_table WHERE table_name = $1 RETURNING id
        """,
        table,
        op,
        key,
        image,
        position,
        OTHER,
        cause,
        hlc,
    )
    return number


async def put_entry(
    conn: asyncpg.Connection,
    table: str,
    op: str,
    key: str,
    image: str | None,
    *,
    position: int,
    hlc: int = 5_000_000,
) -> None:
    """A change of server-b as apply leaves it in the log for others."""
    await conn.execute(
        "INSERT INTO peersync.transaction (origin, position, hlc, changes) VALUES ($1, $2, $3, 1)",
        OTHER,
        position,
        hlc,
    )
    await conn.execute(
        """
        INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image)
        SELECT $5, $6, 1, now(), tbl, shape, $2::text::"char", $3, $4
          FROM peersync.synced_table WHERE table_name = $1
        """,
        table,
        op,
        key,
        image,
        OTHER,
        position,
    )
