"""Conflicts for people: listed, shown with both rows, and gone back on.

Who wins is decided by apply. What a person does afterwards is an ordinary change: written with
the triggers awake, captured, newer than both sides, and so the same on every node. It is refused
where the row has moved on since, because it would overwrite what nobody has looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import asyncpg
import msgspec

from peersync.core.errors import BadRequest, NotFound, RowMoved
from peersync.postgres.log.decided import log_as_it_is, say_decided
from peersync.postgres.log.members import read_members
from peersync.postgres.log.onerow import (
    Values,
    delete_row,
    existing_target,
    image_values,
    key_values,
    names_of,
    read_row,
    read_shape,
    write_values,
)
from peersync.postgres.log.rows import Target
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("conflicts")
_TRACE: Final = queries("trace")
SideName = Literal["kept", "incoming"]
Choice = Literal["keep", "take", "set"]
_OPS: Final = {"I": "insert", "U": "update", "D": "delete", "T": "truncate", "X": "unreadable"}


class ConflictSide(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two changes. `row` by column, as text; null in a list, and of a delete.

    `op` is none where the change is not known: the row is what that node has, by a full sync.
    """

    origin: int
    node: str | None
    position: int | None
    at: str | None
    op: str
    row: Values | None = None


class ConflictView(msgspec.Struct, frozen=True, kw_only=True):
    """A conflict. `key` by column where the row is shown, else as the log writes it.

    `differs`: the columns in which the two rows differ.
    """

    id: int
    at: str
    schema: str
    table: str
    key: str | None
    kind: str
    strategy: str
    winner: str
    reason: str
    state: str
    kept: ConflictSide
    incoming: ConflictSide
    differs: tuple[str, ...] = ()
    settled_at: str | None = None
    settled_by: str | None = None
    settled_how: str | None = None


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. `before` and `after`: the row, null where there was or is none."""

    id: int
    schema: str
    table: str
    key: str | None
    state: str
    written: bool
    before: Values | None
    after: Values | None


async def list_conflicts(
    conn: asyncpg.Connection, parameters: Sequence[Any], *, limit: int
) -> list[ConflictView]:
    """Newest first, without rows. `parameters`: of the filter, `settling.Meant`."""
    nodes = await node_names(conn)
    return [_view(row, nodes) for row in await conn.fetch(_SQL["list"], *parameters, limit)]


async def conflicts_of(
    conn: asyncpg.Connection, tbl: int, key: str, *, limit: int = 20
) -> list[ConflictView]:
    nodes = await node_names(conn)
    return [_view(row, nodes) for row in await conn.fetch(_SQL["of_row"], tbl, key, limit)]


async def get_conflict(conn: asyncpg.Connection, number: int) -> ConflictView:
    """With both rows. Raises NotFound."""
    row = await _fetch(conn, number)
    kept = await _row(conn, row["kept_shape"], row["kept_op"], row["kept_image"])
    incoming = await _row(conn, row["in_shape"], row["in_op"], row["in_image"])
    return _view(row, await node_names(conn), kept, incoming)


async def restore(
    conn: asyncpg.Connection, number: int, *, side: SideName | None, force: bool, by: str
) -> Settled:
    """Writes the side that lost back, as a new change. Raises RowMoved, BadRequest, NotFound."""
    async with conn.transaction():
        row = await _lock(conn, number)
        if row["state"] == "open":
            raise BadRequest(
                f"conflict {number} is not decided yet",
                hint=f"decide it: peersync conflicts resolve {number} --keep (or --take)",
            )
        if side is None:
            if row["winner"] == "merged":
                raise BadRequest(
                    f"conflict {number} was merged: neither side has lost",
                    hint="say which one to write: --side kept or --side incoming",
                )
            side = "incoming" if row["winner"] == "kept" else "kept"
        return await _write_side(conn, row, side, force=force, by=by, state="restored")


async def resolve(
    conn: asyncpg.Connection,
    number: int,
    *,
    choice: Choice,
    values: Mapping[str, str | None],
    force: bool,
    by: str,
) -> Settled:
    """Decides an open conflict: one of its sides, or the row as it is with some columns set.

    What else is open of the row is settled with it. A row that is so already is logged as changed
    all the same, or this could lose to another decision in silence. To keep what is not one known
    row (`_is_here`) writes nothing and closes it.
    """
    async with conn.transaction():
        row = await _lock(conn, number)
        if row["state"] != "open":
            raise BadRequest(
                f"conflict {number} is {row['state']}; only an open one can be decided",
                hint=f"to write the other side back: peersync conflicts restore {number}",
            )
        if choice == "keep" and _is_here(row):
            return await _close(conn, row, by)
        if choice != "set":
            side: SideName = "kept" if choice == "keep" else "incoming"
            settled = await _write_side(conn, row, side, force=force, by=by, state="resolved")
            await _tell(conn, row, by, f"the {side} side was written")
            return settled
        before, target, key = await _lock_row(conn, row)
        if not force:
            await _refuse_moved(conn, row, before, target)
        if before is None:
            raise RowMoved(
                f"the row of conflict {number} is not there: nothing can be set in it",
                hint="use --keep or --take",
            )
        if unknown := sorted(set(values) - set(names_of(target))):
            raise BadRequest(f"{target.name} has no column {unknown[0]!r}")
        if fixed := sorted(values.keys() & (key.keys() | target.generated)):
            raise BadRequest(
                f"{fixed[0]!r} is the row's key, or made by the database: not to be set"
            )
        after = {**before, **values}
        how = "set " + ", ".join(values)
        settled = await _write(conn, row, key, target, before, after, "resolved", by, how)
        await _tell(conn, row, by, how)
        return settled


async def _tell(conn: asyncpg.Connection, row: Any, by: str, how: str) -> None:
    """The other nodes have this conflict open, too, and there may be more of the row."""
    names = row["schema_name"], row["table_name"], row["key"]
    await say_decided(conn, row["id"], *names, by=by, how=how)


async def _write_side(
    conn: asyncpg.Connection, row: Any, side: SideName, *, force: bool, by: str, state: str
) -> Settled:
    prefix = "kept" if side == "kept" else "in"
    op = row[f"{prefix}_op"]
    if op is None:
        raise BadRequest(
            "which row this side was is not known: the row is what the others have",
            hint=f"keep it: peersync conflicts resolve {row['id']} --keep",
        )
    if op not in ("I", "U", "D"):
        raise BadRequest(
            f"this side is no row: {_OPS.get(op, op)}",
            hint=f"to leave the rows as they are: peersync conflicts resolve {row['id']} --keep",
        )
    before, target, key = await _lock_row(conn, row)
    image = await _row(conn, row[f"{prefix}_shape"], op, row[f"{prefix}_image"])
    after = None if image is None else {**(before or {}), **image}
    if not force and not _same(before, after, target):
        await _refuse_moved(conn, row, before, target)
    how = f"the {side} side was written"
    return await _write(conn, row, key, target, before, after, state, by, how)


def _is_here(row: Any) -> bool:
    """Whether keeping means nothing but leaving what is here, whatever that is.

    After a rebaseline the row is what the others have: no change of theirs stands beside ours.
    """
    return row["kept_op"] is None or row["key"] is None


async def _close(conn: asyncpg.Connection, row: Any, by: str) -> Settled:
    how = "what is here was kept; nothing was written"
    await conn.execute(_SQL["settle"], row["id"], "resolved", by, how)
    return Settled(
        id=row["id"],
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        state="resolved",
        written=False,
        before=None,
        after=None,
    )


async def _write(
    conn: asyncpg.Connection,
    row: Any,
    key: Values,
    target: Target,
    before: Values | None,
    after: Values | None,
    state: str,
    by: str,
    how: str,
) -> Settled:
    if after is not None:
        after = {name: after[name] for name in names_of(target) if name in after}
    written = not _same(before, after, target)
    if written and after is None:
        await delete_row(conn, target, key)
    elif written and after is not None:
        await write_values(conn, target, key, after)
        moved = {name: after[name] for name in key}
        after = await read_row(conn, target, moved)
    elif state == "resolved":
        await log_as_it_is(conn, target, key, present=after is not None)
    await conn.execute(
        _SQL["settle"], row["id"], state, by, how if written else how + " (as it was)"
    )
    return Settled(
        id=row["id"],
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        state=state,
        written=written,
        before=before,
        after=after,
    )


async def _lock_row(conn: asyncpg.Connection, row: Any) -> tuple[Values | None, Target, Values]:
    """The row as it is now, held; its table's columns, and its key by column."""
    if row["key"] is None:
        raise BadRequest(f"{row['schema_name']}.{row['table_name']} has no key to find the row by")
    target = await existing_target(conn, row["tbl"])
    if target.state != "captured":
        raise BadRequest(
            f"changes of {target.name} are not caught here now,"
            " so this one would not reach the peers",
            hint="see: peersync tables list",
        )
    key = key_values(await read_shape(conn, row["in_shape"]), row["key"])
    before = await read_row(conn, target, key, lock=True)
    return before, target, key


