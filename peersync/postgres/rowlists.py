"""The ranges and rows of one comparison, in temporary tables: however many they are.

Two lists of (key, hash), one of each side, become the keys of rows that the other side should
send, and the keys that only this side has. Keys are texts here, the same on both sides: a table
whose equal keys may have other texts is refused by `not_by_text`. Lists are cut by their bytes
too, for keys may be long. All of it belongs to the transaction of the comparison, and goes with
it but for the keys only here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.catalog import Table
from peersync.postgres.digest import Key, Range, RowHash

CREATE: Final = """
CREATE TEMP TABLE peersync_ranges (n bigint GENERATED ALWAYS AS IDENTITY, low text[], high text[],
                                   there bigint NOT NULL, here bigint NOT NULL) ON COMMIT DROP;
CREATE TEMP TABLE peersync_there (k text[] COLLATE pg_catalog."C" NOT NULL, h bigint NOT NULL)
    ON COMMIT DROP;
CREATE TEMP TABLE peersync_here (k text[] COLLATE pg_catalog."C" NOT NULL, h bigint NOT NULL)
    ON COMMIT DROP;
"""
_ONLY_HERE: Final = (
    "FROM pg_temp.peersync_here AS h WHERE NOT EXISTS"
    " (SELECT FROM pg_temp.peersync_there AS t WHERE t.k = h.k)"
)
_WANTED: Final = (
    "FROM pg_temp.peersync_there AS t LEFT JOIN pg_temp.peersync_here AS h ON h.k = t.k"
    " WHERE h.h IS DISTINCT FROM t.h"
)
_NOT_BY_TEXT: Final = """
WITH RECURSIVE part AS (
    SELECT a.attname, a.atttypid AS typ, a.attcollation AS coll, false AS is_domain
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = $1::regclass AND a.attname = ANY ($2::name[])
    UNION ALL
    SELECT p.attname, t.typbasetype, p.coll, true
      FROM part AS p JOIN pg_catalog.pg_type AS t ON t.oid = p.typ AND t.typtype = 'd'
)
SELECT p.attname AS name,
       coalesce((pg_catalog.to_jsonb(c) ->> 'collisdeterministic') = 'false', false) AS by_collation
  FROM part AS p
  JOIN pg_catalog.pg_type AS t ON t.oid = p.typ AND t.typtype <> 'd'
  LEFT JOIN pg_catalog.pg_collation AS c ON c.oid = p.coll
 WHERE (pg_catalog.to_jsonb(c) ->> 'collisdeterministic') = 'false'  -- not before PostgreSQL 12
    OR NOT (t.typtype = 'e'
            OR t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace
               AND t.typcategory <> 'A' AND t.typname <> 'jsonb')
    OR p.is_domain AND t.typname IN ('numeric', 'float4', 'float8', 'interval')
 LIMIT 1
"""
BYTES_AT_ONCE: Final = 4 << 20  # of keys in one list


@dataclass(frozen=True)
class Joined:
    """How many rows are missing here, have other values, and are only here."""

    missing: int
    differing: int
    only_here: int


async def not_by_text(
    connection: asyncpg.Connection, table: TableName, key: Sequence[str]
) -> str | None:
    """Why equal keys of this table may have other texts than each other, None if they have not."""
    row = await connection.fetchrow(_NOT_BY_TEXT, table.sql, list(key))
    if row is None:
        return None
    if row["by_collation"]:
        return f"the collation of its key column {row['name']} is not deterministic"
    return f"equal values of its key column {row['name']} may have other texts"


async def add_ranges(connection: asyncpg.Connection, some: Sequence[Range]) -> None:
    await connection.copy_records_to_table(
        "peersync_ranges",
        schema_name="pg_temp",
        columns=("low", "high", "there", "here"),
        records=[(one.low, one.high, one.rows_there, one.rows_here) for one in some],
    )


async def ranges(
    connection: asyncpg.Connection, at_once: int, rows_at_once: int
) -> AsyncIterator[list[Range]]:
    """The ranges in their order, so many at once, with about so many rows of either side."""
    cursor = await connection.cursor(
        "SELECT low, high, there, here FROM pg_temp.peersync_ranges ORDER BY n"
    )
    waiting: list[Range] = []
    rows = size = 0
    while found := await cursor.fetch(at_once):
        for row in found:
            one = Range(_key(row["low"]), _key(row["high"]), row["there"], row["here"])
            more, longer = max(one.rows_there, one.rows_here), _size(one.low) + _size(one.high)
            rows, size = rows + more, size + longer
            full = rows > rows_at_once or size > BYTES_AT_ONCE or len(waiting) == at_once
            if waiting and full:
                yield waiting
                waiting, rows, size = [], more, longer
            waiting.append(one)
    if waiting:
        yield waiting


def _size(key: Key | None) -> int:
    """About the bytes of a key in a message."""
    return sum(len(part.encode()) + 8 for part in key or ())


def _key(values: list[str] | None) -> Key | None:
    return None if values is None else tuple(values)


async def add_there(
    connection: asyncpg.Connection, some: Sequence[tuple[Key | None, int, int]]
) -> None:
    """Rows of the other side: (key, 1, hash)."""
    await _add(connection, "peersync_there", ((key, digest) for key, _, digest in some))


async def add_here(connection: asyncpg.Connection, some: Sequence[RowHash]) -> None:
    await _add(connection, "peersync_here", ((one.key, one.digest) for one in some))


async def _add(
    connection: asyncpg.Connection, table: str, rows: Iterable[tuple[Key | None, int]]
) -> None:
    await connection.copy_records_to_table(
        table,
        schema_name="pg_temp",
        records=[(key, digest - (1 << 64) if digest >> 63 else digest) for key, digest in rows],
    )


async def join(
    connection: asyncpg.Connection, table: Table, key: Sequence[str], only_here: TableName
) -> Joined:
    """Makes the table `only_here` of the keys that only this side has, and counts the rest."""
    await connection.execute(
        "SET LOCAL enable_seqscan = on; ANALYZE pg_temp.peersync_there;"
        " ANALYZE pg_temp.peersync_here"
    )
    listed = ", ".join(quote_ident(name) for name in key)
    types = {c.name: c.type for c in table.columns}
    values = ", ".join(f"h.k[{n}]::{types[name]}" for n, name in enumerate(key, 1))
    await connection.execute(
        f"CREATE UNLOGGED TABLE {only_here.sql} WITH (autovacuum_enabled = off) AS "  # noqa: S608
        f"SELECT {listed} FROM ONLY {table.name.sql} WITH NO DATA"
    )
    status = await connection.execute(
        f"INSERT INTO {only_here.sql} ({listed}) SELECT {values} {_ONLY_HERE}"
    )
    await connection.execute(f"ANALYZE {only_here.sql}")
    row = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE h.k IS NULL) AS missing,"
        f" count(*) FILTER (WHERE h.k IS NOT NULL) AS differing {_WANTED}"
    )
    return Joined(row["missing"], row["differing"], int(status.rpartition(" ")[2]))


async def wanted(connection: asyncpg.Connection, at_once: int) -> AsyncIterator[list[Key]]:
    """The keys of rows that are missing here or have other values."""
    cursor = await connection.cursor(f"SELECT t.k {_WANTED}")
    keys: list[Key] = []
    size = 0
    while found := await cursor.fetch(at_once):
        for row in found:
            key = tuple(row["k"])
            size += _size(key)
            if keys and (size > BYTES_AT_ONCE or len(keys) == at_once):
                yield keys
                keys, size = [], _size(key)
            keys.append(key)
    if keys:
        yield keys
