"""Where one row of one table stands: its version, where that came from, and what led there.

Reads only. What a peer is told is small on purpose: a version and a digest, never the row, so
that a filter of rows or columns cannot be walked around by asking for a trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import asyncpg
import msgspec

from peersync.core.errors import BadRequest, NotFound
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.log.conflicts import (
    ConflictView,
    conflicts_of,
    hlc_time,
    node_names,
    op_word,
)
from peersync.postgres.log.literal import parse_record
from peersync.postgres.log.onerow import (
    Values,
    canonical_key,
    existing_target,
    image_values,
    read_row,
)
from peersync.postgres.log.quarantine import QuarantineView, quarantine_of
from peersync.postgres.log.rows import Target, read_shapes
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import Message, Name

_SQL: Final = queries("trace")
MAX_ENTRIES: Final = 50

KeyValue = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class TraceRequest(Message, frozen=True, kw_only=True):
    """Asks a peer about a row. `key`: the record literal of the key's columns."""

    database: Name
    schema: Name
    table: Name
    key: KeyValue


class RowState(Message, frozen=True, kw_only=True):
    """A row on one node. A version is null where that node's log does not have it: it is older,
    or came from elsewhere and nobody else needed it from here.

    digest: of the row, to compare; null where there is none, or where it is not told (a filter).
    pending: changes of it that have no position yet. problem: why this is not known.
    """

    node: Name
    present: bool | None = None
    digest: str | None = None
    origin: int | None = None
    origin_node: str | None = None
    position: int | None = None
    hlc: int | None = None
    at: str | None = None
    op: str | None = None
    pending: int = 0
    quarantined: int = 0
    conflicts: int = 0
    problem: str | None = None


class TraceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the row that the log holds. `changed`: the columns that differ from before it."""

    at: str | None
    node: str | None
    origin: int
    position: int
    op: str
    changed: tuple[str, ...] = ()
    row: Values | None = None


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known here of one row. `same`: all that could be asked have the same."""

    database: str
    schema: str
    table: str
    key: dict[str, str | None]
    row: Values | None
    same: bool
    nodes: tuple[RowState, ...]
    entries: tuple[TraceEntry, ...]
    conflicts: tuple[ConflictView, ...]
    quarantine: tuple[QuarantineView, ...]


@dataclass(frozen=True)
class KnownTable:
    """A table that periodic sync knows of."""

    tbl: int
    name: TableName
    state: str
    reason: str | None
    parked: str | None
    strategy: str


@dataclass(frozen=True)
class Subject:
    """One row to be traced: its table, and its key as the log writes it."""

    target: Target
    tbl: int
    literal: str
    key: Values


async def known_tables(conn: asyncpg.Connection, pattern: str | None = None) -> list[KnownTable]:
    """Those that a pattern means, all without one. NotFound where it means none."""
    rows = await conn.fetch(_SQL["known_tables"])
    tables = [
        KnownTable(
            row["tbl"],
            TableName(row["schema_name"], row["table_name"]),
            row["state"],
            row["reason"],
            row["parked"],
            row["strategy"],
        )
        for row in rows
    ]
    if pattern is None:
        return tables
    wanted = Patterns([pattern])
    if not (found := [table for table in tables if wanted.match(table.name)]):
        raise NotFound(
            f"periodic sync knows no table like {pattern[:100]!r} here",
            hint="see those that it knows: peersync tables list",
        )
    return found


async def find_subject(conn: asyncpg.Connection, pattern: str, key: Sequence[str]) -> Subject:
    """The row that was typed. BadRequest for several tables, or a key of another length."""
    tables = await known_tables(conn, pattern)
    if len(tables) > 1:
        named = ", ".join(str(table.name) for table in tables[:5])
        raise BadRequest(f"{pattern!r} means several tables: {named}", hint="write SCHEMA.TABLE")
    target = await existing_target(conn, tables[0].tbl)
    if not target.key:
        raise BadRequest(f"{target.name} has no key: its rows cannot be told apart")
    if len(key) != len(target.key):
        raise BadRequest(
            f"the key of {target.name} is ({', '.join(target.key)}); {len(key)} values were given"
        )
    typed: Values = dict(zip(target.key, key, strict=True))
    try:
        literal = await canonical_key(conn, target, typed)
    except asyncpg.DataError as refusal:
        raise BadRequest(f"this is no key of {target.name}: {refusal}") from refusal
    return Subject(target, tables[0].tbl, literal, _by_column(target, literal))


