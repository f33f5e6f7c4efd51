"""The sequences of captured tables: who may draw which numbers, and how much is left.

Where two nodes insert, both must not draw the same number: each steps by the same step, in a
class of its own (`core.sequences`). Only sequences that belong to a column of a captured table
are touched; what counts down or starts again at its end is left alone, and said. `RESTART
IDENTITY` goes back to START, so START is moved into the class too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import asyncpg
import msgspec

from peersync.core.names import TableName, quote_ident
from peersync.core.sequences import (
    draws_left,
    free_slot,
    may_collide,
    next_in_class,
    residue,
    step_for,
)
from peersync.postgres.log.sequence_views import (
    CheckedSequence,
    NodeSequences,
    SequencePlan,
    SequencesCheck,
    SequenceState,
    State,
)
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("sequences")
LOCK_TIMEOUT_MS: Final = 5000
LOW_SHARE: Final = 0.1  # an alarm below this part of the numbers
_AT_ONCE: Final = 200


class Place(msgspec.Struct, frozen=True):
    """The class of a node: its slot, and the step of all. kept: the node has it already."""

    slot: int
    step: int
    members: int
    kept: bool = False


class _Found(msgspec.Struct, frozen=True):
    """A sequence with its values; `row` is that of the query `owned`."""

    row: Any
    last_value: int | None
    is_called: bool

    @property
    def name(self) -> TableName:
        return TableName(self.row["schema"], self.row["name"])

    @property
    def next_value(self) -> int | None:
        if self.last_value is None:
            return None
        return self.last_value + (self.row["increment"] if self.is_called else 0)


async def read_sequences(conn: asyncpg.Connection, node: str) -> NodeSequences:
    """What this node tells its peers. Those that it may not read are missing."""
    kept = await conn.fetchrow(_SQL["slot"])
    return NodeSequences(
        node=node,
        slot=kept and kept["slot"],
        step=kept and kept["step"],
        sequences=tuple(
            SequenceState(
                schema=found.row["schema"],
                name=found.row["name"],
                table_schema=found.row["table_schema"],
                table=found.row["table_name"],
                column=found.row["column_name"],
                increment=found.row["increment"],
                next_value=found.next_value,
            )
            for found in await _read(conn)
            if found.next_value is not None
        ),
    )


async def choose_place(
    conn: asyncpg.Connection,
    others: Sequence[NodeSequences],
    *,
    slot: int | None = None,
    step: int | None = None,
) -> Place:
    """The class of this node: what is asked for, what it kept, else its place among the members.

    A slot that it has is never changed by itself, whoever joins or leaves.
    """
    members = await conn.fetch(_SQL["members"])
    kept = await conn.fetchrow(_SQL["slot"])
    steps = [other.step for other in others if other.step]
    if kept and kept["step"]:
        steps.append(kept["step"])
    step = step or max([step_for(len(members)), *steps])
    if slot is None and kept:
        slot = kept["slot"]
    if slot is None:
        own = await conn.fetchval("SELECT origin FROM peersync.replica")
        rank = next((i for i, member in enumerate(members) if member["origin"] == own), 0)
        slot = free_slot(rank, {other.slot for other in others if other.slot is not None})
    return Place(slot, step, len(members), bool(kept and kept["slot"] == slot))


async def plan_sequences(
    conn: asyncpg.Connection, place: Place, others: Sequence[NodeSequences]
) -> list[SequencePlan]:
    """What each sequence needs. Reads the highest key of those that are not in their class."""
    elsewhere = _by_column(others)
    return [await _plan(conn, found, place, elsewhere) for found in await _read(conn)]


async def apply_sequences(
    conn: asyncpg.Connection, place: Place, others: Sequence[NodeSequences]
) -> list[SequencePlan]:
    """Puts all into the class, in one transaction. Gives what was done.

    The first ALTER of each changes nothing and keeps everybody from drawing; only then is its
    value read. Raises Locked where a transaction that has drawn a number does not end in 5 s.
    """
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        for plan in await plan_sequences(conn, place, others):
            if plan.state == "change":
                name = TableName(plan.schema, plan.name).sql
                await conn.execute(f"ALTER SEQUENCE {name} INCREMENT BY {plan.increment}")
        done = await plan_sequences(conn, place, others)
        for plan in done:
            if plan.sql is not None:
                await conn.execute(plan.sql)
        await conn.execute(_SQL["keep_slot"], place.slot, place.step)
    return done


def find_collisions(own: NodeSequences, others: Sequence[NodeSequences]) -> dict[TableName, str]:
    """By sequence: with which nodes it can draw the same number, in words."""
    elsewhere = _by_column(others)
    found: dict[TableName, str] = {}
    for one in own.sequences:
        column = (one.table_schema, one.table, one.column)
        there = elsewhere.get(column, [])
        nodes = [node for node, other in there if _collide(one, other)]
        if not nodes and (pair := _colliding_pair(there)) is not None:
            found[TableName(one.schema, one.name)] = (
                f"those of {pair[0]} and {pair[1]} can draw the same numbers"
            )
        if nodes:
            found[TableName(one.schema, one.name)] = (
                f"it can draw the same numbers as that of {', '.join(nodes)}"
            )
    return found


async def check_sequences(
    conn: asyncpg.Connection,
    database: str,
    own: NodeSequences,
    others: Sequence[NodeSequences],
    silent: dict[str, str],
) -> SequencesCheck:
    """This node's sequences against those of all members that have answered."""
    collisions = find_collisions(own, others)
    checked = []
    for found in await _read(conn):
        row = found.row
        plan = _planned(found, "fine", None)
        low = low_room(row, found.next_value)
        checked.append(
            CheckedSequence(
                schema=plan.schema,
                name=plan.name,
                table_schema=plan.table_schema,
                table=plan.table,
                column=plan.column,
                type=plan.type,
                increment=plan.increment,
                next_value=plan.next_value,
                left=plan.left,
                problem=collisions.get(found.name) or (f"it {low}" if low else None),
                note=_why_left_alone(found),
            )
        )
    return SequencesCheck(
        database=database,
        fine=not silent and not any(one.problem for one in checked),
        slot=own.slot,
        step=own.step,
        sequences=tuple(checked),
        silent=silent,
    )


