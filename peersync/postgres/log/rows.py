"""One table as a place where images of rows are written.

Owns the SQL that turns record literals of a peer's table into rows of ours: columns by name,
generated ones left out, identity values as they came. Every statement takes its literals from a
SELECT, so the same text serves twenty thousand staged rows and a single parameter. It decides
nothing: which image a row is to have is known before.

A literal is cast to a type of nothing but text columns (`peersync.fields_<n>`), once a row; the
fields are then read as the types that the table has here. Those are named without their length:
a cast to varchar(3) would cut in silence what an assignment refuses.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import asyncpg
import msgspec

from peersync.core.errors import NotFound, SchemaMismatch
from peersync.core.names import TableName, quote_ident
from peersync.postgres.log.capture import UNLOGGED
from peersync.postgres.sqlfiles import queries

SQL: Final = queries("apply")


class ShapeLike(Protocol):
    """What the columns of an image are: a ShapeInfo of the wire, or a Shape of the log."""

    @property
    def shape(self) -> int: ...
    @property
    def schema(self) -> str: ...
    @property
    def table(self) -> str: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def types(self) -> tuple[str, ...]: ...
    @property
    def key(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Shape:
    shape: int
    schema: str
    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]


class TargetColumn(msgspec.Struct, frozen=True):
    """`type` is without a length, `full_type` with it. `identity`: "", "a" always, "d"."""

    name: str
    full_type: str
    type: str
    generated: bool
    identity: str
    not_null: bool
    has_default: bool
    place: int = 0


class TargetKey(msgspec.Struct, frozen=True):
    """`immediate`: ON CONFLICT can name it; a deferrable one it cannot.

    `primary`: the name of its constraint, where it is the primary key.
    """

    columns: tuple[str, ...]
    operators: tuple[str, ...]
    immediate: bool
    primary: str | None = None


@dataclass(frozen=True)
class Target:
    """A table as it is here now. `oid` is None where there is none of this name.

    `relation` is where rows are written: the root, for a partition. `keys`: best first.
    `captured`: its changes are logged; `reason` why not. `dropped`: places of dropped columns.
    `ruled`: it has rules ON INSERT or ON UPDATE; `instead`: one that would take our rows away.
    """

    tbl: int | None
    name: TableName
    oid: int | None
    relation: TableName
    partitioned: bool
    columns: tuple[TargetColumn, ...]
    keys: tuple[TargetKey, ...]
    state: str | None
    parked: str | None
    strategy: str
    captured: bool
    reason: str | None
    dropped: tuple[int, ...]
    ruled: bool
    instead: str | None

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the key by which this node logs the table; none where it has no key."""
        return self.keys[0].columns if self.keys else ()

    @property
    def generated(self) -> frozenset[str]:
        return frozenset(c.name for c in self.columns if c.generated)

    @property
    def always(self) -> frozenset[str]:
        """Identity columns that no UPDATE can give a value."""
        return frozenset(c.name for c in self.columns if c.identity == "a")

    @cached_property
    def by_name(self) -> dict[str, TargetColumn]:
        return {column.name: column for column in self.columns}

    def key_of(self, columns: tuple[str, ...]) -> TargetKey | None:
        return next((key for key in self.keys if key.columns == columns), None)

    def merges(self, columns: tuple[str, ...]) -> bool:
        """Whether ON CONFLICT is accepted: their key is not deferrable, and there are no rules."""
        key = self.key_of(tuple(columns))
        return key is not None and key.immediate and not self.ruled

    @property
    def only(self) -> str:
        """The relation in FROM: without inheritance children, which are tables of their own."""
        return self.relation.sql if self.partitioned else f"ONLY {self.relation.sql}"


# --- reading --------------------------------------------------------------------------------
async def read_targets(
    conn: asyncpg.Connection, names: Collection[TableName]
) -> dict[TableName, Target]:
    """Of every name, also of those that are no table here."""
    wanted = list(names)
    rows = await conn.fetch(SQL["targets"], [n.schema for n in wanted], [n.name for n in wanted])
    return {target.name: target for target in map(target_of, rows)}


async def read_target(conn: asyncpg.Connection, tbl: int) -> Target:
    """The table with this number as it is here now. NotFound for a number nobody gave."""
    row = await conn.fetchrow(SQL["target_name"], tbl)
    if row is None:
        raise NotFound(f"periodic sync knows no table number {tbl} here")
    name = TableName(row["schema_name"], row["table_name"])
    return (await read_targets(conn, [name]))[name]


