"""What a database has: tables, columns, keys, sequences, as plain values.

Read with named queries (`sql/queries/catalog.sql`) on any connection, inside whatever
transaction the caller has open, so that a plan and a dump can share one view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from peersync.core.names import TableName
from peersync.postgres.sqlfiles import queries


class Fetches(Protocol):
    """An asyncpg connection, pooled or not."""

    async def fetch(self, query: str, *args: Any) -> list[Any]: ...

    async def fetchrow(self, query: str, *args: Any) -> Any: ...


@dataclass(frozen=True)
class Column:
    name: str
    type: str  # as format_type() writes it
    not_null: bool
    generated: bool
    identity: str  # "", "always", "by default"
    has_default: bool
    expression: str | None = None  # a digest of what a generated column is made of


@dataclass(frozen=True)
class UserType:
    """A composite type, domain, enum or range: fields, labels, or what it is based on.

    `uses` are the types that it is made of, named as a column's type is.
    """

    kind: str
    parts: tuple[str, ...]
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnedSequence:
    """A sequence, and the column that owns it: a serial, an identity."""

    name: TableName
    table: TableName | None
    column: str | None


@dataclass(frozen=True)
class Key:
    """Columns that tell rows apart, with the equality that their index uses."""

    columns: tuple[str, ...]
    operators: tuple[str, ...]
    is_primary: bool


@dataclass(frozen=True)
class Table:
    """A table that holds rows. `rows` is the planner's estimate, None before any ANALYZE."""

    oid: int
    name: TableName
    rows: int | None
    size_bytes: int
    has_rules: bool
    has_triggers: bool
    delete_cascades: bool  # a row deleted here takes rows of another table with it
    row_security: bool
    may_select: bool
    may_insert: bool
    may_update: bool
    columns: tuple[Column, ...]
    keys: tuple[Key, ...]
    checked_late: bool = True  # has unique keys or exclusion constraints that are deferrable
    fires_always: tuple[str, ...] = ()  # triggers and rules that the replica role wakes too
    parent: TableName | None = None  # of a partition
    bound: str | None = None  # FOR VALUES … OF parent BY …, and so on up to the root

    def fires(self, *, replica_role: bool) -> bool:
        """Whether triggers or rules may change what is written into it."""
        if replica_role:
            return bool(self.fires_always)
        return self.has_triggers or self.has_rules

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)

    def key_within(self, columns: frozenset[str]) -> Key | None:
        """The best key whose columns are all among these."""
        return next((k for k in self.keys if columns.issuperset(k.columns)), None)


@dataclass(frozen=True)
class Server:
    version_num: int
    version: str
    encoding: str
    size_bytes: int
    large_objects: int
    sequences: int


@dataclass(frozen=True)
class DatabaseCatalog:
    server: Server
    tables: dict[TableName, Table]
    not_copied: tuple[tuple[str, str], ...]  # (object, reason)
    types: Mapping[str, UserType] = field(default_factory=dict)  # by format_type()
    sequences: tuple[OwnedSequence, ...] = ()


async def read_server(connection: Fetches) -> Server:
    row = await connection.fetchrow(queries("catalog")["server"])
    return Server(
        version_num=row["server_version_num"],
        version=row["server_version"],
        encoding=row["encoding"],
        size_bytes=row["size_bytes"],
        large_objects=row["large_objects"],
        sequences=row["sequences"],
    )


async def read_catalog(connection: Fetches) -> DatabaseCatalog:
    """Everything that planning a full sync needs to know of one side."""
    sql = queries("catalog")
    rows = await connection.fetch(sql["tables"])
    oids = [row["oid"] for row in rows]
    columns: dict[int, list[Column]] = {}
    for row in await connection.fetch(sql["columns"], oids):
        columns.setdefault(row["oid"], []).append(
            Column(
                name=row["name"],
                type=row["type"],
                not_null=row["not_null"],
                generated=row["generated"],
                identity=row["identity"],
                has_default=row["has_default"],
                expression=row["expression"],
            )
        )
    keys: dict[int, list[Key]] = {}
    for row in await connection.fetch(sql["keys"], oids):
        key = Key(tuple(row["columns"]), tuple(row["operators"]), row["is_primary"])
        keys.setdefault(row["oid"], []).append(key)
    tables = [_table(row, columns, keys) for row in rows]
    return DatabaseCatalog(
        server=await read_server(connection),
        tables={table.name: table for table in tables},
        not_copied=tuple(
            (row["object"], row["reason"]) for row in await connection.fetch(sql["not_copied"])
        ),
        types={
            row["name"]: UserType(row["kind"], tuple(row["parts"]), tuple(row["uses"]))
            for row in await connection.fetch(sql["types"])
        },
        sequences=tuple(_sequence(row) for row in await connection.fetch(sql["sequences"])),
    )


def _sequence(row: Any) -> OwnedSequence:
    owner = row["owner_name"] and TableName(row["owner_schema"], row["owner_name"])
    return OwnedSequence(TableName(row["schema"], row["name"]), owner, row["owner_column"])


def _table(row: Any, columns: dict[int, list[Column]], keys: dict[int, list[Key]]) -> Table:
    return Table(
        oid=row["oid"],
        name=TableName(row["schema"], row["name"]),
        rows=row["rows"],
        size_bytes=row["size_bytes"],
        has_rules=row["has_rules"],
        has_triggers=row["has_triggers"],
        delete_cascades=row["delete_cascades"],
        row_security=row["row_security"],
        may_select=row["may_select"],
        may_insert=row["may_insert"],
        may_update=row["may_update"],
        columns=tuple(columns.get(row["oid"], ())),
        keys=tuple(keys.get(row["oid"], ())),
        checked_late=row["checked_late"],
        fires_always=tuple(row["fires_always"]),
        parent=row["parent_name"] and TableName(row["parent_schema"], row["parent_name"]),
        bound=row["bound"],
    )