async def asked_subject(conn: asyncpg.Connection, asked: TraceRequest) -> Subject | None:
    """The row that a peer asks for; None where this database does not have the table."""
    for table in await known_tables(conn):
        if table.name == (asked.schema, asked.table):
            target = await existing_target(conn, table.tbl)
            return Subject(target, table.tbl, asked.key, _by_column(target, asked.key))
    return None


def _by_column(target: Target, literal: str) -> Values:
    fields = parse_record(literal)
    if len(fields) != len(target.key):
        raise BadRequest(f"the key of {target.name} has other columns here")
    return dict(zip(target.key, fields, strict=True))


async def row_state(
    conn: asyncpg.Connection, subject: Subject, node: str, *, tell_digest: bool = True
) -> RowState:
    """How the row stands here."""
    row = await read_row(conn, subject.target, subject.key)
    last = await _version(conn, subject, row)
    nodes = await node_names(conn)
    counts = await conn.fetchrow(_SQL["counts"], subject.tbl, subject.literal)
    return RowState(
        node=node,
        present=row is not None,
        digest=_digest(row, subject.target) if tell_digest else None,
        origin=last and last["origin"],
        origin_node=nodes.get(last["origin"]) if last else None,
        position=last and last["position"],
        hlc=last and last["hlc"],
        at=hlc_time(last["hlc"]) if last else None,
        op=op_word(last["op"]) if last else None,
        pending=await conn.fetchval(_SQL["unpublished"], subject.tbl, subject.literal),
        quarantined=counts["quarantined"],
        conflicts=counts["conflicts"],
    )


async def _version(conn: asyncpg.Connection, subject: Subject, row: Values | None) -> Any:
    """The newest change in the log, where the row is what that made of it; else None."""
    entries = await conn.fetch(_SQL["entries"], subject.tbl, subject.literal, 1)
    if not entries:
        return None
    last, left = entries[-1], None
    if last["image"] is not None and last["op"] in ("I", "U"):
        shape = (await read_shapes(conn, [last["shape"]])).get(last["shape"])
        left = image_values(shape, last["image"]) if shape is not None else None
    if row is None or left is None:
        return last if row is left else None
    shared = row.keys() & left.keys() - subject.target.generated
    return last if all(row[name] == left[name] for name in shared) else None


async def trace_row(
    conn: asyncpg.Connection, database: str, subject: Subject, states: Sequence[RowState]
) -> Trace:
    """Everything about a row; `states`: this node's first, then the peers'."""
    target = subject.target
    answers = [state for state in states if state.problem is None]
    known = [(state.present, state.digest, state.hlc) for state in answers]
    return Trace(
        database=database,
        schema=target.name.schema,
        table=target.name.name,
        key=subject.key,
        row=await read_row(conn, target, subject.key),
        same=all(_agree(one, known[0]) for one in known),
        nodes=tuple(states),
        entries=tuple(await _entries(conn, subject)),
        conflicts=tuple(await conflicts_of(conn, subject.tbl, subject.literal)),
        quarantine=tuple(await quarantine_of(conn, subject.tbl, subject.literal)),
    )


def _agree(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """By the rows where both tell their digest, else by the versions."""
    if one[0] != other[0]:
        return False
    if one[1] is not None and other[1] is not None:
        return bool(one[1] == other[1])
    return not one[0] or None in (one[2], other[2]) or one[2] == other[2]


async def _entries(conn: asyncpg.Connection, subject: Subject) -> list[TraceEntry]:
    rows = await conn.fetch(_SQL["entries"], subject.tbl, subject.literal, MAX_ENTRIES)
    shapes = await read_shapes(conn, {row["shape"] for row in rows})
    nodes = await node_names(conn)
    entries: list[TraceEntry] = []
    before: Values | None = None
    for row in rows:
        values = None
        if row["image"] is not None and row["op"] in ("I", "U") and row["shape"] in shapes:
            values = image_values(shapes[row["shape"]], row["image"])
        changed = () if before is None or values is None else _changed(before, values)
        before = values
        entries.append(
            TraceEntry(
                at=hlc_time(row["hlc"]),
                node=nodes.get(row["origin"]),
                origin=row["origin"],
                position=row["position"],
                op=op_word(row["op"]),
                changed=changed,
                row=values,
            )
        )
    return entries


def _changed(before: Values, after: Values) -> tuple[str, ...]:
    return tuple(name for name, value in after.items() if before.get(name, value) != value)


def _digest(row: Values | None, target: Target) -> str | None:
    """Equal where the rows are, whatever the order of their columns."""
    if row is None:
        return None
    kept = sorted((name, value) for name, value in row.items() if name not in target.generated)
    return hashlib.sha256(msgspec.json.encode(kept)).hexdigest()
