"""Quarantine for people: what arrived and could not be applied, tried again, edited, skipped.

A retry writes as apply does: in the replica role, so that it is not a change of our own, and
only where nothing newer has touched the row since. An edited row is something else: it is not
what its origin wrote, so it is written as an ordinary change and goes to everybody; otherwise
this node alone would have it. Whether something is newer is looked at twice: a key that is not
there can't be locked, so what another session inserts is seen only once the row is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import asyncpg
import msgspec

from peersync.core.errors import BadRequest, NotFound, PermissionMissing
from peersync.core.names import TableName
from peersync.postgres.errors import translate
from peersync.postgres.log.conflicts import hlc_time, node_names, op_word
from peersync.postgres.log.dirty import mark_row
from peersync.postgres.log.late import refuse_late
from peersync.postgres.log.members import read_replica
from peersync.postgres.log.onerow import (
    Values,
    existing_target,
    image_values,
    insert_values,
    key_values,
    names_of,
    read_row,
    read_shape,
    write_values,
)
from peersync.postgres.log.rows import Shape, Target, clear_sql, write_row
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("quarantine")
_TRACE: Final = queries("trace")
Result = Literal["applied", "superseded", "refused", "skipped"]
_EDITED: Final = "edited, and sent to all"
_EDITED_HERE: Final = (
    "edited here, and sent to nobody: this database only receives, and the next change that comes "
    "for the row takes its place"
)


class _Superseded(Exception):
    """Something newer has changed the row."""


class QuarantineView(msgspec.Struct, frozen=True, kw_only=True):
    """One change that waits, or waited. `row` by column as text; null in a list, and of a delete.

    cause: row (this one was refused) or table (the whole table is parked).
    """

    id: int
    at: str
    cause: str
    state: str
    schema: str
    table: str
    key: str | None
    op: str
    origin: int
    node: str | None
    position: int
    changed_at: str | None
    sqlstate: str | None
    reason: str
    tries: int
    tried_at: str
    settled_at: str | None = None
    settled_by: str | None = None
    row: Values | None = None


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one. `reason`: why it was refused, or what is lost.

    `before` and `after`: the row, null where there was or is none.
    """

    id: int
    schema: str
    table: str
    key: str | None
    result: Result
    reason: str | None = None
    sqlstate: str | None = None
    before: Values | None = None
    after: Values | None = None


async def list_quarantine(
    conn: asyncpg.Connection, *, tables: Sequence[int] | None, all_states: bool, limit: int
) -> list[QuarantineView]:
    """In the order of the versions, without rows."""
    nodes = await node_names(conn)
    rows = await conn.fetch(_SQL["list"], tables, not all_states, limit)
    return [_view(row, nodes) for row in rows]


async def quarantine_of(
    conn: asyncpg.Connection, tbl: int, key: str, *, limit: int = 20
) -> list[QuarantineView]:
    nodes = await node_names(conn)
    return [_view(row, nodes) for row in await conn.fetch(_SQL["of_row"], tbl, key, limit)]


async def get_quarantined(conn: asyncpg.Connection, number: int) -> QuarantineView:
    """With its row, where its columns are known. Raises NotFound."""
    row = await _fetch(conn, number)
    values = None
    if row["image"] is not None:
        values = image_values(await read_shape(conn, row["shape"]), row["image"])
    return _view(row, await node_names(conn), values)


async def waiting(conn: asyncpg.Connection, tables: Sequence[int] | None) -> list[int]:
    """What a retry of everything tries, in this order."""
    return [row["id"] for row in await conn.fetch(_SQL["waiting"], tables)]


async def retry(conn: asyncpg.Connection, number: int, *, by: str) -> Tried:
    """Tries one again. What the database refuses is a result, and stays in quarantine."""
    try:
        async with conn.transaction():
            await conn.execute(_SQL["hold_applies"])
            row = await _lock(conn, number)
            await _replica_role(conn)
            name = TableName(row["schema_name"], row["table_name"])
            await mark_row(conn, name, row["shape"], row["key"])
            await conn.execute("SET LOCAL synchronous_commit = on")
            return await _apply(conn, row, by)
    except asyncpg.PostgresError as refusal:
        sqlstate = refusal.sqlstate or "XX000"
        if sqlstate[:2] not in ("21", "22", "23", "42", "P0"):
            raise
        reason = str(translate(refusal, what=f"applying {number}").detail)
        await conn.execute(_SQL["failed_again"], number, sqlstate, reason)
        row = await _fetch(conn, number)
        return _tried(row, "refused", reason=reason, sqlstate=sqlstate)


