"""Which tables of a full sync are compared first, and why the others are sent whole.

Pure. A table is compared where both sides have rows of it, tell them apart by the same key, and
give its columns the same types; and where that is likely to cost less than sending all of it.
Whatever is not known for sure is sent whole: that is always right. With the method `auto` nobody
has asked for a comparison, so it must be likely to pay, and the plan stays what it was where no
table is worth it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from peersync.agent.delta.cost import most_differing, most_missing, send_s
from peersync.agent.plan import Plan
from peersync.agent.tableplan import TablePlan
from peersync.core.names import TableName
from peersync.core.words import counted
from peersync.postgres.catalog import DatabaseCatalog, Table
from peersync.wire.messages import Catalogue, Options, TableInfo

MIN_BYTES: Final = 1 << 20  # a smaller table is sent in the time that asking takes
AUTO_MIN_BYTES: Final = 8 << 20
_ASKING_S: Final = 0.3  # connections, questions and answers for one table
MAX_TABLES: Final = 250


def choose_tables(
    plan: Plan, source: Catalogue, here: DatabaseCatalog, options: Options, *, replica_role: bool
) -> Plan:
    """The plan with the way of each table, and with the reason where it is sent whole.

    For the methods delta and auto; what auto does not compare keeps the plan's method.
    """
    auto = options.method == "auto"
    why = _why_none(plan, here, options, replica_role=replica_role)
    if source.encoding != here.server.encoding:
        why = why or "the two databases have other encodings, and may order keys otherwise"
    there = {TableName(t.schema, t.name): t for t in source.tables}
    left = MAX_TABLES
    chosen: dict[TableName, TablePlan] = {}
    for table in sorted(plan.wanted(), key=lambda t: -t.size_bytes):
        reason = why or _why_not(
            table, there[table.table], here.tables.get(table.table), options, auto=auto
        )
        if reason is None and left == 0:
            reason = f"{MAX_TABLES} larger tables are compared"
        left -= reason is None
        chosen[table.table] = msgspec.structs.replace(
            table,
            way="full" if reason else "delta",
            way_reason=reason,
            compared=() if reason else _columns(there[table.table]),
            most_differing=None
            if reason
            else most_differing(_row_bytes(there[table.table]), _rate(options)),
        )
    return _chosen_plan(plan, chosen, auto=auto)


def _chosen_plan(plan: Plan, chosen: dict[TableName, TablePlan], *, auto: bool) -> Plan:
    compared = sum(table.way == "delta" for table in chosen.values())
    largest = next(iter(chosen.values()), None)
    if auto and not compared:
        if largest is None or largest.action == "create":
            return plan
        said = f"{plan.method_reason}; nothing is compared first: {largest.way_reason}"
        return msgspec.structs.replace(plan, method_reason=said)
    tables = counted(compared, "table")
    why = f"both sides have most rows of {tables}" if auto else "as asked"
    return msgspec.structs.replace(
        plan,
        method="delta",
        method_reason=f"{why}; what is sent whole: {plan.method}, {plan.method_reason}",
        rest_method=plan.method,
        tables=tuple(chosen.get(t.table, t) for t in plan.tables),
    )


def _rate(options: Options) -> float | None:
    return options.bandwidth_bytes_s or None


def _row_bytes(there: TableInfo) -> float:
    return there.size_bytes / there.rows if there.rows else 100


def _columns(there: TableInfo) -> tuple[str, ...]:
    return tuple(c.name for c in there.columns if not c.generated)


def _why_none(
    plan: Plan, here: DatabaseCatalog, options: Options, *, replica_role: bool
) -> str | None:
    """Why no table at all is compared."""
    if options.join or options.anew or options.merge:
        return "a database that becomes a member takes all rows"
    if options.narrow is not None:
        return "only some rows are wanted"
    if options.per_table and options.mirror:
        return "--per-table and --mirror delete in a second transaction"
    if not replica_role:
        return "triggers fire here, and may change rows that are not sent"
    wakes = [t.table for t in plan.wanted() if t.table in here.tables]
    wakes = [name for name in wakes if here.tables[name].fires_always]
    if wakes:
        return f"a trigger or rule of {wakes[0]} fires here, and may change rows that are not sent"
    return None


def _why_not(
    plan: TablePlan, there: TableInfo, here: Table | None, options: Options, *, auto: bool
) -> str | None:
    """Why this table is not compared."""
    if here is None:
        return "it is created here"
    if not plan.key or there.key is None:
        return "it has no key"
    if there.filtered or there.columns_filtered or there.narrowed:
        return "the source filters it"
    if tuple(there.key) != plan.key:
        return "its key is not the same on both sides"
    own = {c.name: c for c in here.columns}
    common = [c for c in there.columns if not c.generated]
    if any(own[c.name].generated for c in common):
        return "a column is computed on one side only"
    if any(own[c.name].type != c.type for c in common):
        return "its columns have other types here"
    return _why_dearer(there, here, _rate(options)) or (
        _why_not_by_itself(there, here, _rate(options)) if auto else None
    )


def _why_dearer(there: TableInfo, here: Table, rate: float | None) -> str | None:
    if there.size_bytes < MIN_BYTES:
        return "it is small"
    least = 1 - most_missing(_row_bytes(there), rate)
    if there.rows is not None and here.rows is not None:
        if here.rows < least * there.rows:
            return "most of its rows are not here"
    elif here.size_bytes < there.size_bytes * least**2:
        return "most of its rows are not here"
    return None


def _why_not_by_itself(there: TableInfo, here: Table, rate: float | None) -> str | None:
    """Why nobody should compare it who was not asked to."""
    rows = there.rows or there.size_bytes / _row_bytes(there)
    if there.size_bytes < AUTO_MIN_BYTES and rows * send_s(_row_bytes(there), rate) < _ASKING_S:
        return "it is small"
    if there.rows is None or here.rows is None:
        return "nobody knows how many rows it has: ANALYZE"
    least = 1 - most_missing(_row_bytes(there), rate)
    if there.rows < least * here.rows:
        return "it has many more rows here"
    return None
