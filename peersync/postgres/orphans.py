"""Finds rows that refer to rows which are not here.

Under the replica role PostgreSQL checks no foreign key. The source's own rows fit together,
so there is something to find only where a table that is referred to was left out, failed or
came partly; only those keys are checked, and what is found is said, never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.load import TableLoad
from peersync.postgres.sqlfiles import queries


def find_orphans(
    connection: psycopg.Connection, written: Sequence[TableLoad], complete: Sequence[int]
) -> dict[TableName, str]:
    """For each table with such rows, how many there are and what they miss, in words."""
    names = {load.table.oid: load.table.name for load in written if not load.created}
    cursor = psycopg.RawCursor(connection)
    keys = cursor.execute(
        queries("catalog")["foreign_keys_out"], (list(names), list(complete))
    ).fetchall()
    found: dict[TableName, str] = {}
    for child, parent, schema, name, child_columns, parent_columns, operators in keys:
        if child == parent:
            continue
        count = _count(
            connection,
            names[child],
            TableName(schema, name),
            list(zip(child_columns, parent_columns, operators, strict=True)),
        )
        if count:
            words = f"{count} rows refer to rows of {schema}.{name} that are not here"
            found[names[child]] = "; ".join(filter(None, (found.get(names[child]), words)))
    return found


def _count(
    connection: psycopg.Connection,
    child: TableName,
    parent: TableName,
    columns: Sequence[tuple[str, str, str]],
) -> int:
    known = " AND ".join(f"c.{quote_ident(own)} IS NOT NULL" for own, _, _ in columns)
    same = " AND ".join(
        f"p.{quote_ident(theirs)} {operator} c.{quote_ident(own)}"
        for own, theirs, operator in columns
    )
    row = connection.execute(
        f"SELECT count(*) FROM {child.sql} AS c WHERE {known} "
        f"AND NOT EXISTS (SELECT FROM {parent.sql} AS p WHERE {same})".encode()
    ).fetchone()
    assert row is not None
    return int(row[0])