async def not_tried(conn: asyncpg.Connection, number: int, reason: str) -> Tried:
    """A result for one that a retry of all has passed by."""
    return _tried(await _fetch(conn, number), "refused", reason=reason)


async def edit(
    conn: asyncpg.Connection, number: int, values: Mapping[str, str | None], *, by: str
) -> Tried:
    """Writes the row with some columns changed, as a change of this node that goes to all.

    Where this database only receives it goes to nobody, and `reason` says so.
    Of a table without a key the row as it was sent is deleted everywhere, too. Raises what the
    database refuses with; BadRequest for a column that there is not, or of the key, and where
    something newer has changed the row.
    """
    async with conn.transaction():
        await conn.execute(_SQL["hold_applies"])
        row = await _lock(conn, number)
        if row["image"] is None or row["op"] not in ("I", "U"):
            raise BadRequest(f"{number} is a {op_word(row['op'])}: it has no row to edit")
        shape = await read_shape(conn, row["shape"])
        target = await existing_target(conn, row["tbl"])
        if unknown := sorted(set(values) - set(names_of(target))):
            raise BadRequest(f"{target.name} has no column {unknown[0]!r}")
        sent = image_values(shape, row["image"])
        after = {**sent, **values}
        if moved := [name for name in shape.key if after[name] != sent[name]]:
            raise BadRequest(
                f"{moved[0]} is the key of {target.name}: the row that was sent would be missing",
                hint="insert the other row by hand; this one stays in quarantine until its"
                " origin changes it",
            )
        key = {name: after[name] for name in shape.key}
        before = await read_row(conn, target, key, lock=True) if key else None
        if key:
            await _refuse_newer(conn, row, target)
            await write_values(conn, target, key, after)
            await _refuse_newer(conn, row, target)
        else:
            if target.captured:
                await conn.execute(_SQL["take_back"], number)
            await insert_values(conn, target, after)
        await conn.execute(_SQL["settle"], number, "applied", by)
        replica = await read_replica(conn)
        words = _EDITED_HERE if replica and replica.direction == "receive" else _EDITED
        return _tried(row, "applied", before=before, after=after, reason=words)


async def _refuse_newer(conn: asyncpg.Connection, row: Any, target: Target) -> None:
    if await _is_superseded(conn, row):
        raise BadRequest(
            f"the row {row['key']} of {target.name} was changed after {row['id']} was made",
            hint="change the row by hand; what waits is settled by: peersync quarantine retry"
            f" {row['id']}",
        )


async def skip(conn: asyncpg.Connection, number: int, *, by: str) -> Tried:
    """Gives one up; it stays in the list as skipped. `reason` says what that leaves."""
    async with conn.transaction():
        row = await _lock(conn, number)
        await conn.execute(_SQL["settle"], number, "skipped", by)
        nodes = await node_names(conn)
        node = nodes.get(row["origin"], f"origin {row['origin']}")
        lost = (
            f"this {op_word(row['op'])} of {node} will never be applied here: the row stays as it"
            " is, and differs from the other nodes until it is changed again"
        )
        values = None
        if row["image"] is not None:
            values = image_values(await read_shape(conn, row["shape"]), row["image"])
        return _tried(row, "skipped", reason=lost, after=None, before=values)


async def _apply(conn: asyncpg.Connection, row: Any, by: str) -> Tried:
    op = row["op"]
    if op == "X":
        raise BadRequest(
            f"{row['id']} has no content: its origin could not write the row as text",
            hint=f"change the row there once more, then: peersync quarantine skip {row['id']}",
        )
    target = await existing_target(conn, row["tbl"])
    if target.parked is not None:
        raise BadRequest(
            f"all changes of {target.name} wait: {target.parked}",
            hint="they are applied by themselves once the table fits: peersync tables list",
        )
    if op == "T":
        return await _truncate(conn, row, target, by)
    shape = await read_shape(conn, row["shape"])
    key = key_values(shape, row["key"]) if row["key"] is not None else None
    before = await read_row(conn, target, key, lock=True) if key else None
    try:
        async with conn.transaction():
            await _write(conn, row, target, shape)
    except _Superseded:
        after = await read_row(conn, target, key) if key else None
        await conn.execute(_SQL["settle"], row["id"], "superseded", by)
        reason = "something newer has changed the row since; it is as that left it"
        return _tried(row, "superseded", reason=reason, before=before, after=after)
    after = await read_row(conn, target, key) if key else None
    await conn.execute(_SQL["settle"], row["id"], "applied", by)
    return _tried(row, "applied", before=before, after=after)


