"""Lists of kept digests: which tables have one, what it rests on, and what has changed since.

A list says what the rows of a table were in one view of it. In any later view it is right for all
blocks but those in which the log, or a mark of our own writers, has a change that the earlier
view did not see: both are written in the transaction of the change, so nothing can be lost
between a change and its mark. A list is not used at all, and begun anew, where that argument has
a gap: the table was altered, emptied or truncated, its capture was not what it was, its changes
can't be named by its key, or have left the log, or the list came with a dump from another database
or from a server whose transactions have other numbers.

What no log has can't be known here: rows written in somebody else's replica role, or by the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import asyncpg
import msgspec

from peersync.core.errors import SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.keyorder import Order, read_order
from peersync.postgres.log.members import read_home
from peersync.postgres.log.rows import ensure_fields
from peersync.postgres.pool import PINNED
from peersync.postgres.rowform import Shape, row_hash
from peersync.postgres.sqlfiles import queries

SQL: Final = queries("proof_blocks")
MAX_CHANGED: Final = 50_000  # blocks; with more the table is read instead
_FORM: Final = "1"  # of the lists; another one makes all of them anew
_C: Final = ' COLLATE pg_catalog."C"'
_STRINGS: Final = frozenset({"text", "varchar", "bpchar"})
_UNREADABLE: Final = (asyncpg.DataError, asyncpg.UndefinedObjectError)  # a key of another table


@dataclass(frozen=True)
class Subject:
    """A table as it is in this view, and the list of it as it is in the same view."""

    number: int
    shape: Shape
    order: Order
    home_stamp: str  # what the list should rest on
    stamp: str | None  # what it does rest on; None: it was not begun
    since: str | None  # the snapshot of the list
    snapshot: str  # of this view
    tbl: int
    origin: int
    position: int
    names: tuple[Sequence[str], Sequence[str]]
    log_key: tuple[str, ...]
    sound: bool  # the log has all that came after the list


def keepable(shape: Shape) -> bool:
    """Whether digests of this shape can be kept at all."""
    return bool(shape.key) and shape.only and shape.where is None and not shape.wide


def form_of(shape: Shape) -> str:
    """What the digests are of: two shapes with the same form have the same digests."""
    columns = (shape.columns, shape.types, shape.key, sorted(shape.numbers))
    parts = (_FORM, row_hash(shape), columns, sorted(PINNED.items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


async def register(conn: asyncpg.Connection, shape: Shape) -> None:
    """Asks for a list of this table, which is made when there is time."""
    told = msgspec.json.encode(
        {
            "columns": shape.columns,
            "types": shape.types,
            "key": shape.key,
            "as_text": sorted(shape.as_text),
            "numbers": sorted(shape.numbers),
            "portable": shape.portable,
        }
    ).decode()
    await conn.execute(SQL["register"], shape.table.schema, shape.table.name, form_of(shape), told)


def shape_of(table: TableName, told: str) -> Shape:
    """The shape as it was asked for."""
    found: dict[str, Any] = msgspec.json.decode(told)
    return Shape(
        table=table,
        columns=tuple(found["columns"]),
        types=tuple(found["types"]),
        key=tuple(found["key"]),
        portable=found["portable"],
        as_text=frozenset(found["as_text"]),
        numbers=frozenset(found["numbers"]),
    )


async def read_subject(conn: asyncpg.Connection, shape: Shape, row: Any) -> Subject | None:
    """None where no list of this table can be kept now. `row`: list, stamp, origin and so on."""
    try:
        order = await read_order(conn, shape)
    except SchemaMismatch:
        return None
    name, home = shape.table, await read_home(conn)
    now = await conn.fetchrow(SQL["subject"], name.schema, name.name, list(shape.columns), home)
    if now is None:
        return None
    unfit = now["unfit"]
    if unfit is None and (not order.indexed or set(now["log_key"]) != set(shape.key)):
        unfit = "the log does not name its rows by this key"
    if unfit is not None or now["floor"] is None:
        return None
    return Subject(
        number=row["list"],
        shape=shape,
        order=order,
        home_stamp=now["stamp"],
        stamp=row["stamp"],
        since=row["snapshot"],
        snapshot=now["snapshot"],
        tbl=now["tbl"],
        origin=now["origin"],
        position=now["position"],
        names=(now["schemas"], now["names"]),
        log_key=tuple(now["log_key"]),
        sound=row["stamp"] == now["stamp"]
        and row["origin"] == now["origin"]
        and row["position"] >= now["floor"]
        and _next_xid(row["snapshot"]) <= _next_xid(now["snapshot"]),
    )


def _next_xid(snapshot: str) -> int:
    """The first number of a transaction that had not begun. It never gets smaller on one server."""
    return int(snapshot.split(":")[1])


@dataclass(frozen=True)
class Changed:
    """whole: nothing of the list counts any more. Else `any`: some blocks do not."""

    any: bool
    whole: bool


async def read_changed(conn: asyncpg.Connection, subject: Subject) -> Changed:
    """What came after the list, as far as this view sees it."""
    if not subject.sound:
        return Changed(any=True, whole=True)
    row = await conn.fetchrow(
        SQL["changed"], subject.tbl, subject.since, *subject.names, list(subject.log_key)
    )
    return Changed(row["any"], row["whole"])


async def changed_places(conn: asyncpg.Connection, subject: Subject) -> set[Decimal] | None:
    """The blocks in which a row has changed since; None: too many, or unreadable keys."""
    sql = f"{_places_sql(subject)} LIMIT {MAX_CHANGED + 1}"
    try:
        async with conn.transaction():
            rows = await conn.fetch(sql, *_places_values(subject))
    except _UNREADABLE:
        return None
    return {row["place"] for row in rows} if len(rows) <= MAX_CHANGED else None


async def mark_changed(conn: asyncpg.Connection, subject: Subject) -> bool:
    """Marks these blocks; False where a key can't be read."""
    try:
        async with conn.transaction():
            await conn.execute(
                "UPDATE peersync.proof_block SET digest = NULL WHERE list = $5 AND digest IS NOT "
                f"NULL AND place IN ({_places_sql(subject)})",
                *_places_values(subject),
            )
    except _UNREADABLE:
        return False
    return True


