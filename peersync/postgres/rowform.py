"""How a row becomes one number, so that equal numbers mean equal rows on two servers.

PostgreSQL's own hash functions are fast, and follow `=`: to them 1.0 is 1.00, -0.0 is 0.0, one
month is 30 days, an array is its elements, an enum is an oid, and a bigint is the xor of its
halves. So only types whose hash sees every bit are hashed as they are; a bigint with its upper
half once more as seed; times as their binary form in hexadecimal digits; everything else as what
its output function writes. A ROW() around a value costs more than its digits do, so only a long
bytea gets one, which then is not written out at twice its length. Each column has a seed of its own
and the columns' hashes are put together by xor; then the row is hashed once more, because two rows
that swap values would cancel out in a block of them.

Where two servers do not hash alike, and for 128 bits, a row is the SHA-256 of its text in UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from peersync.core.names import TableName, quote_ident

_C: Final = 'COLLATE pg_catalog."C"'
_SENT: Final = {
    "interval": "interval_send",
    "time without time zone": "time_send",
    "timestamp without time zone": "timestamp_send",
    "timestamp with time zone": "timestamptz_send",
}
# Hashes that see all of a value; {x} is the column, {s} the seed.
_OWN: Final = {
    "smallint": "hashint2extended({x}, {s})",
    "integer": "hashint4extended({x}, {s})",
    "bigint": "hashint8extended({x}, ({x} >> 32) # {s})",
    "oid": "hashoidextended({x}, {s})",
    "boolean": "hashint4extended({x}::integer, {s})",
    "uuid": "uuid_hash_extended({x}, {s})",
    "text": 'hashtextextended({x} COLLATE pg_catalog."C", {s})',
    "character varying": 'hashtextextended({x} COLLATE pg_catalog."C", {s})',
}
# What their output functions write, called by name: a cast to text may be somebody's own.
_WRITTEN: Final = {"numeric": "numeric_out", "jsonb": "jsonb_out", "json": "json_out"}
_TEXT: Final = 'hashtextextended({text} COLLATE pg_catalog."C", {seed})'
_LONG_BYTES: Final = 128  # below it hexadecimal digits cost less than a record
# Without the blanks at its end, which a type of fixed length has as many of as fit.
_FIXED: Final = 'hashbpcharextended({x} COLLATE pg_catalog."C", {s})'
_FLOATS: Final = {"real": "hashfloat4extended", "double precision": "hashfloat8extended"}
_MASK: Final = (1 << 64) - 1
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
    hashes: list[str] = []
    for n, (name, type_name) in enumerate(zip(shape.columns, shape.types, strict=True)):
        column, seed = f"t.{quote_ident(name)}", _seed(2 * n + 1)
        own = None if name in shape.as_text else _own_hash(column, type_name, seed)
        hashes.append(f"coalesce({own or _hash_of_text(column, seed)}, {_seed(2 * n + 2)})")
    return f"pg_catalog.hashint4extended(0, {_xor(hashes)})"


def _seed(number: int) -> str:
    """Numbers that have nothing in common (splitmix64), as SQL."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    mixed ^= mixed >> 31
    return f"({mixed - (1 << 64) if mixed >> 63 else mixed})::bigint"


def _xor(hashes: Sequence[str]) -> str:
    """In halves: a chain of hundreds is too deep for PostgreSQL's stack."""
    if len(hashes) == 1:
        return hashes[0]
    half = len(hashes) // 2
    return f"({_xor(hashes[:half])} # {_xor(hashes[half:])})"


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


def _own_hash(column: str, type_name: str, seed: str) -> str | None:
    """A hash that sees all of the column, or NULL; None where only its text will do."""
    base = base_type(type_name)
    if base in _FLOATS:  # whose hash takes -0 for 0
        zero = _of_text(f"{column}::text", seed)
        other = f"pg_catalog.{_FLOATS[base]}({column}, {seed})"
        return f"CASE WHEN {column} = 0 THEN {zero} ELSE {other} END"
    if base == "date":  # an infinite one is no number of days
        days = f"pg_catalog.hashint4extended({column} - '2000-01-01'::date, {seed})"
        never = _of_text(f"{column}::text", seed)
        return f"CASE WHEN pg_catalog.isfinite({column}) THEN {days} ELSE {never} END"
    if base == "bytea":
        long = f"pg_catalog.hash_record_extended(ROW({column}), {seed})"
        short = _of_text(_digits(column), seed)
        return (
            f"CASE WHEN pg_catalog.octet_length({column}) > {_LONG_BYTES} "
            f"THEN {long} ELSE {short} END"
        )
    if base in _SENT:
        return _of_text(_digits(f"pg_catalog.{_SENT[base]}({column})"), seed)
    written = "array_out" if base.endswith("[]") else _WRITTEN.get(base)
    if written is not None:
        return _of_text(f"pg_catalog.textin(pg_catalog.{written}({column}))", seed)
    if base == "character" and base != type_name:
        form = _FIXED
    elif base in _OWN:
        form = _OWN[base]
    else:
        return None
    return "pg_catalog." + form.format(x=column, s=seed)


def _digits(binary: str) -> str:
    return f"pg_catalog.encode({binary}, 'hex')"


def _of_text(text: str, seed: str) -> str:
    return "pg_catalog." + _TEXT.format(text=text, seed=seed)


def _hash_of_text(column: str, seed: str) -> str:
    """By its output function: `::text` of a bpchar drops blanks. A row of NULLs is not NULL."""
    text = _of_text(f"pg_catalog.concat({column})", seed)
    return f"CASE WHEN pg_catalog.num_nulls({column}) = 0 THEN {text} END"


def _text_row(columns: tuple[str, ...] | list[str]) -> str:
    """By the output functions, NULL told from anything: `::text` of a char(n) drops blanks."""
    return f"ROW({', '.join(f't.{quote_ident(c)}' for c in columns)})::text"