async def _write(conn: asyncpg.Connection, row: Any, target: Target, shape: Shape) -> None:
    """Raises _Superseded before, or with the row's lock held; then it has to be rolled back."""
    keyed = row["key"] is not None
    if keyed and await _is_superseded(conn, row):
        raise _Superseded
    await write_row(conn, target, shape, row["op"], row["key"], row["image"])
    if row["op"] != "D":
        await refuse_late(conn, target, shape, row["key"])
    if keyed and await _is_superseded(conn, row):
        raise _Superseded


async def _truncate(conn: asyncpg.Connection, row: Any, target: Target, by: str) -> Tried:
    if await _is_superseded(conn, row):  # it would take rows that came later
        raise BadRequest(
            f"{row['id']} empties the whole table, and rows of it were changed since",
            hint=f"delete by hand what should go, then: peersync quarantine skip {row['id']}",
        )
    await conn.execute(clear_sql(target, ()))
    await conn.execute(_SQL["settle"], row["id"], "applied", by)
    return _tried(row, "applied")


async def _is_superseded(conn: asyncpg.Connection, row: Any) -> bool:
    """Whether a newer change of the row is here. None can come where the row is locked."""
    at = row["hlc"], row["origin"], row["position"], row["ordinal"]
    if row["key"] is None:
        return bool(await conn.fetchval(_SQL["newer_of_table"], row["tbl"], *at))
    newer = await conn.fetchval(_TRACE["newer"], row["tbl"], row["key"], *at)
    own = await conn.fetchval(_SQL["unpublished"], row["tbl"], row["key"])
    freed = await conn.fetchval(_SQL["newer_applied"], row["id"])
    return bool(newer or own or freed)


async def _replica_role(conn: asyncpg.Connection) -> None:
    try:
        await conn.execute("SET LOCAL session_replication_role = replica")
    except asyncpg.InsufficientPrivilegeError as refusal:
        raise PermissionMissing(
            "this role may not write without waking triggers (session_replication_role)",
            detail=str(refusal),
            hint="peersync grants prints the GRANT that is missing",
        ) from refusal


async def _fetch(conn: asyncpg.Connection, number: int) -> Any:
    row = await conn.fetchrow(_SQL["get"], number)
    if row is None:
        raise NotFound(
            f"there is nothing in quarantine with the id {number}",
            hint="see what there is: peersync quarantine list --all",
        )
    return row


async def _lock(conn: asyncpg.Connection, number: int) -> Any:
    await conn.execute(_SQL["lock"], number)
    row = await _fetch(conn, number)
    if row["state"] != "waiting":
        who = f" by {row['settled_by']}" if row["settled_by"] else ""
        raise BadRequest(f"{number} does not wait any more: {row['state']}{who}")
    return row


def _tried(
    row: Any,
    result: Result,
    *,
    reason: str | None = None,
    sqlstate: str | None = None,
    before: Values | None = None,
    after: Values | None = None,
) -> Tried:
    return Tried(
        id=row["id"],
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        result=result,
        reason=reason,
        sqlstate=sqlstate,
        before=before,
        after=after,
    )


def _view(row: Any, nodes: Mapping[int, str], values: Values | None = None) -> QuarantineView:
    return QuarantineView(
        id=row["id"],
        at=row["at"].isoformat(timespec="milliseconds"),
        cause=row["cause"],
        state=row["state"],
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        op=op_word(row["op"]),
        origin=row["origin"],
        node=nodes.get(row["origin"]),
        position=row["position"],
        changed_at=hlc_time(row["hlc"]),
        sqlstate=row["sqlstate"],
        reason=row["reason"],
        tries=row["tries"],
        tried_at=row["tried_at"].isoformat(timespec="milliseconds"),
        settled_at=row["settled_at"] and row["settled_at"].isoformat(timespec="milliseconds"),
        settled_by=row["settled_by"],
        row=values,
    )
