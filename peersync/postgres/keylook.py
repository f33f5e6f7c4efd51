"""The rows of some keys, looked at once more: their hashes, their versions, their values.

A version is the transaction that wrote the row last, so that a value which went away and came
back is not taken for one that stood still. Values are for people: cut to a length, and never
hashed for a proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from peersync.core.names import quote_ident
from peersync.postgres.digestform import SETTINGS, Key, key_of, number_of, plain_sql
from peersync.postgres.keyorder import Order, read_order
from peersync.postgres.rowform import Shape, portable_hash

SHOWN_CHARACTERS = 2_000


_BYTEWISE: Final = ' COLLATE pg_catalog."C"'
_TEXTS: Final = ("text", "varchar", "bpchar")  # casts of bounds that are ordered by their bytes
_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class Looked:
    """A row at one moment; `version` is "" where the row is not one row."""

    digest: int
    copies: int
    version: str

    def __add__(self, other: Looked) -> Looked:
        """Two rows of one key: never one row, nor what the last of them is."""
        return Looked((self.digest + other.digest) & _MASK, self.copies + other.copies, "")


@dataclass(frozen=True, slots=True)
class Fields:
    """Of each column: a digest of its whole text, and the beginning of it. None is NULL."""

    digests: tuple[str | None, ...]
    texts: tuple[str | None, ...]


async def look_at_keys(
    conn: asyncpg.Connection, shape: Shape, keys: Sequence[Key]
) -> dict[Key, Looked]:
    """Those of the keys that have rows. Keys are texts as `row_hashes` gives them."""
    order = await read_order(conn, shape)
    await conn.execute(SETTINGS + ("off" if order.indexed else "on"))
    version = _version(shape)
    order = replace(order, source=order.source.replace("SELECT ", f"SELECT {version} AS v, ", 1))
    texts = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    rows = await conn.fetch(
        f"SELECT {texts}, {plain_sql(shape, 's.h')} AS h, s.n, s.v {_found(order)}",
        *_lists(order, list(dict.fromkeys(keys))),
    )
    found: dict[Key, Looked] = {}
    for row in rows:
        looked = Looked(number_of(shape, row["h"]), row["n"], row["v"])
        add_looked(found, key_of(row, order), looked)
    return found


def add_looked(found: dict[Key, Looked], key: Key, looked: Looked) -> None:
    """Rows of one key are summed."""
    before = found.get(key)
    found[key] = looked if before is None else before + looked


async def read_fields(
    conn: asyncpg.Connection, shape: Shape, keys: Sequence[Key]
) -> dict[Key, Fields]:
    """The columns of the rows with these keys. Not for tables without a key."""
    order = await read_order(conn, shape)
    await conn.execute(SETTINGS + ("off" if order.indexed else "on"))
    columns = [f"t.{quote_ident(c)}" for c in shape.columns]
    digests = ", ".join(
        f"CASE WHEN num_nulls({c}) = 0 THEN {_whole_text(c)}::text END" for c in columns
    )
    texts = ", ".join(f"left({c}::text, {SHOWN_CHARACTERS})" for c in columns)
    extra = f"SELECT ARRAY[{digests}]::text[] AS d, ARRAY[{texts}]::text[] AS x, "
    order = replace(order, source=order.source.replace("SELECT ", extra, 1))
    named = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    rows = await conn.fetch(f"SELECT {named}, s.d, s.x {_found(order)}", *_lists(order, keys))
    return {key_of(row, order): Fields(tuple(row["d"]), tuple(row["x"])) for row in rows}


async def in_order(conn: asyncpg.Connection, shape: Shape, keys: Sequence[Key]) -> bool:
    """Whether the keys are in the order of the table's; equal ones may follow each other."""
    if not keys:
        return True
    order = await read_order(conn, shape)
    names = [f"k{n}" for n in range(1, order.width + 1)]
    pairs = list(zip(names, order.casts, strict=True))
    casts = ", ".join(f"b.{name}::{cast} AS {name}" for name, cast in pairs)
    by = ", ".join(f"s.{name}{_BYTEWISE * (cast in _TEXTS)}" for name, cast in pairs)
    lists = ", ".join(f"${n}::text[]" for n in range(1, order.width + 1))
    given = f"unnest({lists}) WITH ORDINALITY AS b ({', '.join(names)}, place)"
    found = await conn.fetchval(
        "SELECT bool_and(r.sorted = r.place) FROM (SELECT s.place, row_number() OVER "
        f"(ORDER BY {by}, s.place) AS sorted "
        f"FROM (SELECT b.place, {casts} FROM {given}) AS s) AS r",
        *_lists(order, keys),
    )
    return bool(found)


def _whole_text(column: str) -> str:
    return portable_hash(f"ROW({column})::text", wide=False)


def _version(shape: Shape) -> str:
    return "''::text" if not shape.key or shape.where is not None else "t.xmin::text"


def _found(order: Order) -> str:
    """The rows s whose key is one of the parameters."""
    names = [f"l{n}" for n in range(1, order.width + 1)]
    lists = ", ".join(f"${n}::text[]" for n in range(1, order.width + 1))
    same = " AND ".join(
        f"s.k{n} = b.l{n}::{cast}" + (f" AND {sort} = b.l{n}::{cast}" * (sort != f"s.k{n}"))
        for n, (sort, cast) in enumerate(zip(order.sort, order.casts, strict=True), 1)
    )
    wanted = f"FROM unnest({lists}) AS b ({', '.join(names)})"
    if not order.indexed:  # one scan of the table for all of them
        return f"{wanted} JOIN ({order.source}) AS s ON {same}"
    rows = f"(SELECT * FROM ({order.source}) AS s WHERE {same} OFFSET 0)"
    return f"{wanted} CROSS JOIN LATERAL {rows} AS s"


def _lists(order: Order, keys: Sequence[Key]) -> list[list[str]]:
    return [[key[n] for key in keys] for n in range(order.width)]