async def read_shapes(conn: asyncpg.Connection, shapes: Collection[int]) -> dict[int, Shape]:
    """Those of them that are known here."""
    rows = await conn.fetch(SQL["shapes"], list(shapes))
    return {
        row["shape"]: Shape(
            row["shape"],
            row["schema_name"],
            row["table_name"],
            tuple(row["columns"]),
            tuple(row["types"]),
            tuple(row["key"]),
        )
        for row in rows
    }


def target_of(row: Any) -> Target:
    """A row of the query `targets`. One that is unlogged is not left out by anybody: it waits."""
    name = TableName(row["schema_name"], row["table_name"])
    state = "refused" if row["reason"] == UNLOGGED else row["state"]
    there = row["oid"] is not None
    return Target(
        tbl=row["tbl"],
        name=name,
        oid=row["oid"],
        relation=TableName(row["relation_schema"], row["relation_name"]) if there else name,
        partitioned=row["partitioned"],
        columns=msgspec.json.decode(row["columns"], type=tuple[TargetColumn, ...]),
        keys=msgspec.json.decode(row["keys"], type=tuple[TargetKey, ...]),
        state=state,
        parked=row["parked"],
        strategy=row["strategy"],
        captured=row["captured"],
        reason=row["reason"],
        dropped=tuple(row["dropped"]),
        ruled=row["ruled"],
        instead=row["instead"],
    )


async def ensure_fields(conn: asyncpg.Connection, sizes: Collection[int]) -> None:
    """Makes the types that record literals of so many fields are read with."""
    wanted = sorted({size for size in sizes if size})
    for row in await conn.fetch(SQL["missing_fields"], wanted):
        columns = ", ".join(f"c{n} text" for n in range(1, row["n"] + 1))
        try:
            await conn.execute(f"CREATE TYPE peersync.fields_{row['n']} AS ({columns})")
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError):
            continue  # another session made it at the same time


# --- statements -----------------------------------------------------------------------------
def written_columns(target: Target, shape: ShapeLike) -> tuple[str, ...]:
    """Columns of the image that the table has and that can be given a value."""
    return tuple(
        c for c in shape.columns if c in target.by_name and not target.by_name[c].generated
    )


def upsert_sql(target: Target, shape: ShapeLike, source: str) -> str:
    """Rows get the images of `source`, a SELECT of `literal`; new ones are inserted.

    Only where `target.merges` the key; else `delete_sql` and `insert_sql` do it. Two statements
    where only an INSERT can give a row its number.
    """
    return "; ".join([*_renumber_sql(target, shape, source), _merge_sql(target, shape, source)])


def _merge_sql(target: Target, shape: ShapeLike, source: str) -> str:
    _key(target, shape)
    insert = insert_sql(target, shape, source)
    listed = ", ".join(quote_ident(c) for c in shape.key)
    changed = [c for c in written_columns(target, shape) if c not in target.always]
    sets = ", ".join(f"{quote_ident(c)} = excluded.{quote_ident(c)}" for c in changed)
    return f"{insert} ON CONFLICT ({listed}) DO " + (f"UPDATE SET {sets}" if sets else "NOTHING")


def _renumber_sql(target: Target, shape: ShapeLike, source: str) -> list[str]:
    """Rows that have another number than their image in a column that no UPDATE may set are gone.

    None where there is no such column beside the key. All other rows stay, with what they have in
    columns that the peer's table lacks.
    """
    key, places = tuple(shape.key), {c: n for n, c in enumerate(shape.columns, start=1)}
    numbers = [c for c in written_columns(target, shape) if c in target.always - set(key)]
    if not numbers:
        return []
    named = [
        *((c, f"k{n}") for n, c in enumerate(key, start=1)),
        *((c, f"n{places[c]}") for c in numbers),
    ]
    fields = ", ".join(f"{_field(places[c], target.by_name[c].type)} AS {a}" for c, a in named)
    other = " OR ".join(f"t.{quote_ident(c)} IS DISTINCT FROM d.n{places[c]}" for c in numbers)
    return [
        f"DELETE FROM {target.only} AS t USING "
        f"(SELECT {fields} FROM {_records(len(shape.columns), source)}) AS d "
        f"WHERE {_same_key(target, key)} AND ({other})"
    ]


def insert_sql(target: Target, shape: ShapeLike, source: str) -> str:
    """New rows with the images of `source`, whatever is there."""
    written = written_columns(target, shape)
    places = {c: n for n, c in enumerate(shape.columns, start=1)}
    values = ", ".join(_field(places[c], target.by_name[c].type) for c in written)
    listed = ", ".join(map(quote_ident, written))
    return (
        f"INSERT INTO {target.relation.sql} ({listed}) OVERRIDING SYSTEM VALUE "
        f"SELECT {values} FROM {_records(len(shape.columns), source)}"
    )