async def sequence_alarms(conn: asyncpg.Connection) -> list[str]:
    """Sentences for `peersync status`, from what is known here alone. Empty: nothing to say."""
    members = len(await conn.fetch(_SQL["members"]))
    kept = await conn.fetchrow(_SQL["slot"])
    found = await _read(conn)
    alarms: list[str] = []
    loose = [str(one.name) for one in found if members > 1 and not _in_class(one, kept)]
    if loose:
        named = ", ".join(loose[:3]) + (f" and {len(loose) - 3} more" if len(loose) > 3 else "")
        alarms.append(
            f"new keys may collide with those of other nodes: {named}. See peersync sequences plan"
        )
    for one in found:
        if (low := low_room(one.row, one.next_value)) is not None:
            alarms.append(f"sequence {one.name} {low}")
    return alarms


def low_room(row: Mapping[str, Any], next_value: int | None) -> str | None:
    """ "has 3 % of its numbers left, 1200": where less than a tenth is left."""
    if next_value is None or row["increment"] <= 0 or row["cycles"]:
        return None
    last, first = row["last_allowed"], row["first_allowed"]
    share = max(0, last - next_value + 1) / (last - first + 1)
    if share >= LOW_SHARE:
        return None
    left = draws_left(next_value, last, row["increment"])
    return f"has {share * 100:.0f} % of its numbers left: {left} ({row['type']})"


def _in_class(found: _Found, kept: Any) -> bool:
    row = found.row
    if not row["owned"] or row["increment"] <= 0 or row["cycles"] or found.next_value is None:
        return True  # left alone, and said by the plan
    if not kept or kept["slot"] is None:
        return False
    step = kept["step"]
    return bool(row["increment"] == step and found.next_value % step == residue(kept["slot"], step))


def _collide(one: SequenceState, other: SequenceState) -> bool:
    if one.increment <= 0 or other.increment <= 0:
        return False
    return may_collide(one.next_value, one.increment, other.next_value, other.increment)


def _colliding_pair(states: Sequence[tuple[str, SequenceState]]) -> tuple[str, str] | None:
    """Two other nodes that can draw the same number: not every node can ask every other one."""
    classes: dict[tuple[int, int], tuple[str, SequenceState]] = {}
    for node, state in states:
        if state.increment > 0:
            key = (state.increment, state.next_value % state.increment)
            if key in classes:
                return classes[key][0], node
            classes[key] = (node, state)
    if len({increment for increment, _ in classes}) > 1:  # else equal steps keep them apart
        for (node, state), (other, its) in combinations(classes.values(), 2):
            if _collide(state, its):
                return node, other
    return None


