"""What the source's own role may not read, said before anything starts.

A table that cannot be read whole is a blocked line of the plan, with the statement that mends
it; what no line of a plan stands for (large objects, sequences without a table) refuses the
whole sync. Never is something left out in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peersync.agent.plan import Plan
from peersync.agent.tableplan import TablePlan
from peersync.core.errors import PermissionMissing, SchemaMismatch
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.core.words import counted
from peersync.postgres.catalog import DatabaseCatalog
from peersync.postgres.rights import Rights, Unreadable, missing_rights, statements
from peersync.wire.messages import BackupRequest, Catalogue, TableInfo


def refuse_what_no_table_stands_for(closed: Unreadable, patterns: Patterns, name: str) -> None:
    """Raises PermissionMissing; a sequence that the patterns leave out is not missed."""
    for sequence, grant in closed.sequences.items():
        if patterns.match(sequence):
            raise PermissionMissing(f"{name} may not read the sequence {sequence}", hint=grant)
    if closed.large_objects:
        raise PermissionMissing(
            f"{name} may not read all large objects",
            hint=f"{closed.large_objects}\npeersync grants --sql prints every statement.",
        )


def refuse_unable_to_sync(rights: Rights, patterns: Patterns, name: str) -> None:
    """Raises PermissionMissing where a role can't capture or apply the changes of some table."""
    lacking = missing_rights(rights, "periodic", patterns.match)
    if lacking:
        raise PermissionMissing(
            f"role {rights.role} of {name} lacks {counted(len(lacking), 'right')} that periodic "
            f"sync needs, on {lacking[0].kind} {lacking[0].name}"
            + (f" and {len(lacking) - 1} more" if lacking[1:] else ""),
            hint=f"On {name}, as a superuser:\n{statements(lacking, 'periodic')}",
        )


def left_alone(request: BackupRequest, closed: Unreadable) -> tuple[TableName, ...]:
    """What a dump must not touch. Raises PermissionMissing where a wanted row is behind it."""
    for ref in request.tables:
        name = TableName(ref.schema, ref.name)
        if name in closed.tables:
            raise PermissionMissing(f"the source may not read {name}", hint=closed.tables[name])
    if request.large_objects and closed.large_objects:
        raise PermissionMissing(
            "the source may not read all large objects", hint=closed.large_objects
        )
    return closed.relations


def refuse_if_gone(request: BackupRequest, catalog: DatabaseCatalog) -> None:
    """Raises SchemaMismatch when a wanted table was dropped since the plan was made."""
    for ref in request.tables:
        name = TableName(ref.schema, ref.name)
        if name not in catalog.tables:
            raise SchemaMismatch(
                f"the source has no table {name} any more",
                hint="Start the sync again: the plan is then made anew.",
            )


def marked(tables: Sequence[TableInfo], closed: Unreadable) -> list[TableInfo]:
    """The tables of a catalogue, those that cannot be read with the reason."""
    return [
        msgspec.structs.replace(t, refused=closed.tables.get(TableName(t.schema, t.name)))
        for t in tables
    ]


def with_refused(plan: Plan, source: Catalogue, source_name: str) -> Plan:
    """The plan with the tables blocked that the source cannot give.

    Raises PermissionMissing when those are all that could be synced.
    """
    refused = {(t.schema, t.name): t.refused for t in source.tables if t.refused}
    if not refused:
        return plan
    tables = tuple(
        _blocked(t, refused[t.schema, t.name], source_name) if (t.schema, t.name) in refused else t
        for t in plan.tables
    )
    if all(t.action == "blocked" for t in tables):
        first = next(t for t in tables if (t.schema, t.name) in refused)
        raise PermissionMissing(
            f"none of the {len(tables)} tables can be synced; {first.table}: {first.reason}",
            hint=f"on {source_name}: peersync grants --mode push prints every statement",
        )
    rows = [t.rows for t in tables if t.action != "blocked"]
    return msgspec.structs.replace(
        plan,
        tables=tables,
        size_bytes=sum(t.size_bytes for t in tables if t.action != "blocked"),
        rows=None if None in rows else sum(r for r in rows if r is not None),
    )


def _blocked(table: TablePlan, grant: str, source_name: str) -> TablePlan:
    reason = table.reason if table.action == "blocked" else None
    words = reason or f"{source_name} may not read all of it: {grant}"
    return msgspec.structs.replace(table, action="blocked", reason=words, warnings=())
