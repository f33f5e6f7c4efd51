"""The order of a table's keys, the same on two servers whatever their collations are.

Numbers, times, uuids and the like are ordered by their type. Text is ordered by its bytes, and
what has an order that a server may choose (enums, citext, domains, rows, jsonb) by the bytes of
its text; in a portable shape by those of its text in UTF-8, and such a part of a key is written
in hexadecimal. A table without a key is ordered by the hashes of its rows. Owns the SQL of ranges
of keys; an index serves it where the order is the index's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.errors import SchemaMismatch
from peersync.core.names import quote_ident
from peersync.postgres.rowform import Shape, base_type, copies_hash, row_hash
from peersync.postgres.sqlfiles import queries

_C: Final = 'COLLATE pg_catalog."C"'
_BY_TYPE: Final = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "oid",
        "uuid",
        "date",
        "boolean",
        "bytea",
        "numeric",
        "real",
        "double precision",
        "interval",
        "inet",
        "macaddr",
        "money",
        "pg_lsn",
        "time without time zone",
        "timestamp without time zone",
        "timestamp with time zone",
    }
)
WHOLE_NUMBERS: Final = frozenset({"smallint", "integer", "bigint"})
_BY_BYTES: Final = {"text": "text", "character varying": "varchar", "character": "bpchar"}


@dataclass(frozen=True)
class Order:
    """SQL of one table by its key.

    source: SELECT of k1, k2, …, h (the hash of the row) and n (how many rows it stands for).
    sort, casts, texts: of each part of the key, what it is ordered by, the type of a bound, and
    its text, over the alias s. indexed: a range of keys is a range of an index.
    """

    source: str
    sort: tuple[str, ...]
    casts: tuple[str, ...]
    texts: tuple[str, ...]
    indexed: bool

    @property
    def width(self) -> int:
        return len(self.sort)

    @property
    def by(self) -> str:
        """For ORDER BY."""
        return ", ".join(self.sort)

    def bound(self, names: Sequence[str]) -> str:
        """The texts of a key, columns or parameters by these names, as a value to compare with."""
        pairs = zip(names, self.casts, strict=True)
        return _row([f"{name}::{cast}" for name, cast in pairs])

    def within(self, low: Sequence[str] | None, high: Sequence[str] | None) -> str:
        """The condition of [low, high); None is open."""
        key = _row(self.sort)
        parts = [f"{key} >= {self.bound(low)}"] if low is not None else []
        parts += [f"{key} < {self.bound(high)}"] if high is not None else []
        return " AND ".join(parts) or "true"


async def read_order(conn: asyncpg.Connection, shape: Shape) -> Order:
    """The order of a table as it is here now. SchemaMismatch where it is not what `shape` says.

    Hashes of a column that was altered meanwhile would differ from those of the other side.
    """
    sql, name = queries("digest"), shape.table
    types = await conn.fetchval(sql["column_types"], name.schema, name.name, list(shape.columns))
    if tuple(types or ()) != shape.types:
        raise SchemaMismatch(f"{name} is being altered: its columns are not what they were")
    if not shape.key:
        return _of_rows(shape)
    found = await conn.fetchrow(sql["key_order"], name.schema, name.name, list(shape.key))
    if found is None or found["plain"] is None or len(found["plain"]) != len(shape.key):
        raise SchemaMismatch(f"{name} has no longer the key ({', '.join(shape.key)})")
    return _of_key(shape, found["plain"], indexed=found["indexed"])


def _of_key(shape: Shape, plain: Sequence[bool], *, indexed: bool) -> Order:
    columns = zip(shape.key, plain, strict=True)
    parts = [_part(shape, n, name, bytewise=own) for n, (name, own) in enumerate(columns, 1)]
    keys = ", ".join(f"{part.expression} AS k{n}" for n, part in enumerate(parts, 1))
    return Order(
        source=f"SELECT {keys}, {row_hash(shape)} AS h, 1::bigint AS n FROM {shape.rows_sql}",
        sort=tuple(part.sort for part in parts),
        casts=tuple(part.cast for part in parts),
        texts=tuple(part.text for part in parts),
        indexed=indexed and all(part.own for part in parts),
    )


@dataclass(frozen=True)
class _Part:
    expression: str
    sort: str
    cast: str
    text: str
    own: bool  # ordered as an index of the column is


def _part(shape: Shape, n: int, column: str, *, bytewise: bool) -> _Part:
    base, name, key = base_type(shape.type_of(column)), f"t.{quote_ident(column)}", f"s.k{n}"
    as_text = column in shape.as_text
    if base in WHOLE_NUMBERS and column in shape.numbers:
        return _Part(name, key, "bigint", f"{key}::text", own=True)
    if base in _BY_TYPE and not as_text:
        return _Part(name, key, base, _text(base, key), own=True)
    if shape.portable:  # the two may not have the same encoding
        text = f"pg_catalog.encode(pg_catalog.convert_to({name}::text, 'UTF8'), 'hex')"
        return _Part(text, f"{key} {_C}", "text", key, own=False)
    if base in _BY_BYTES and not (as_text and base == "character"):
        sort = key if bytewise else f"{key} {_C}"
        return _Part(name, sort, _BY_BYTES[base], f"{key}::text", own=bytewise)
    return _Part(f"{name}::text", f"{key} {_C}", "text", key, own=False)


def written_by_type(shape: Shape) -> bool:
    """Whether the texts of a key can be cast to its types: no part is in hexadecimal."""
    own = (base_type(shape.type_of(c)) in _BY_TYPE and c not in shape.as_text for c in shape.key)
    return not shape.portable or all(own)


def shown_key(shape: Shape, key: Sequence[str]) -> tuple[str, ...]:
    """A key as people read it."""
    if not shape.portable or not shape.key:
        return tuple(key)
    hexed = [
        base_type(shape.type_of(c)) not in _BY_TYPE or c in shape.as_text - shape.numbers
        for c in shape.key
    ]
    return tuple(
        bytes.fromhex(part).decode() if is_hex else part
        for part, is_hex in zip(key, hexed, strict=True)
    )


def _text(base: str, name: str) -> str:
    """Equal keys have equal texts: 1.0 and 1.00 are one key, and so are 0 and -0."""
    if base == "numeric":
        return f"pg_catalog.trim_scale({name})::text"
    if base in ("real", "double precision"):
        return f"({name} + 0::{base})::text"
    return f"{name}::text"


def _of_rows(shape: Shape) -> Order:
    """Rows that are the same are one entry, with their number: xor would let pairs vanish."""
    return Order(
        source=f"SELECT g.h AS k1, {copies_hash(shape, 'g.h', 'g.n')} AS h, g.n "
        f"FROM (SELECT {row_hash(shape)} AS h, pg_catalog.count(*) AS n "
        f"FROM {shape.rows_sql} GROUP BY 1) AS g",
        sort=("s.k1",),
        casts=("bit(128)" if shape.wide else "bigint",),
        texts=("s.k1::text",),
        indexed=False,
    )


def _row(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"
