"""Tables whose incoming changes wait because the table here cannot take them.

Owns the judgement whether images of a shape fit a table, in words and with the statement that
would make them fit, and the list of tables that wait. A parked table's changes are kept in
`peersync.quarantine` in their order; nothing is lost, and the other tables go on. It alters no
table: what is printed is for a person.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.core.names import TableName, quote_ident
from peersync.postgres.log.capture import UNLOGGED
from peersync.postgres.log.reshape import renames
from peersync.postgres.log.rows import (
    Shape,
    ShapeLike,
    Target,
    read_shapes,
    read_target,
    read_targets,
)
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("apply")
_ON: Final = (
    "goes on when {} and a row of it was changed there (or: peersync quarantine skip, "
    "for each change that shall not be applied here)"
)
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
_INTEGERS: Final = ("smallint", "integer", "bigint")
_SCALED: Final = ("numeric", "interval", "time ", "timestamp ")


@dataclass(frozen=True)
class Misfit:
    """Why images do not fit a table, and what would help: a sentence, and SQL, or ""."""

    reason: str
    sql: str

    def __str__(self) -> str:
        return f"{self.reason}. What helps: {self.sql}" if self.sql else self.reason


@dataclass(frozen=True)
class Parked:
    """A table with waiting changes. `misfit`: what still keeps them from being applied.

    `chains`: of each origin the shapes of what waits, the newest last. `outlived`: those of a
    table that was dropped; the one of its name that is here now is another.
    """

    tbl: int
    name: TableName
    waiting: int
    misfit: Misfit | None
    chains: tuple[tuple[Shape, ...], ...] = ()
    outlived: tuple[int, ...] = ()


def misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    """None where every column of the image has a place of the same or a wider type.

    Not where the sides tell rows apart by different keys: they would not see each other's changes.
    Also not where the table here is not captured: what is written into it would be taken for
    rows of this database when it is.
    """
    if target.oid is None:
        return Misfit(f"there is no table {target.name} here", _create(shape))
    return (
        _columns_misfit(target, shape)
        or _key_misfit(target, shape)
        or _column_misfit(target, shape)
        or _rule_misfit(target)
        or _capture_misfit(target)
    )


def _columns_misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    name = target.name
    for column, type_name in zip(shape.columns, shape.types, strict=True):
        here = target.by_name.get(column)
        if here is None:
            return _missing(target, shape, column, type_name)
        if here.generated:
            continue
        rounded = _rounds(here.full_type, type_name)
        padded = not shape.key and _pads(here.full_type, type_name)
        if rounded or padded or not _takes(here.full_type, type_name):
            effect = ", so that values would be rounded" if rounded else ""
            if padded and not rounded:
                effect = ", so that equal rows would not look equal, and it has no key"
            return Misfit(
                f"column {column} of {name} is {here.full_type} here and {type_name} at the peer"
                f"{effect}; {_ON.format('it is altered likewise there')}",
                f"ALTER TABLE {name.sql} ALTER COLUMN {quote_ident(column)} TYPE {type_name} "
                f"USING {quote_ident(column)}::text::{type_name};",
            )
    return None


def _missing(target: Target, shape: ShapeLike, column: str, type_name: str) -> Misfit:
    """A column that is only there: new there, or dropped or renamed here."""
    name, quoted = target.name, quote_ident(column)
    here = Shape(
        0,
        name.schema,
        name.name,
        tuple(c.name for c in target.columns),
        tuple(c.full_type for c in target.columns),
        target.key,
    )
    if (new := renames(shape, here).get(column)) is not None:
        on = _ON.format("it is renamed there too")
        return Misfit(
            f"{name} has no column {column}, which the peer's has, but {new} in its place; {on}",
            f"at the peer, unless that is done: ALTER TABLE {name.sql} RENAME COLUMN {quoted} "
            f"TO {quote_ident(new)};",
        )
    if _was_dropped(target, shape, column):
        on = _ON.format("the other side has dropped it too")
        return Misfit(
            f"{name} has no column {column} any more, which the peer's has; {on}",
            f"at the peer, unless that is done: ALTER TABLE {name.sql} DROP COLUMN {quoted};",
        )
    return Misfit(
        f"{name} has no column {column}, which the peer's has",
        f"ALTER TABLE {name.sql} ADD COLUMN {quoted} {type_name};",
    )


def _was_dropped(target: Target, shape: ShapeLike, column: str) -> bool:
    """Whether a dropped column was between the neighbours that it has at the peer."""
    at = shape.columns.index(column)
    places = [target.by_name[c].place if c in target.by_name else 0 for c in shape.columns]
    low = max(places[:at], default=0)
    high = next((place for place in places[at:] if place), 1 << 15)
    return any(low < place < high for place in target.dropped)


def _capture_misfit(target: Target) -> Misfit | None:
    if target.captured or target.state == "excluded":
        return None
    why = target.reason if target.state == "refused" else None
    words = f"the changes of {target.name} are not captured here yet"
    sql = f"ALTER TABLE {target.name.sql} SET LOGGED;" if why == UNLOGGED else ""
    return Misfit(f"{words}: {why}" if why and why != "not captured yet" else words, sql)


def _key_misfit(target: Target, shape: ShapeLike) -> Misfit | None:
    name, listed = target.name, ", ".join(map(quote_ident, shape.key))
    if not shape.key:
        if not target.keys:
            return None
        key = ", ".join(target.key)
        return Misfit(
            f"{name} has the key ({key}) here and none at the peer"
            f"; {_ON.format('it has the same key there')}",
            f"at the peer: ALTER TABLE {name.sql} ADD PRIMARY KEY "
            f"({', '.join(map(quote_ident, target.key))});",
        )
    if tuple(shape.key) == target.key:
        return None
    on = _ON.format("its key is altered likewise there")
    if target.key_of(tuple(shape.key)) is not None:
        return Misfit(
            f"rows of {name} are told apart by ({', '.join(target.key)}) here and by "
            f"({', '.join(shape.key)}) at the peer, and one of the two has to be altered; {on}",
            _rekey(target, listed),
        )
    return Misfit(
        f"{name} has no unique key ({', '.join(shape.key)}) that is never null; {on}",
        _rekey(target, listed),
    )


def _rekey(target: Target, listed: str) -> str:
    """Makes these columns the key by which the table is logged here; the old one stays unique."""
    steps = [f"ADD PRIMARY KEY ({listed})"]
    if target.keys and (primary := target.keys[0].primary) is not None:
        old = ", ".join(map(quote_ident, target.key))
        steps = [f"DROP CONSTRAINT {quote_ident(primary)}", f"ADD UNIQUE ({old})", *steps]
    return f"ALTER TABLE {target.name.sql} {', '.join(steps)};"


def _rule_misfit(target: Target) -> Misfit | None:
    if target.instead is None:
        return None
    rule = quote_ident(target.instead)
    return Misfit(
        f"the rule {target.instead} of {target.name} would do something else instead of what comes"
        "; an ordinary rule does not, if the role of peersync may SET session_replication_role",
        f"ALTER TABLE {target.name.sql} ENABLE RULE {rule};",
    )


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


def _rounds(here: str, there: str) -> bool:
    """Whether values of `there` would lose digits, which the database does without a word."""
    scale, theirs = _scale(here), _scale(there)
    if scale is None or (_bare(here) != _bare(there) and _bare(there) not in _INTEGERS):
        return False
    return theirs is None or theirs > scale


def _pads(here: str, there: str) -> bool:
    """Whether values of `there` would be written with more digits or blanks than they have."""
    bare = _bare(here).removesuffix("[]")
    if bare == "numeric":
        return _scale(here) not in (None, _scale(there))
    return bare == "character" and _bare(there) == _bare(here) and here != there


def _scale(type_name: str) -> int | None:
    """How many digits after the point there can be; None where no type modifier says it."""
    bare = _bare(type_name).removesuffix("[]")
    if bare in _INTEGERS:
        return 0
    if "(" not in type_name or not bare.startswith(_SCALED):
        return None
    limits = type_name.partition("(")[2].partition(")")[0].split(",")
    return int(limits[-1]) if bare != "numeric" or len(limits) > 1 else 0


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

    Always an UPDATE: its lock is what makes this session and one that resumes take turns. What
    waits for a table that was dropped since is given up first, or it could not be told apart.
    """
    targets = {tbl: await read_target(conn, tbl)}
    if dropped := await _dropped(conn, targets):
        old = _outlived(dropped, await _chains(conn, [tbl]))
        await outlive(conn, targets[tbl], old.get(tbl, ()))
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
    chains = await _chains(conn, list(names))
    by_number = {tbl: targets[name] for tbl, name in names.items()}
    outlived = _outlived(await _dropped(conn, by_number), chains)
    found = []
    for row in rows:
        tbl, old = row["tbl"], outlived.get(row["tbl"], ())
        left = [[s for s in chain if s.shape not in old] for chain in chains.get(tbl, ())]
        alive = _led_on(by_number[tbl], [tuple(chain) for chain in left if chain])
        still = None
        if by_number[tbl].state != "excluded":
            reasons = (misfit(by_number[tbl], chain[-1]) for chain in alive)
            still = next((reason for reason in reasons if reason), None)
        found.append(Parked(tbl, names[tbl], row["waiting"], still, alive, old))
    return found


