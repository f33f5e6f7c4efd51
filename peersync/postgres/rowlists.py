"""The ranges and rows of one comparison, in temporary tables: however many they are.

Two lists of (key, hash), one of each side, become the keys of rows that the other side should
send, and the keys that only this side has. Keys are texts here, the same on both sides. All of
it belongs to the transaction of the comparison, and goes with it but for the keys only here.
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


@dataclass(frozen=True)
class Joined:
    """How many rows are missing here, have other values, and are only here."""

    missing: int
    differing: int
    only_here: int


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
    rows = 0
    while found := await cursor.fetch(at_once):
        for row in found:
            one = Range(_key(row["low"]), _key(row["high"]), row["there"], row["here"])
            rows += max(one.rows_there, one.rows_here)
            if waiting and (rows > rows_at_once or len(waiting) == at_once):
                yield waiting
                waiting, rows = [], max(one.rows_there, one.rows_here)
            waiting.append(one)
    if waiting:
        yield waiting


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
    while found := await cursor.fetch(at_once):
        yield [tuple(row["k"]) for row in found]
