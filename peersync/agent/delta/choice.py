"""Which tables of a full sync are compared first, and why the others are sent whole.

Pure. A table is compared where both sides have rows of it, tell them apart by the same key, and
give its columns the same types; and where that is likely to cost less than sending all of it.
Whatever is not known for sure is sent whole: that is always right.
"""

from __future__ import annotations

from typing import Final

import msgspec

from peersync.agent.plan import Plan, TablePlan
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog, Table
from peersync.wire.messages import Catalogue, Options, TableInfo

MIN_BYTES: Final = 1 << 20  # a smaller table is sent in the time that asking takes
MAX_TABLES: Final = 250
MOST_DIFFERING: Final = 0.3  # of the blocks of 64 rows: beyond, sending all rows costs less


def choose_tables(
    plan: Plan, source: Catalogue, here: DatabaseCatalog, options: Options, *, replica_role: bool
) -> Plan:
    """The plan of a delta: each table with its way, and with the reason where it is sent whole."""
    why = _why_none(plan, here, options, replica_role=replica_role)
    if source.encoding != here.server.encoding:
        why = why or "the two databases have other encodings, and may order keys otherwise"
    there = {TableName(t.schema, t.name): t for t in source.tables}
    left = MAX_TABLES
    chosen: dict[TableName, TablePlan] = {}
    for table in sorted(plan.wanted(), key=lambda t: -t.size_bytes):
        reason = why or _why_not(table, there[table.table], here.tables.get(table.table))
        if reason is None and left == 0:
            reason = f"{MAX_TABLES} larger tables are compared"
        left -= reason is None
        chosen[table.table] = msgspec.structs.replace(
            table,
            way="full" if reason else "delta",
            way_reason=reason,
            compared=() if reason else _columns(there[table.table]),
        )
    tables = tuple(chosen.get(t.table, t) for t in plan.tables)
    return msgspec.structs.replace(
        plan,
        method="delta",
        method_reason=f"as asked; what is sent whole: {plan.method}, {plan.method_reason}",
        rest_method=plan.method,
        tables=tables,
    )


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


def _why_not(plan: TablePlan, there: TableInfo, here: Table | None) -> str | None:
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
    return _why_dearer(there, here)


def _why_dearer(there: TableInfo, here: Table) -> str | None:
    if there.size_bytes < MIN_BYTES:
        return "it is small"
    if there.rows is not None and here.rows is not None:
        if here.rows < (1 - MOST_DIFFERING) * there.rows:
            return "most of its rows are not here"
    elif here.size_bytes < there.size_bytes * (1 - MOST_DIFFERING) ** 2:
        return "most of its rows are not here"
    return None
