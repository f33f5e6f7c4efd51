"""Which rows a database that only receives has changed and kept to itself, by their keys.

A comparison knows a row by the texts of its key; the log knows it by a text of its own. Here one
is told from the other, for the keys that are asked for. It owns no rows, and a row that nothing is
kept back of may well have been changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from peersync.core.names import quote_ident
from peersync.postgres.digestform import Key
from peersync.postgres.keyorder import shown_key
from peersync.postgres.rowform import Shape, base_type

# The number of a table in the log, and how the log writes its key; only where both have the same.
_KEY_SQL: Final = """
SELECT s.tbl, peersync.key_sql(f.facts, 't') AS written
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT peersync.capture_facts(c.oid) AS facts OFFSET 0) AS f
  JOIN peersync.synced_table AS s
    ON s.schema_name = f.facts ->> 'schema' AND s.table_name = f.facts ->> 'table'
 WHERE n.nspname = $1 AND c.relname = $2
   AND ARRAY(SELECT k ->> 0 FROM pg_catalog.jsonb_array_elements(f.facts -> 'key') AS k
              ORDER BY (k ->> 0) COLLATE "C") = $3::text[]
   AND EXISTS (SELECT FROM peersync.withheld AS w WHERE w.tbl = s.tbl)
"""
_FOUND_SQL: Final = """
SELECT b.place FROM unnest({lists}) WITH ORDINALITY AS b ({names}, place)
 CROSS JOIN LATERAL (SELECT {fields}) AS t
 CROSS JOIN LATERAL (SELECT {written} AS key OFFSET 0) AS k
 WHERE EXISTS (SELECT FROM peersync.withheld AS w
                WHERE w.tbl = $1 AND w.key = k.key
                  AND pg_catalog.hashtextextended(w.key, 0)
                    = pg_catalog.hashtextextended(k.key, 0))
"""
_AS_TEXT: Final = ("character varying", "character")  # a length would cut, or fill up


async def kept_back(conn: asyncpg.Connection, shape: Shape, keys: Sequence[Key]) -> set[Key]:
    """Those of the keys with changes that are withheld here; none of a table without a key.

    Keys are texts as `row_hashes` gives them. Inside a transaction or outside of one.
    """
    if not shape.key or not keys:
        return set()
    table = shape.table
    found = await conn.fetchrow(
        _KEY_SQL, table.schema, table.name, sorted(shape.key, key=str.encode)
    )
    if found is None:
        return set()
    sql = _FOUND_SQL.format(
        lists=", ".join(f"${n}::text[]" for n in range(2, len(shape.key) + 2)),
        names=", ".join(f"l{n}" for n in range(len(shape.key))),
        fields=", ".join(
            f"b.l{n}::{_type(shape, column)} AS {quote_ident(column)}"
            for n, column in enumerate(shape.key)
        ),
        written=found["written"],
    )
    return await _found(conn, sql, found["tbl"], shape, keys)


async def _found(
    conn: asyncpg.Connection, sql: str, tbl: int, shape: Shape, keys: Sequence[Key]
) -> set[Key]:
    shown = [shown_key(shape, key) for key in keys]
    lists = [[key[n] for key in shown] for n in range(len(shape.key))]
    try:
        async with conn.transaction():
            rows = await conn.fetch(sql, tbl, *lists)
    except asyncpg.DataError:  # a value of the other side's that no row here could have
        if len(keys) == 1:
            return set()
        half = len(keys) // 2
        first = await _found(conn, sql, tbl, shape, keys[:half])
        return first | await _found(conn, sql, tbl, shape, keys[half:])
    return {keys[row["place"] - 1] for row in rows}


def _type(shape: Shape, column: str) -> str:
    base = base_type(shape.type_of(column))
    return "text" if base in _AS_TEXT else base
