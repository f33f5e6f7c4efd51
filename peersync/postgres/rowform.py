"""How a row becomes one number, so that equal numbers mean equal rows on two servers.

PostgreSQL's own hash functions are fast, and follow `=`: to them 1.0 is 1.00, -0.0 is 0.0, one
month is 30 days, an array is its elements, an enum is an oid, and a bigint is the xor of its
halves. So only types whose hash sees every bit are hashed as they are; bigint, numeric and
times as their binary form; everything else as what its output function writes. The hash of a
record is linear in those of its fields, so two rows that swap values could cancel out in a
block: it is hashed once more.

Where two servers do not hash alike, and for 128 bits, a row is the SHA-256 of its text in UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from peersync.core.names import TableName, quote_ident

_C: Final = 'COLLATE pg_catalog."C"'
_AS_IS: Final = frozenset({"smallint", "integer", "oid", "boolean", "uuid", "date", "bytea"})
_STRINGS: Final = frozenset({"text", "character varying"})
_SENT: Final = {
    "bigint": "int8send",
    "numeric": "numeric_send",
    "interval": "interval_send",
    "time without time zone": "time_send",
    "timestamp without time zone": "timestamp_send",
    "timestamp with time zone": "timestamptz_send",
}
_MANY_COLUMNS: Final = 800  # a ROW() has room for 1664
_LENGTH: Final = re.compile(r"\(\d+(,-?\d+)?\)")


@dataclass(frozen=True)
class Shape:
    """What of a table is compared, as the SQL of one side needs it.

    columns: those that both sides have and neither generates, in the same order on both.
    types: of the columns, as format_type() writes them here. key: a unique key that is never
    null, of these columns; without one whole rows are compared, as a multiset. where: a row filter,
    already SQL of this side. wide: 128 bits. portable: SHA-256 instead of PostgreSQL's hashes.
    as_text: columns whose types differ between the sides and are compared by their text; numbers:
    those of them that are whole numbers of another size, and are ordered as numbers.
    only: without the tables that inherit; False for the root of partitions.

    Both sides must have the same columns, key, wide, portable, as_text and numbers.
    """

    table: TableName
    columns: tuple[str, ...]
    types: tuple[str, ...]
    key: tuple[str, ...]
    where: str | None = None
    wide: bool = False
    portable: bool = False
    as_text: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    only: bool = True

    def type_of(self, column: str) -> str:
        return self.types[self.columns.index(column)]

    @property
    def rows_sql(self) -> str:
        """The table as an item of FROM, called t."""
        only = "ONLY " if self.only else ""
        if self.where is None:
            return f"{only}{self.table.sql} AS t"
        return f"(SELECT * FROM {only}{self.table.sql} WHERE (\n{self.where}\n)) AS t"


def base_type(type_name: str) -> str:
    """A type without its length: what a bound of any length can be cast to."""
    return _LENGTH.sub("", type_name, count=1)


def row_hash(shape: Shape) -> str:
    """SQL over the alias t: a bigint, or with `wide` a bit(128)."""
    if shape.wide or shape.portable:
        return portable_hash(_text_row(shape.columns), wide=shape.wide)
    fields: list[str] = []
    texts: list[str] = []
    for name, type_name in zip(shape.columns, shape.types, strict=True):
        field = None if name in shape.as_text else _field(name, base_type(type_name))
        if field is None or len(shape.columns) > _MANY_COLUMNS:
            texts.append(name)
        else:
            fields.append(field)
    if texts:
        fields.append(f"{_text_row(texts)} {_C}")
    return text_hash(f"pg_catalog.hash_record_extended(ROW({', '.join(fields)}), 0)::text")


def text_hash(text: str) -> str:
    """SQL for the 64-bit hash of an expression of type text."""
    return f"pg_catalog.hashtextextended(({text}) {_C}, 0)"


def portable_hash(text: str, *, wide: bool) -> str:
    """SQL for the first bits of SHA-256 of an expression of type text: 64, or 128."""
    digits, bits = (32, "bit(128)") if wide else (16, "bit(64)::bigint")
    proof = f"pg_catalog.sha256(pg_catalog.convert_to({text}, 'UTF8'))"
    return f"('x' || pg_catalog.substr(pg_catalog.encode({proof}, 'hex'), 1, {digits}))::{bits}"


def copies_hash(shape: Shape, row: str, copies: str) -> str:
    """SQL for the hash of a whole row together with how often it is there."""
    text = f"{row}::text || ' ' || {copies}::text"
    if shape.wide or shape.portable:
        return portable_hash(text, wide=shape.wide)
    return text_hash(text)


def _field(name: str, base: str) -> str | None:
    """The column where a hash of it sees all of it; None where only its text will do."""
    column = f"t.{quote_ident(name)}"
    if base in _AS_IS:
        return column
    if base in _STRINGS:
        return f"{column} {_C}"
    return f"pg_catalog.{_SENT[base]}({column})" if base in _SENT else None


def _text_row(columns: tuple[str, ...] | list[str]) -> str:
    """By the output functions, NULL told from anything: `::text` of a char(n) drops blanks."""
    return f"ROW({', '.join(f't.{quote_ident(c)}' for c in columns)})::text"
