"""Counts how two copies of a table differ without moving its rows: sixteen bytes a row.

Each row is two 64-bit hashes of its text, one of its key and one of all of it. They go from
server to server in PostgreSQL's own binary COPY, which neither agent takes apart. Text is
the same on all versions, under the settings that every connection of ours has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from peersync.core.names import TableName, quote_ident

_THERE = "pg_temp.peersync_there"


@dataclass(frozen=True)
class Difference:
    """What a sync would do to the rows of one table."""

    insert: int
    update: int
    unchanged: int
    target_only: int


def hashes(
    table: TableName, columns: Sequence[str], key: Sequence[str], where: str | None = None
) -> str:
    """The query for both hashes of each row; without a key they are the same."""
    return f"SELECT {_hash(key or columns)} AS k, {_hash(columns)} AS r FROM ONLY {table.sql}" + (
        f" WHERE ({where})" if where else ""
    )


def _hash(columns: Sequence[str]) -> str:
    row = ", ".join(quote_ident(column) for column in columns)
    return f'pg_catalog.hashtextextended(ROW({row})::text COLLATE pg_catalog."C", 0)'


async def send_hashes(
    connection: asyncpg.Connection, query: str, take: Callable[[bytes], Awaitable[None]]
) -> None:
    """Gives the rows of the query to `take`, as PostgreSQL's binary COPY."""
    await connection.copy_from_query(query, output=take, format="binary")


async def compare_hashes(
    connection: asyncpg.Connection, there: AsyncIterator[bytes], query: str, *, keyed: bool
) -> Difference:
    """Holds a peer's hashes against those of a table here. The peer's bytes are PostgreSQL's
    to read: what is no COPY of two numbers a row is refused by it."""
    async with connection.transaction():
        await connection.execute(
            f"CREATE TEMP TABLE {_THERE.partition('.')[2]} (k bigint NOT NULL, r bigint NOT NULL) "
            "ON COMMIT DROP; SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'"
        )
        await connection.copy_to_table(
            "peersync_there", schema_name="pg_temp", source=there, format="binary"
        )
        row = await connection.fetchrow((_KEYED if keyed else _COPIES).format(query, _THERE))
    assert row is not None
    return Difference(**dict(row))


_KEYED = """
SELECT count(*) FILTER (WHERE h.k IS NULL) AS insert,
       count(*) FILTER (WHERE h.r <> t.r) AS update,
       count(*) FILTER (WHERE h.r = t.r) AS unchanged,
       count(*) FILTER (WHERE t.k IS NULL) AS target_only
  FROM {1} AS t FULL JOIN ({0}) AS h ON h.k = t.k
"""
_COPIES = """
SELECT coalesce(sum(greatest(t_n - h_n, 0)), 0)::bigint AS insert, 0::bigint AS update,
       coalesce(sum(least(t_n, h_n)), 0)::bigint AS unchanged,
       coalesce(sum(greatest(h_n - t_n, 0)), 0)::bigint AS target_only
  FROM (SELECT coalesce(t.n, 0) AS t_n, coalesce(h.n, 0) AS h_n
          FROM (SELECT r, count(*) AS n FROM {1} GROUP BY r) AS t
          FULL JOIN (SELECT r, count(*) AS n FROM ({0}) AS x GROUP BY r) AS h ON h.r = t.r) AS z
"""