async def _refuse_moved(
    conn: asyncpg.Connection, row: Any, before: Values | None, target: Target
) -> None:
    if await _has_moved(conn, row, before, target):
        raise RowMoved(
            f"the row of conflict {row['id']} has been changed since",
            detail="it is not what this conflict left any more",
            hint=f"look at both: peersync conflicts show {row['id']};"
            " to overwrite it nevertheless: --force",
            did="nothing was changed",
        )


async def _has_moved(
    conn: asyncpg.Connection, row: Any, before: Values | None, target: Target
) -> bool:
    """Whether the row is not what the winner made it; where that is not known the log tells."""
    unknown = row["winner"] == "kept" and row["kept_op"] is None
    if row["winner"] == "merged" or unknown:
        hlc = max((row["in_hlc"], row["in_origin"]), (row["kept_hlc"] or 0, row["kept_origin"]))
        if unknown:  # anything that was changed since it was found
            hlc = (int(row["at"].timestamp() * 1_000_000), 0)
        found = await conn.fetchval(_TRACE["newer"], row["tbl"], row["key"], *hlc, 1 << 62, 0)
        waiting = await conn.fetchval(_TRACE["unpublished"], row["tbl"], row["key"])
        return bool(found or waiting)
    prefix = "kept" if row["winner"] == "kept" else "in"
    left = await _row(conn, row[f"{prefix}_shape"], row[f"{prefix}_op"], row[f"{prefix}_image"])
    return not _same(before, left, target)


