"""Waiting changes in a shape that their origin has left, made into the shape that it has now.

A column that was dropped, renamed, narrowed, or a key that was changed, on both sides, leaves
changes that fit neither table. Their origin's later changes tell what became of the columns. Owns
that reading (`later_shape`), and the statements that rewrite what is staged. It decides nothing
about rows: a value that does not fit is refused later, alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import asyncpg

from peersync.core.names import quote_ident
from peersync.postgres.log.rows import Shape, ShapeLike, Target, ensure_fields
from peersync.postgres.log.staging import IN
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("apply")
_LISTED: Final = "n, origin, position, ordinal, at, shape, op"


@dataclass(frozen=True)
class Later:
    """What becomes of changes of `old`. `names`: its columns as they are called now, in its order.

    `new` has those of them that its origin still has. `lost`: operations that cannot be told for
    a row of the new shape, because its key is not in them.
    """

    old: ShapeLike
    names: tuple[str, ...]
    new: Shape
    lost: tuple[str, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the old key, as they are called now."""
        now = dict(zip(self.old.columns, self.names, strict=True))
        return tuple(now[column] for column in self.old.key)


def renames(old: ShapeLike, new: ShapeLike) -> dict[str, str]:
    """Columns that only changed their name: another one at the same place, all types equal."""
    if len(old.columns) != len(new.columns) or tuple(old.types) != tuple(new.types):
        return {}
    return {
        a: b
        for a, b in zip(old.columns, new.columns, strict=True)
        if a != b and a not in new.columns and b not in old.columns
    }


async def later_shape(
    conn: asyncpg.Connection, chain: Sequence[ShapeLike], target: Target
) -> Later:
    """What becomes of changes of the first of `chain`, the shapes that an origin had since."""
    old, newest = chain[0], chain[-1]
    names = tuple(old.columns)
    for before, after in pairwise(chain):
        renamed = renames(before, after)
        names = tuple(renamed.get(name, name) for name in names)
    kept = [n for n, name in enumerate(newest.columns) if name in names]
    columns = tuple(newest.columns[n] for n in kept)
    types = tuple(newest.types[n] for n in kept)
    args = (newest.schema, newest.table, list(columns), list(types), list(newest.key))
    number = await conn.fetchval(_SQL["shape_number"], *args)
    new = Shape(number, newest.schema, newest.table, columns, types, tuple(newest.key))
    later = Later(old, names, new, ())
    return replace(later, lost=_lost(later, target))


def _lost(later: Later, target: Target) -> tuple[str, ...]:
    old, new = later.old, later.new
    if any(column not in new.columns for column in new.key):
        return ("I", "U", "D")
    if old.key and not new.key:
        return ("U", "D")
    if not old.key and not new.key and set(new.columns) < set(target.by_name) - target.generated:
        return ("U", "D")  # equal in all that it has is not equal
    if old.key and not set(new.key) <= set(later.key):
        return () if set(later.key) <= set(target.by_name) else ("D",)
    return ()


async def reshape(conn: asyncpg.Connection, later: Later, target: Target) -> None:
    """Makes what is staged of the old shape changes of the new one."""
    old, new = later.old, later.new
    if old.shape == new.shape:
        return
    sizes = (len(old.columns), len(old.key), len(new.columns), len(new.key))
    await ensure_fields(conn, sizes)
    if not old.key:
        await conn.execute(_split_pairs(old))
    if old.key and later.key != new.key:
        await conn.execute(_last_of_key(old))
        if not set(new.key) <= set(later.key):
            await conn.execute(_deletes_found(later, target))
    for statement in _rewrites(later):
        await conn.execute(statement)
    await conn.execute(f"UPDATE {IN} SET shape = {new.shape} WHERE shape = {old.shape}")


def _split_pairs(old: ShapeLike) -> str:
    """An update of a row without a key: one that goes, one that comes."""
    return (
        f"INSERT INTO {IN} ({_LISTED}, image) OVERRIDING SYSTEM VALUE "
        f"SELECT n, origin, position, ordinal, at, shape, 'D', old FROM {IN} "
        f"WHERE shape = {old.shape} AND op = 'U' AND old IS NOT NULL; "
        f"UPDATE {IN} SET op = 'I', old = NULL WHERE shape = {old.shape} AND op = 'U'"
    )


def _last_of_key(old: ShapeLike) -> str:
    """While the old keys are there to tell: a row that was deleted is not brought back."""
    return (
        f"DELETE FROM {IN} AS i USING {IN} AS j WHERE i.shape = {old.shape} "
        f"AND j.shape = {old.shape} AND i.key = j.key AND i.n < j.n"
    )


def _deletes_found(later: Later, target: Target) -> str:
    """Deletes by a key that is none any more: of the rows that are here with its values."""
    here = ", ".join(f"t.{quote_ident(column)}" for column in later.key)
    fields = ", ".join(f"t.{quote_ident(column)}" for column in later.new.key)
    shape = later.old.shape
    return (
        f"INSERT INTO {IN} ({_LISTED}, key) OVERRIDING SYSTEM VALUE "
        f"SELECT i.n, i.origin, i.position, i.ordinal, i.at, {later.new.shape}, 'D', "
        f"ROW({fields})::text FROM {IN} AS i JOIN {target.only} AS t ON ROW({here})::text = i.key "
        f"WHERE i.shape = {shape} AND i.op = 'D'; "
        f"DELETE FROM {IN} WHERE shape = {shape} AND op = 'D'"
    )


def _rewrites(later: Later) -> list[str]:
    """Images and keys in the columns of the new shape."""
    old, new = later.old, later.new
    image = _picked(later.names, new.columns)
    key = _picked(later.names, new.key) if new.key else "NULL"
    removed = f"image = NULL, key = {key}" if new.key else f"image = {image}"
    same = "key" if old.key and later.key == new.key else key
    found = [
        _set(f"image = {image}, key = {same}", "image", old, "i.op IN ('I', 'U')"),
    ]
    if not old.key:
        found.append(_set(removed, "image", old, "i.op = 'D'"))
    elif later.key != new.key and set(new.key) <= set(later.key):
        picked = _picked(later.key, new.key)
        found.append(_set(f"key = {picked}", "key", old, "i.op = 'D'"))
    return found


def _set(what: str, column: str, old: ShapeLike, which: str) -> str:
    size = len(old.columns if column == "image" else old.key)
    return (
        f"UPDATE {IN} AS w SET {what.replace(' = key', ' = w.key')} FROM (SELECT i.ctid AS place, "
        f"i.{column}::peersync.fields_{size} AS r FROM {IN} AS i "
        f"WHERE i.shape = {old.shape} AND {which} OFFSET 0) AS x WHERE w.ctid = x.place"
    )


def _picked(names: Sequence[str], wanted: Sequence[str]) -> str:
    places: Mapping[str, int] = {name: n for n, name in enumerate(names, start=1)}
    return f"ROW({', '.join(f'(x.r).c{places[name]}' for name in wanted)})::text"
