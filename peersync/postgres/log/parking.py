"""Tables whose incoming changes wait because the table here cannot take them.

Owns the judgement whether images of a shape fit a table, in words and with the statement that
would make them fit, and the list of tables that wait. A parked table's changes are kept in
`peersync.quarantine` in their order; nothing is lost, and the other tables go on. It alters no
table: what is printed is for a person.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.log.rows import ShapeLike, Target, read_shapes, read_targets
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("apply")
# Every value of the first fits the second, and reads back as the same text.
_WIDER: Final = {
    "smallint": {"integer", "bigint", "numeric", "text"},
    "integer": {"bigint", "numeric", "text"},
    "bigint": {"numeric", "text"},
    "real": {"double precision", "text"},
    "double precision": {"text"},
    "numeric": {"text"},
    "character varying": {"text"},
    "character": {"text"},
    "uuid": {"text"},
    "name": {"text"},
}


@dataclass(frozen=True)
class Misfit:
    """Why images do not fit a table, and what would help: a sentence, and SQL."""

    reason: str
    sql: str

    def __str__(self) -> str:
        return f"{self.reason}. What helps: {self.sql}"


@dataclass(frozen=True)
class Parked:
    """A table with waiting changes. `misfit`: what still keeps them from being applied."""

    tbl: int
    name: TableName
    waiting: int
    misfit: Misfit | None


def misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    """None where every column of the image has a place of the same or a wider type."""
    name = target.name
    if target.oid is None:
        return Misfit(f"there is no table {name} here", _create(shape))
    for column, type_name in zip(shape.columns, shape.types, strict=True):
        here = target.by_name.get(column)
        if here is None:
            return Misfit(
                f"{name} has no column {column}, which the peer's has",
                f"ALTER TABLE {name.sql} ADD COLUMN {quote_ident(column)} {type_name};",
            )
        if not here.generated and not _takes(here.full_type, type_name):
            return Misfit(
                f"column {column} of {name} is {here.full_type} here and {type_name} at the peer",
                f"ALTER TABLE {name.sql} ALTER COLUMN {quote_ident(column)} TYPE {type_name} "
                f"USING {quote_ident(column)}::text::{type_name};",
            )
    return _key_misfit(target, shape) or _column_misfit(target, shape)


def _key_misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    name, listed = target.name, ", ".join(map(quote_ident, shape.key))
    if not shape.key:
        if not target.keys:
            return None
        key = ", ".join(target.key)
        return Misfit(
            f"{name} has the key ({key}) here and none at the peer",
            f"at the peer: ALTER TABLE {name.sql} ADD PRIMARY KEY "
            f"({', '.join(map(quote_ident, target.key))});",
        )
    found = target.key_of(tuple(shape.key))
    if found is None:
        kind = "UNIQUE" if target.keys else "PRIMARY KEY"
        return Misfit(
            f"{name} has no unique key ({', '.join(shape.key)}) that is never null",
            f"ALTER TABLE {name.sql} ADD {kind} ({listed});",
        )
    return None


def _column_misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    """A column that is only here, and must have a value that nobody gives."""
    for column in target.columns:
        bare = column.not_null and not column.has_default and not column.generated
        if bare and column.name not in shape.columns:
            quoted = quote_ident(column.name)
            return Misfit(
                f"column {column.name} of {target.name} is not null and has no default, "
                "and the peer's table lacks it",
                f"ALTER TABLE {target.name.sql} ALTER COLUMN {quoted} DROP NOT NULL;",
            )
    return None


def _takes(here: str, there: str) -> bool:
    """Lengths are left to the rows: one that is too long is refused alone."""
    bare, theirs = _bare(here), _bare(there)
    return bare == theirs or bare in _WIDER.get(theirs, ())


def _bare(type_name: str) -> str:
    """Without length or precision: `timestamp(3) without time zone` too."""
    head, opened, rest = type_name.partition("(")
    if not opened or '"' in type_name:
        return type_name
    return head + rest.partition(")")[2]


def _create(shape: ShapeLike) -> str:
    lines = [f"{quote_ident(c)} {t}" for c, t in zip(shape.columns, shape.types, strict=True)]
    if shape.key:
        lines.append(f"PRIMARY KEY ({', '.join(map(quote_ident, shape.key))})")
    return f"CREATE TABLE {TableName(shape.schema, shape.table).sql} ({', '.join(lines)});"


# --- in the database ------------------------------------------------------------------------
async def number_tables(
    conn: asyncpg.Connection, names: Collection[TableName]
) -> dict[TableName, int]:
    """The numbers of tables, new ones where a peer is the first to name a table."""
    wanted = list(names)
    schemas, tables = [n.schema for n in wanted], [n.name for n in wanted]
    await conn.execute(_SQL["add_tables"], schemas, tables)
    rows = await conn.fetch(_SQL["table_numbers"], schemas, tables)
    return {TableName(row["schema_name"], row["table_name"]): row["tbl"] for row in rows}


async def park(conn: asyncpg.Connection, tbl: int, reason: str) -> None:
    """Incoming changes of the table wait from now on. The first reason stays.

    Always an UPDATE: its lock is what makes this session and one that resumes take turns.
    """
    await conn.execute(_SQL["park"], tbl, reason)


async def note_shapes(conn: asyncpg.Connection, shapes: Collection[ShapeLike]) -> None:
    """Makes shapes of peers known here: waiting images and conflicts are read with them."""
    for shape in shapes:
        await conn.execute(
            _SQL["note_shape"],
            shape.shape,
            shape.schema,
            shape.table,
            list(shape.columns),
            list(shape.types),
            list(shape.key),
        )


async def parked_tables(conn: asyncpg.Connection) -> list[Parked]:
    """Tables with waiting changes, and whether those would fit now; cheap where there are none."""
    rows = await conn.fetch(_SQL["parked"])
    if not rows:
        return []
    names = {row["tbl"]: TableName(row["schema_name"], row["table_name"]) for row in rows}
    targets = await read_targets(conn, names.values())
    shapes = await read_shapes(conn, {shape for row in rows for shape in row["shapes"]})
    found = []
    for row in rows:
        name = names[row["tbl"]]
        reasons = (misfit(targets[name], shapes[s]) for s in row["shapes"] if s in shapes)
        still = next((reason for reason in reasons if reason), None)
        found.append(Parked(row["tbl"], name, row["waiting"], still))
    return found
