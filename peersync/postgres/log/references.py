"""Rows that refer to nothing, although a foreign key says that they can't.

One server deletes a row while another makes one that refers to it: both were right where they
were made, both are applied everywhere, and PostgreSQL checks no foreign key then. Looks for
what such a pair leaves, within a limit of time; changes nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.foreign_keys import ForeignKey
from peersync.postgres.log.capture import table_states
from peersync.postgres.sqlfiles import queries

MOST_ROWS: Final = 1000
_KEY_S: Final = 5.0
_ALL_S: Final = 15.0
_SQL: Final = queries("catalog")
_OIDS: Final = """
SELECT array_agg(DISTINCT oid::bigint) FROM (
  SELECT to_regclass(name)::oid AS oid FROM unnest($1::text[]) AS name
  UNION ALL
  SELECT leaf.relid::oid FROM unnest($1::text[]) AS name,
         pg_catalog.pg_partition_tree(to_regclass(name)) AS leaf) AS found
 WHERE oid IS NOT NULL"""


@dataclass(frozen=True)
class Loose:
    """A foreign key of a captured table that rows here break: how many, MOST_ROWS at most."""

    key: str
    child: TableName
    parent: TableName
    rows: int
    query: str  # shows the rows


@dataclass(frozen=True)
class Looked:
    """What was found. `keys` were looked through; `left` were not, for the reason given."""

    keys: int
    loose: tuple[Loose, ...]
    left: tuple[tuple[TableName, str], ...]


async def loose_rows(conn: asyncpg.Connection) -> Looked:
    """Looks through every foreign key of the captured tables, each for some seconds at most."""
    names = [s.name.sql for s in await table_states(conn) if s.state == "captured"]
    oids = await conn.fetchval(_OIDS, names) or []
    rows = await conn.fetch(_SQL["foreign_keys_of"], oids)
    keys = [key for key in map(ForeignKey.of, rows) if key.child in oids and not key.period]
    until = time.monotonic() + _ALL_S
    loose, left = [], []
    for key in keys:
        within = min(_KEY_S, until - time.monotonic())
        if within <= 0:
            left.append((key.child_name, "no time was left for it"))
            continue
        try:
            number = await _count(conn, key, within)
        except asyncpg.QueryCanceledError:
            left.append((key.child_name, f"{_KEY_S:g} s were too short for it"))
        except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError) as refusal:
            left.append((key.child_name, str(refusal)))
        else:
            if number:
                query = f"SELECT * FROM {key.child_sql} AS c WHERE {key.missing('c')};"
                loose.append(Loose(key.name, key.child_name, key.parent_name, number, query))
    return Looked(len(keys) - len(left), tuple(loose), tuple(left))


async def _count(conn: asyncpg.Connection, key: ForeignKey, within_s: float) -> int:
    wanted = f"SELECT FROM {key.child_sql} AS c WHERE {key.missing('c')} LIMIT {MOST_ROWS}"
    async with conn.transaction(readonly=True):
        await conn.execute(f"SET LOCAL statement_timeout = {max(int(within_s * 1000), 1)}")
        return int(await conn.fetchval(f"SELECT count(*) FROM ({wanted}) AS found"))