_Column = tuple[str, str, str]


def _by_column(
    others: Sequence[NodeSequences],
) -> dict[_Column, list[tuple[str, SequenceState]]]:
    found: dict[_Column, list[tuple[str, SequenceState]]] = {}
    for node in others:
        for one in node.sequences:
            key = (one.table_schema, one.table, one.column)
            found.setdefault(key, []).append((node.node, one))
    return found


async def _read(conn: asyncpg.Connection) -> list[_Found]:
    """All of them with their values; a value is None where this role may not read it."""
    rows = await conn.fetch(_SQL["owned"])
    readable = [row for row in rows if row["may_select"]]
    values: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(readable), _AT_ONCE):
        parts = (
            f"SELECT {row['oid']}::bigint AS oid, last_value, is_called"
            f" FROM {TableName(row['schema'], row['name']).sql}"
            for row in readable[start : start + _AT_ONCE]
        )
        for value in await conn.fetch(" UNION ALL ".join(parts)):
            values[value["oid"]] = (value["last_value"], value["is_called"])
    return [_Found(row, *values.get(row["oid"], (None, False))) for row in rows]


def _why_left_alone(found: _Found) -> str | None:
    row = found.row
    if not row["owned"]:
        return "it belongs to no column: ALTER SEQUENCE … OWNED BY, where one table alone uses it"
    if row["increment"] < 0:
        return "it counts down"
    if row["cycles"]:
        return "it starts again at its end (CYCLE)"
    if found.next_value is None:
        return "this role may not read it: peersync grants"
    return None


async def _plan(
    conn: asyncpg.Connection,
    found: _Found,
    place: Place,
    elsewhere: Mapping[_Column, Sequence[tuple[str, SequenceState]]],
) -> SequencePlan:
    row, step = found.row, place.step
    if (why := _why_left_alone(found)) is not None:
        return _planned(found, "left alone", why)
    next_value = found.next_value
    assert next_value is not None
    wanted = residue(place.slot, step)
    first = next_in_class(row["first_allowed"] - 1, place.slot, step)
    if row["increment"] == step and next_value % step == wanted and row["start"] % step == wanted:
        return _planned(found, "fine", low_room(row, next_value), new_value=next_value)
    column = (row["table_schema"], row["table_name"], row["column_name"])
    drawn = next_value - (row["increment"] if found.is_called else 1)
    bounds = [drawn, row["first_allowed"] - 1, await _highest_key(conn, row)]
    for _node, other in elsewhere.get(column, ()):
        if other.increment > 0 and may_collide(wanted, step, other.next_value, other.increment):
            bounds.append(other.next_value - 1)  # it may have drawn from this class already
    new_value = next_in_class(max(bounds), place.slot, step)
    if new_value > row["last_allowed"]:
        last = row["last_allowed"]
        why = f"its next number would be {new_value}, above {last}: the column needs a larger type"
        return _planned(found, "full", why)
    sql = (
        f"ALTER SEQUENCE {found.name.sql} INCREMENT BY {step}"
        f" START WITH {first} RESTART WITH {new_value}"
    )
    left = draws_left(new_value, row["last_allowed"], step)
    note = None if row["cache"] == 1 else "sessions that are open may still use numbers they hold"
    return _planned(found, "change", note, new_value=new_value, sql=sql, left=left)


async def _highest_key(conn: asyncpg.Connection, row: Any) -> int:
    if not row["counts"]:
        return 0
    table = TableName(row["table_schema"], row["table_name"]).sql
    highest = await conn.fetchval(
        f"SELECT floor(max({quote_ident(row['column_name'])})::numeric)::text FROM {table}"
    )
    return int(highest) if highest and highest.lstrip("-").isdigit() else 0


def _planned(
    found: _Found,
    state: State,
    reason: str | None,
    *,
    new_value: int | None = None,
    sql: str | None = None,
    left: int | None = None,
) -> SequencePlan:
    row, next_value = found.row, found.next_value
    if left is None and next_value is not None and row["increment"] > 0:
        left = draws_left(next_value, row["last_allowed"], row["increment"])
    return SequencePlan(
        schema=row["schema"],
        name=row["name"],
        table_schema=row["table_schema"],
        table=row["table_name"],
        column=row["column_name"],
        type=row["type"],
        state=state,
        reason=reason,
        increment=row["increment"],
        next_value=next_value,
        new_value=new_value,
        left=left,
        sql=sql,
    )