async def prepare_fields(conn: asyncpg.Connection, width: int) -> None:
    """Makes the type that keys of the log are read with."""
    await ensure_fields(conn, {width})


def _places_values(subject: Subject) -> Sequence[Any]:
    return (subject.tbl, subject.since, *subject.names, subject.number)


def _places_sql(subject: Subject) -> str:
    """A key belongs to the block whose beginning was the last one before it.

    $1 tbl, $2 snapshot of the list, $3 schemas, $4 names, $5 list.
    """
    order, width = subject.order, len(subject.log_key)
    at = [subject.log_key.index(column) + 1 for column in subject.shape.key]
    typed = [(cast, _C if cast in _STRINGS else "") for cast in order.casts]
    keys = ", ".join(
        f"(e.r).c{n}::{cast}{c} AS k{k}"
        for k, (n, (cast, c)) in enumerate(zip(at, typed, strict=True), 1)
    )
    lows = ", ".join(f"b.low[{k}]::{cast}{c} AS k{k}" for k, (cast, c) in enumerate(typed, 1))
    return (
        "SELECT DISTINCT coalesce(v.place, 0) AS place FROM ("
        "SELECT s.mark, max(s.place) OVER ("
        f"ORDER BY {order.by}, s.mark DESC ROWS UNBOUNDED PRECEDING) AS place FROM ("
        f"SELECT {keys}, NULL::numeric AS place, 0 AS mark FROM ("
        f"SELECT d.key::peersync.fields_{width} AS r FROM (SELECT DISTINCT key FROM ("
        "SELECT c.key FROM peersync.change AS c WHERE c.tbl = $1 "
        "AND c.xid >= pg_snapshot_xmin($2::text::pg_snapshot) "
        "AND NOT pg_visible_in_snapshot(c.xid, $2::text::pg_snapshot) UNION ALL "
        "SELECT m.key FROM peersync.proof_mark AS m "
        "WHERE m.xid >= pg_snapshot_xmin($2::text::pg_snapshot) "
        "AND NOT pg_visible_in_snapshot(m.xid, $2::text::pg_snapshot) "
        "AND (m.table_schema, m.table_name) IN (SELECT w.s, w.t FROM "
        "unnest($3::text[], $4::text[]) AS w (s, t))) AS c WHERE key IS NOT NULL) AS d OFFSET 0"
        f") AS e UNION ALL SELECT {lows}, b.place, 1 FROM peersync.proof_block AS b "
        "WHERE b.list = $5 AND b.low IS NOT NULL) AS s) AS v WHERE v.mark = 0"
    )
