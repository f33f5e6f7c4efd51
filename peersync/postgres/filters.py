"""What of each filtered table may leave this node, held against the database as it is.

A filter that names something which is not there is refused, never passed over: whoever
renames a table must not find its hidden rows at a peer. The words of a refusal are for
the people of this node; they show the filter, and may show values of hidden rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from peersync.config.filters import Filter
from peersync.core.errors import ConfigError
from peersync.core.names import TableName
from peersync.postgres.catalog import Column, DatabaseCatalog, Fetches, Table
from peersync.postgres.copyout import TableCopy
from peersync.postgres.errors import translate
from peersync.postgres.sqlfiles import queries

_THEIR_FAULT = ("22", "42", "0A")  # SQLSTATEs that say something of the expression …
_MISSING_RIGHT = "42501"  # … and one that does not


@dataclass(frozen=True)
class Shape:
    """What of one table may leave. `rows` is the planner's estimate; None is unknown.

    must_exist: a column stays here that no new row can do without.
    """

    columns: tuple[Column, ...]
    key: tuple[str, ...] | None
    rows: int | None
    where: str | None = None
    leaves_out_columns: bool = False
    must_exist: bool = False


Shapes = Mapping[TableName, Shape]


def whole(table: Table) -> Shape:
    """All of a table."""
    return Shape(table.columns, table.keys[0].columns if table.keys else None, table.rows)


def table_copy(table: Table, shape: Shape | None) -> TableCopy:
    """How the rows of a table are read. Generated columns are computed where they arrive."""
    columns = table.columns if shape is None else shape.columns
    names = tuple(column.name for column in columns if not column.generated)
    return TableCopy(table.name, names, shape.where if shape else None)


async def read_shapes(
    connection: Fetches, filters: Sequence[Filter], catalog: DatabaseCatalog
) -> dict[TableName, Shape]:
    """The shape of every filtered table; of a partitioned one, of all its partitions.

    Call it in a transaction that is read only. Raises ConfigError for a filter that does
    not fit.
    """
    found: dict[TableName, Shape] = {}
    for one in filters:
        for name in await _tables_of(connection, one, catalog):
            if name in found:
                raise _refused(one, f"{name} has another filter already", "Join them into one.")
            table = catalog.tables[name]
            columns = _columns(one, table)
            rows = await _estimate(connection, one, table, columns)
            key = table.key_within(frozenset(c.name for c in columns))
            left = [c for c in table.columns if c not in columns]
            found[name] = Shape(
                columns=columns,
                key=key.columns if key else None,
                rows=rows,
                where=one.where or None,
                leaves_out_columns=bool(left),
                must_exist=any(
                    c.not_null and not (c.has_default or c.generated or c.identity) for c in left
                ),
            )
    return found


async def _tables_of(connection: Fetches, one: Filter, catalog: DatabaseCatalog) -> list[TableName]:
    if one.name in catalog.tables:
        return [one.name]
    rows = await connection.fetch(queries("filters")["partitions"], *one.name)
    if not rows:
        raise _refused(
            one,
            "there is no such table",
            "Was it renamed? Correct [[database.NAME.filter]] and restart the agent.",
        )
    names = [TableName(row["schema"], row["name"]) for row in rows if row["holds_rows"]]
    return [name for name in names if name in catalog.tables]


def _columns(one: Filter, table: Table) -> tuple[Column, ...]:
    names = [column.name for column in table.columns]
    for name in (*one.columns, *one.exclude_columns):
        if name not in names:
            listed = ", ".join(names)
            raise _refused(one, f"it has no column {name!r}", f"Its columns are: {listed}")
    kept = frozenset(one.columns or names) - frozenset(one.exclude_columns)
    needed = table.keys[0].columns if table.keys else ()
    missing = [name for name in needed if name not in kept]
    primary = bool(table.keys) and table.keys[0].is_primary
    if missing and (primary or table.key_within(kept) is None):
        raise _refused(
            one,
            f"column {missing[0]} is part of its key and would be left out: rows could not be "
            "told apart",
            "Keep the columns of the key.",
        )
    if not kept:
        raise _refused(one, "no column would be left", "To leave a table out, use exclude.")
    return tuple(column for column in table.columns if column.name in kept)


async def _estimate(
    connection: Fetches, one: Filter, table: Table, columns: Sequence[Column]
) -> int | None:
    """How many rows the planner expects. Proves at the same time that the filter is one."""
    names = tuple(column.name for column in columns if not column.generated)
    copy = TableCopy(table.name, names, one.where or None)
    try:
        (row,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {copy.select}")
    except asyncpg.PostgresError as exc:
        state = exc.sqlstate or ""
        if state == _MISSING_RIGHT or not state.startswith(_THEIR_FAULT):
            raise
        words = translate(exc, what=f"WHERE {one.where}")
        raise _refused(
            one,
            words.message,
            "Only pg_catalog is on the search path: write public.f(x) for functions, types and "
            "tables of your own.",
        ) from exc
    if not one.where or table.rows is None:
        return table.rows
    return int(json.loads(row[0])[0]["Plan"]["Plan Rows"])


def _refused(one: Filter, why: str, hint: str) -> ConfigError:
    return ConfigError(f"the filter of {one.name} is not valid: {why}", hint=hint)