def delete_sql(target: Target, shape: ShapeLike, source: str) -> str:
    """Rows with the keys of `source` are gone; those that are not there are no error."""
    key = tuple(shape.key)
    same, fields = _same_key(target, key), _key_fields(target, key)
    return (
        f"DELETE FROM {target.only} AS t USING "
        f"(SELECT {fields} FROM {_records(len(shape.key), source)}) AS d WHERE {same}"
    )


def remove_sql(target: Target, shape: ShapeLike, source: str) -> str:
    """Of a table without a key: for each literal of `source` one row that is equal to it goes.

    Equal but for generated columns: a virtual one is null in an image, one that is stored is not.
    """
    made = target.generated & set(shape.columns)
    row = _row_text(shape.columns, made)
    if made:
        places = enumerate(shape.columns, start=1)
        fields = ", ".join("NULL" if c in made else f"(r).c{n}" for n, c in places)
        source = (
            f"SELECT ROW({fields})::text AS literal FROM {_records(len(shape.columns), source)}"
        )
    return (
        f"DELETE FROM {target.only} WHERE (tableoid, ctid) IN (SELECT x.tableoid, x.ctid FROM ("
        f"SELECT t.tableoid, t.ctid, d.copies, row_number() OVER (PARTITION BY d.literal) AS nth "
        f"FROM {target.only} AS t JOIN (SELECT literal, count(*) AS copies FROM ({source}) AS l "
        f"GROUP BY literal) AS d ON d.literal = {row}) AS x WHERE x.nth <= x.copies)"
    )


def clear_sql(target: Target, key: tuple[str, ...], survivors: str | None = None) -> str:
    """All rows are gone but those whose key is among `survivors`, a SELECT of `literal`."""
    if survivors is None:
        return f"DELETE FROM {target.only} AS t"
    same = _same_key(target, key)  # not by text: a numeric key 1.00 is written as 1
    fields = _key_fields(target, key)
    return (
        f"DELETE FROM {target.only} AS t WHERE NOT EXISTS (SELECT FROM "
        f"(SELECT {fields} FROM {_records(len(key), survivors)}) AS d WHERE {same})"
    )


async def write_row(
    conn: asyncpg.Connection,
    target: Target,
    shape: ShapeLike,
    op: str,
    key: str | None,
    image: str | None,
) -> int:
    """One row as an I, U or D leaves it; `key` and `image` are record literals of `shape`.

    Gives how many rows were touched. SchemaMismatch where the shape does not fit the table;
    what the table refuses comes as the driver raises it.
    """
    await ensure_fields(conn, (len(shape.columns), len(shape.key)))
    one = "SELECT $1::text AS literal"
    if not shape.key:
        sql = remove_sql(target, shape, one) if op == "D" else insert_sql(target, shape, one)
        literal = image
    elif op == "D":
        sql, literal = delete_sql(target, shape, one), key
    else:
        if not target.merges(shape.key):
            await conn.execute(delete_sql(target, shape, one), key)
        else:
            for renumber in _renumber_sql(target, shape, one):
                await conn.execute(renumber, image)
        write = _merge_sql if target.merges(shape.key) else insert_sql
        sql, literal = write(target, shape, one), image
    status: str = await conn.execute(sql, literal)
    return int(status.rpartition(" ")[2])


def _key(target: Target, shape: ShapeLike) -> TargetKey:
    return _key_named(target, tuple(shape.key))


def _key_named(target: Target, names: tuple[str, ...]) -> TargetKey:
    key = target.key_of(names)
    if key is None:
        listed = ", ".join(names)
        raise SchemaMismatch(f"{target.name} has no unique key ({listed}) that is never null")
    return key


def _key_fields(target: Target, key: tuple[str, ...]) -> str:
    return ", ".join(
        f"{_field(n, target.by_name[c].type)} AS k{n}" for n, c in enumerate(key, start=1)
    )


def _same_key(target: Target, key: tuple[str, ...]) -> str:
    """`t` is the row with the key fields of `d`, by the operators of the index."""
    pairs = zip(key, _key_named(target, key).operators, strict=True)
    return " AND ".join(
        f"t.{quote_ident(c)} {op} d.k{n}" for n, (c, op) in enumerate(pairs, start=1)
    )


def _records(size: int, source: str) -> str:
    """`OFFSET 0` keeps the planner from casting the literal anew for each field of it."""
    return (
        f"(SELECT l.literal::peersync.fields_{size} AS r FROM ({source}) AS l OFFSET 0) AS records"
    )


def _field(place: int, type_name: str) -> str:
    return f"(r).c{place}::{type_name}"


def _row_text(columns: Collection[str], unread: Collection[str]) -> str:
    fields = ("NULL" if c in unread else f"t.{quote_ident(c)}" for c in columns)
    return f"ROW({', '.join(fields)})::text"