async def outlive(conn: asyncpg.Connection, target: Target, shapes: Collection[int]) -> None:
    """Gives up what waits in these shapes: it was for a table that is not here any more."""
    if shapes:
        why = (
            f"it was for the table {target.name} that was dropped here since; the one of that name "
            "that is here now is another. If it is not, peersync pull brings the rows"
        )
        await conn.execute(_SQL["outlived"], target.tbl, list(shapes), target.oid, why)


async def _chains(
    conn: asyncpg.Connection, tables: Collection[int]
) -> dict[int, tuple[tuple[Shape, ...], ...]]:
    rows = await conn.fetch(_SQL["waiting_shapes"], list(tables))
    shapes = await read_shapes(conn, {row["shape"] for row in rows})
    found: dict[int, dict[int, list[Shape]]] = {}
    for row in rows:
        if (shape := shapes.get(row["shape"])) is not None:
            found.setdefault(row["tbl"], {}).setdefault(row["origin"], []).append(shape)
    return {tbl: tuple(map(tuple, of.values())) for tbl, of in found.items()}


def _led_on(target: Target, chains: Collection[tuple[Shape, ...]]) -> tuple[tuple[Shape, ...], ...]:
    """Where another origin has told what came after a shape that fits no more, that counts."""
    after = {shape.shape: chain[n + 1 :] for chain in chains for n, shape in enumerate(chain[:-1])}
    return tuple(
        chain if misfit(target, chain[-1]) is None else chain + after.get(chain[-1].shape, ())
        for chain in chains
    )