def _same(one: Values | None, other: Values | None, target: Target) -> bool:
    """Whether both are the same row in what they both have and can be set."""
    if one is None or other is None:
        return one is other
    shared = one.keys() & other.keys() - target.generated
    return all(one[name] == other[name] for name in shared)


async def _row(
    conn: asyncpg.Connection, shape: int | None, op: str | None, image: str | None
) -> Values | None:
    if shape is None or image is None or op == "D":
        return None
    return image_values(await read_shape(conn, shape), image)


async def _fetch(conn: asyncpg.Connection, number: int) -> Any:
    row = await conn.fetchrow(_SQL["get"], number)
    if row is None:
        raise NotFound(
            f"there is no conflict {number} here", hint="see them: peersync conflicts list"
        )
    return row


async def _lock(conn: asyncpg.Connection, number: int) -> Any:
    await conn.execute(_SQL["lock"], number)  # then read: what another has just settled is seen
    return await _fetch(conn, number)


async def node_names(conn: asyncpg.Connection) -> dict[int, str]:
    """Origins to names, those that have left included."""
    return {member.origin: member.node_name for member in await read_members(conn)}


def hlc_time(hlc: int | None) -> str | None:
    """The clock of a version (microseconds since 1970) as a time."""
    if hlc is None:
        return None
    return datetime.fromtimestamp(hlc / 1_000_000, UTC).isoformat(timespec="milliseconds")


def op_word(op: str | None) -> str:
    """insert, update, delete, truncate."""
    return _OPS.get(op or "", op or "none")


def _view(
    row: Any, nodes: Mapping[int, str], kept: Values | None = None, incoming: Values | None = None
) -> ConflictView:
    def side(prefix: str, values: Values | None) -> ConflictSide:
        return ConflictSide(
            origin=row[f"{prefix}_origin"],
            node=nodes.get(row[f"{prefix}_origin"]),
            position=row[f"{prefix}_position"],
            at=hlc_time(row[f"{prefix}_hlc"]),
            op=op_word(row[f"{prefix}_op"]),
            row=values,
        )

    both = {**(kept or {}), **(incoming or {})}
    return ConflictView(
        id=row["id"],
        at=row["at"].isoformat(timespec="milliseconds"),
        schema=row["schema_name"],
        table=row["table_name"],
        key=row["key"],
        kind=row["kind"],
        strategy=row["strategy"],
        winner=row["winner"],
        reason=row["reason"],
        state=row["state"],
        kept=side("kept", kept),
        incoming=side("in", incoming),
        differs=tuple(n for n in both if (kept or {}).get(n) != (incoming or {}).get(n)),
        settled_at=row["settled_at"] and row["settled_at"].isoformat(timespec="milliseconds"),
        settled_by=row["settled_by"],
        settled_how=row["settled_how"],
    )
