"""Counts how two copies of some tables differ without moving their rows: 20 bytes a row.

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
class Hashed:
    """A table whose rows are hashed; without a key whole rows are compared."""

    table: TableName
    columns: tuple[str, ...]
    key: tuple[str, ...]
    where: str | None = None


@dataclass(frozen=True)
class Difference:
    """What a sync would do to the rows of one table."""

    insert: int
    update: int
    unchanged: int
    target_only: int


def hashes(tables: Sequence[Hashed]) -> str:
    """The query for (place in `tables`, hash of the key, hash of all) of every row."""
    return " UNION ALL ".join(
        f"SELECT {number} AS n, {_hash(one.key or one.columns)} AS k, {_hash(one.columns)} AS r "
        f"FROM ONLY {one.table.sql}" + (f" WHERE ({one.where})" if one.where else "")
        for number, one in enumerate(tables)
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
    connection: asyncpg.Connection, there: AsyncIterator[bytes], tables: Sequence[Hashed]
) -> list[Difference]:
    """Holds a peer's hashes against those of tables here, in their order.

    The peer's bytes are PostgreSQL's to read: what is no COPY of three numbers a row is
    refused by it.
    """
    async with connection.transaction():
        await connection.execute(
            f"CREATE TEMP TABLE {_THERE.partition('.')[2]} (n integer, k bigint, r bigint) "
            "ON COMMIT DROP; SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'"
        )
        await connection.copy_to_table(
            "peersync_there", schema_name="pg_temp", source=there, format="binary"
        )
        keyed = [n for n, one in enumerate(tables) if one.key]
        rows = await connection.fetch(_COUNTS.format(here=hashes(tables), there=_THERE), keyed)
    found = {row["n"]: Difference(*(row[name] for name in _NAMES)) for row in rows}
    return [found.get(n, Difference(0, 0, 0, 0)) for n in range(len(tables))]


_NAMES = ("insert", "update", "unchanged", "target_only")
# With a key, a row is missing, different or equal; without one, copies of rows are counted.
_COUNTS = """
WITH here AS MATERIALIZED ({here})
SELECT coalesce(t.n, h.n) AS n,
       count(*) FILTER (WHERE h.k IS NULL) AS insert,
       count(*) FILTER (WHERE h.r <> t.r) AS update,
       count(*) FILTER (WHERE h.r = t.r) AS unchanged,
       count(*) FILTER (WHERE t.k IS NULL) AS target_only
  FROM (SELECT * FROM {there} WHERE n = ANY ($1)) AS t
  FULL JOIN (SELECT * FROM here WHERE n = ANY ($1)) AS h ON h.n = t.n AND h.k = t.k
 GROUP BY 1
 UNION ALL
SELECT n, sum(greatest(t_n - h_n, 0))::bigint, 0, sum(least(t_n, h_n))::bigint,
       sum(greatest(h_n - t_n, 0))::bigint
  FROM (SELECT coalesce(t.n, h.n) AS n, coalesce(t.copies, 0) AS t_n, coalesce(h.copies, 0) AS h_n
          FROM (SELECT n, r, count(*) AS copies FROM {there} WHERE n <> ALL ($1)
                 GROUP BY n, r) AS t
          FULL JOIN (SELECT n, r, count(*) AS copies FROM here WHERE n <> ALL ($1)
                      GROUP BY n, r) AS h ON h.n = t.n AND h.r = t.r) AS z
 GROUP BY n
"""