async def _dropped(conn: asyncpg.Connection, targets: Mapping[int, Target]) -> dict[int, Shape]:
    """Of tables that are others now than those that changes began to wait for: their shape."""
    rows = [
        row
        for row in await conn.fetch(_SQL["parked_for"], list(targets))
        if (oid := targets[row["tbl"]].oid) is not None and oid != row["relation"]
    ]
    shapes = await read_shapes(conn, {row["shape"] for row in rows}) if rows else {}
    return {row["tbl"]: shapes[row["shape"]] for row in rows if row["shape"] in shapes}


def _outlived(
    dropped: Mapping[int, Shape], chains: Mapping[int, tuple[tuple[Shape, ...], ...]]
) -> dict[int, tuple[int, ...]]:
    """Waiting shapes that are those of a dropped table, where another is here by now.

    One that came in another shape is what the peer's new table has: it is for the one here.
    """
    return {
        tbl: tuple({s.shape for chain in chains.get(tbl, ()) for s in chain if _alike(s, shape)})
        for tbl, shape in dropped.items()
    }


def _alike(one: ShapeLike, other: ShapeLike) -> bool:
    """The same columns in any order, and the same key."""
    columns = (dict(zip(s.columns, s.types, strict=True)) for s in (one, other))
    return next(columns) == next(columns) and set(one.key) == set(other.key)
