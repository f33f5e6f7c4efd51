"""Deferrable unique and exclusion constraints, for rows that a peer sent.

PostgreSQL checks them by a trigger, and the replica role keeps triggers quiet: two rows could have
the same value for ever. Owns the check of written rows, as plpgsql that raises what the trigger
would have raised. A constraint that only a partition has is not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.names import quote_ident, quote_literal
from peersync.postgres.log.rows import ShapeLike, Target
from peersync.postgres.sqlfiles import queries

LATE_KEYS: Final = queries("late")["late_keys"]


@dataclass(frozen=True)
class LateKey:
    """What no two rows of the table `oid` may have; the lists are of equal length."""

    oid: int
    name: str
    is_unique: bool
    nulls_equal: bool
    predicate: str | None
    compared: Collection[str]
    operators: Collection[str]


def check_body(target: Target, keys: Iterable[LateKey], shape: ShapeLike, source: str) -> str:
    """Statements that raise where a row is one of two; "" without such constraints.

    Looked at are the rows whose keys are in `source`, a SELECT of `literal`; without a key, all.
    """
    return "".join(_check(target, late, shape, source) for late in keys)


def check_sql(body: str) -> list[str]:
    """The statement that runs them, if there are any."""
    if not body:
        return []
    return [f"DO {quote_literal(f'#variable_conflict use_column{chr(10)}BEGIN {body}END')}"]


async def refuse_late(
    conn: asyncpg.Connection, target: Target, shape: ShapeLike, key: str | None
) -> None:
    """Raises the driver's UniqueViolationError or its like where this row is one of two."""
    keys = [LateKey(**row) for row in await conn.fetch(LATE_KEYS, [target.oid])]
    source = f"SELECT {quote_literal(key or '')}::text AS literal"
    for sql in check_sql(check_body(target, keys, shape, source)):
        await conn.execute(sql)


def _check(target: Target, late: LateKey, shape: ShapeLike, source: str) -> str:
    fields = ", ".join(f"({text}) AS e{n}" for n, text in enumerate(late.compared))
    rows = f"SELECT tableoid AS rel, ctid AS place, {fields} FROM {target.only} AS t WHERE "
    rows += f"({late.predicate})" if late.predicate else "true"
    same = " AND ".join(
        f"(w.e{n} {op} o.e{n}"
        + (f" OR w.e{n} IS NULL AND o.e{n} IS NULL)" if late.nulls_equal else ")")
        for n, op in enumerate(late.operators)
    )
    words = f'rows of {target.name} collide in the deferrable constraint "{late.name}"'
    kind = "unique_violation" if late.is_unique else "exclusion_violation"
    return (
        f"IF EXISTS (SELECT FROM ({rows}{_meant(target, shape, source)}) AS w JOIN ({rows}) AS o "
        f"ON {same} WHERE (w.rel, w.place) <> (o.rel, o.place)) THEN "
        f"RAISE {kind} USING MESSAGE = {quote_literal(words)}; END IF; "
    )


def _meant(target: Target, shape: ShapeLike, source: str) -> str:
    key = target.key_of(tuple(shape.key))
    if key is None:
        return ""
    types = [target.by_name[column].type for column in key.columns]
    fields = ", ".join(f"(r).c{n}::{name} AS k{n}" for n, name in enumerate(types, start=1))
    same = " AND ".join(
        f"t.{quote_ident(column)} {op} d.k{n}"
        for n, (column, op) in enumerate(zip(key.columns, key.operators, strict=True), start=1)
    )
    return (
        f" AND EXISTS (SELECT FROM (SELECT {fields} FROM (SELECT l.literal::peersync.fields_"
        f"{len(types)} AS r FROM ({source}) AS l OFFSET 0) AS x) AS d WHERE {same})"
    )
