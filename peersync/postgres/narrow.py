"""Only some rows of a table, as one sync asks for them, made into SQL where the rows are.

It is added to what the owner of the rows keeps back, with AND, and knows only the columns that
may leave: a peer can ask for less, and can learn nothing of what it does not get. Every name
and every value is quoted here; an operator is looked up, never copied.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import asyncpg

from peersync.core.errors import BadRequest, SchemaMismatch
from peersync.core.names import TableName, quote_ident, quote_literal
from peersync.postgres.catalog import Column, DatabaseCatalog, Fetches
from peersync.postgres.copyout import TableCopy
from peersync.postgres.errors import translate
from peersync.postgres.filters import Shape, Shapes, whole
from peersync.postgres.sqlfiles import queries
from peersync.wire.narrow import Narrow, RowCondition

_OPERATORS: Final = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_THEIR_FAULT: Final = ("22", "42", "0A")


async def narrowed(
    connection: Fetches,
    shapes: Shapes,
    catalog: DatabaseCatalog,
    wanted: Narrow | None,
    names: Collection[TableName],
) -> dict[TableName, Shape]:
    """The shapes, those of `names` with fewer rows. The time is the server's, read once.

    Raises SchemaMismatch for a column that a table does not have, BadRequest for a value that
    does not fit its column. Call it in a transaction that is read only.
    """
    found = dict(shapes)
    if wanted is None:
        return found
    mine = {n: shapes.get(n) or whole(catalog.tables[n]) for n in names if n in catalog.tables}
    _refuse_without(wanted, mine)
    since = await _since(connection, wanted)
    for name, shape in mine.items():
        own = where(wanted, shape, since)
        await _try(connection, name, shape, own, wanted)
        every = f"({shape.where}\n) AND {own}" if shape.where else own
        rows = await _rows(connection, name, shape, every) if shape.rows is not None else None
        found[name] = replace(shape, where=every, rows=rows)
    return found


def where(wanted: Narrow, shape: Shape, since: str | None) -> str:
    """The expression for one table. `since`: the time in UTC, without a zone."""
    columns = {column.name: column for column in shape.columns}
    parts = [_condition(one) for one in wanted.conditions]
    if wanted.newer is not None:
        assert since is not None
        parts.append(_newer(columns[wanted.newer.column], since))
    return " AND ".join(f"({part})" for part in parts) or "true"


def _condition(one: RowCondition) -> str:
    column = quote_ident(one.column)
    if isinstance(one.value, tuple):
        return f"{column} IN ({', '.join(_constant(value) for value in one.value)})"
    return f"{column} {_OPERATORS[one.op]} {_constant(one.value)}"


def _constant(value: str | int | float | bool) -> str:
    """Always in quotes, so that it takes the column's type; right for any setting of a role."""
    if isinstance(value, bool):
        return "'true'" if value else "'false'"
    text = quote_literal(str(value))
    return "E" + text.replace("\\", "\\\\") if "\\" in text else text


def _newer(column: Column, since: str) -> str:
    name = quote_ident(column.name)
    if column.type == "date":
        return f"{name} >= '{since[:10]}'::pg_catalog.date"
    if column.type.endswith("with time zone"):
        return f"{name} >= '{since}+00'::pg_catalog.timestamptz"
    return f"{name} >= '{since}'::pg_catalog.timestamp"


def _refuse_without(wanted: Narrow, shapes: Mapping[TableName, Shape]) -> None:
    """Nothing begins where a table of the sync can't be asked this way."""
    found = []
    for name, shape in sorted(shapes.items()):
        columns = {column.name: column for column in shape.columns}
        found += [f"{name} has no column {c}" for c in wanted.columns if c not in columns]
        newer = columns.get(wanted.newer.column) if wanted.newer is not None else None
        if newer is not None and not _is_time(newer):
            found.append(f"column {newer.name} of {name} is {newer.type}, which is no time")
    if found:
        more = f" ({len(found)} tables)" if found[1:] else ""
        raise SchemaMismatch(
            f"the source can't tell which rows are wanted: {found[0]}{more}",
            detail="\n".join(found[:20]),
            hint="Nothing was started. Name only tables that have the columns.",
        )


def _is_time(column: Column) -> bool:
    zoned = column.type.startswith("timestamp") and column.type.endswith("time zone")
    return zoned or column.type == "date"


async def _since(connection: Fetches, wanted: Narrow) -> str | None:
    if wanted.newer is None:
        return None
    (row,) = await connection.fetch(queries("narrow")["since"], float(wanted.newer.span_s))
    return str(row[0])


async def _try(
    connection: Fetches, name: TableName, shape: Shape, own: str, wanted: Narrow
) -> None:
    """Without what the owner keeps back: PostgreSQL's words may then be shown."""
    try:
        await connection.fetch(f"EXPLAIN {_copy(name, shape, own).select}")
    except asyncpg.PostgresError as exc:
        if not (exc.sqlstate or "").startswith(_THEIR_FAULT) or exc.sqlstate == "42501":
            raise
        words = translate(exc, what=f"{name}: {wanted.words}")
        raise BadRequest(
            f"the source can't compare as asked: {words.message}",
            hint="A value must fit the type of its column, which must have that comparison.",
        ) from exc


async def _rows(connection: Fetches, name: TableName, shape: Shape, every: str) -> int:
    """What the planner expects."""
    (row,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {_copy(name, shape, every).select}")
    plan: Any = json.loads(row[0])
    return int(plan[0]["Plan"]["Plan Rows"])


def _copy(name: TableName, shape: Shape, expression: str) -> TableCopy:
    names = tuple(column.name for column in shape.columns if not column.generated)
    return TableCopy(name, names, expression)
