"""One row of a table, read, locked and written for a person who looks at a conflict.

Ordinary statements, unlike those of `rows`: an UPDATE where there is a row and an INSERT where
there is none, so that the application's triggers see what they would see of an application.
Values travel as constants without a type: the server reads each as what the column is, with its
length checked. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Collection

import asyncpg

from peersync.core.errors import CorruptData, NotFound, SchemaMismatch
from peersync.core.names import quote_ident, quote_literal
from peersync.postgres.log.literal import parse_record
from peersync.postgres.log.rows import Shape, Target, read_shapes, read_target

Values = dict[str, str | None]
_TAKES_ROWS_SQL = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint
                WHERE contype = 'f' AND confrelid = $1 AND confdeltype NOT IN ('a', 'r'))
"""
# How the log writes the key of a table; null for columns that are not what it is logged by.
_KEY_SQL = """
SELECT peersync.key_sql(f.facts, 't')
  FROM (SELECT peersync.capture_facts($1::bigint::oid) AS facts) AS f
 WHERE ARRAY(SELECT k ->> 0 FROM pg_catalog.jsonb_array_elements(f.facts -> 'key')
             WITH ORDINALITY AS u (k, n) ORDER BY n) = $2::text[]
"""


def image_values(shape: Shape, image: str) -> Values:
    """An image by column. CorruptData when it does not have the columns of its shape."""
    return _named(shape.columns, image)


def key_values(shape: Shape, key: str) -> Values:
    """A key by column."""
    return _named(shape.key, key)


def _named(columns: Collection[str], record: str) -> Values:
    fields = parse_record(record)
    if len(fields) != len(columns):
        raise CorruptData(f"a row of the log has {len(fields)} fields, and {len(columns)} columns")
    return dict(zip(columns, fields, strict=True))


async def read_shape(conn: asyncpg.Connection, shape: int) -> Shape:
    """NotFound where the shape has left the log."""
    found = await read_shapes(conn, [shape])
    if shape not in found:
        raise NotFound(f"the columns of this row are not known any more (shape {shape})")
    return found[shape]


async def existing_target(conn: asyncpg.Connection, tbl: int) -> Target:
    """A table by its number. SchemaMismatch where it is not in this database now."""
    target = await read_target(conn, tbl)
    if target.oid is None:
        raise SchemaMismatch(f"the table {target.name} is not in this database")
    return target


def names_of(target: Target) -> tuple[str, ...]:
    return tuple(column.name for column in target.columns)


async def read_row(
    conn: asyncpg.Connection, target: Target, key: Values, *, lock: bool = False
) -> Values | None:
    """The row with this key as it is now, all columns; None where there is none."""
    fields = ", ".join(map(quote_ident, names_of(target)))
    sql = f"SELECT ROW({fields})::text FROM {target.only} WHERE {_is(key)}"
    found = await conn.fetchval(sql + (" FOR UPDATE" if lock else ""))
    return None if found is None else _named(names_of(target), found)


async def canonical_key(conn: asyncpg.Connection, target: Target, key: Values) -> str:
    """A typed key as the log writes it: `01` of an integer is `(1)`.

    The types are the table's own: a shape may have come from a peer, and no SQL comes from one.
    """
    types = {column.name: column.full_type for column in target.columns}
    fields = ", ".join(
        f"CAST({_constant(value)} AS {types[name]}) AS {quote_ident(name)}"
        for name, value in key.items()
    )
    written = await conn.fetchval(_KEY_SQL, target.oid, list(key))
    text: str = await conn.fetchval(
        f"SELECT {written or 'ROW(t.*)::text'} FROM (SELECT {fields}) AS t"
    )
    return text


async def write_values(conn: asyncpg.Connection, target: Target, key: Values, new: Values) -> None:
    """Makes the row what `new` says, in the columns that the table has and does not make itself."""
    named = [n for n in names_of(target) if n in new and n not in target.generated]
    if await _is_renumbered(conn, target, key, new):
        now = await read_row(conn, target, key, lock=True) or {}
        await delete_row(conn, target, key)
        await insert_values(conn, target, {**now, **new})
        return
    changed = [name for name in named if name not in key and name not in target.always]
    if changed:
        sets = ", ".join(f"{quote_ident(name)} = {_constant(new[name])}" for name in changed)
        done = await conn.execute(f"UPDATE {target.only} SET {sets} WHERE {_is(key)}")
    else:
        done = await conn.execute(f"SELECT FROM {target.only} WHERE {_is(key)} FOR UPDATE")
    if done.endswith(" 0"):
        await insert_values(conn, target, new)


async def _is_renumbered(
    conn: asyncpg.Connection, target: Target, key: Values, new: Values
) -> bool:
    """Whether the row is there with another number in a column that no UPDATE may set.

    Not where rows of other tables would go with it when it is deleted: then it keeps its number.
    """
    numbers = [name for name in target.always if name in new and name not in key]
    if not numbers:
        return False
    row = await read_row(conn, target, key, lock=True)
    if row is None or all(row[name] == new[name] for name in numbers):
        return False
    return not await conn.fetchval(_TAKES_ROWS_SQL, target.oid)


async def insert_values(conn: asyncpg.Connection, target: Target, new: Values) -> None:
    """A new row, with the values of its identity columns."""
    named = [n for n in names_of(target) if n in new and n not in target.generated]
    listed = ", ".join(map(quote_ident, named))
    values = ", ".join(_constant(new[name]) for name in named)
    await conn.execute(
        f"INSERT INTO {target.relation.sql} ({listed}) OVERRIDING SYSTEM VALUE VALUES ({values})"
    )


async def delete_row(conn: asyncpg.Connection, target: Target, key: Values) -> None:
    """The row is gone afterwards, also where it was not there."""
    await conn.execute(f"DELETE FROM {target.only} WHERE {_is(key)}")


def _is(key: Values) -> str:
    return " AND ".join(
        f"{quote_ident(n)} IS NULL" if value is None else f"{quote_ident(n)} = {_constant(value)}"
        for n, value in key.items()
    )


def _constant(value: str | None) -> str:
    return "NULL" if value is None else quote_literal(value)
