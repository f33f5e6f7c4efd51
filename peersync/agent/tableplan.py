"""What a full sync will do with one table: create it, fill it, or leave it out, and why.

Pure: the source's description of the table and what is here go in, its plan comes out. Which
tables there are, and what follows from all of them together, is `agent.plan`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from peersync.agent.fit import compare_column, compare_place, compare_types
from peersync.core.names import TableName, quote_ident
from peersync.core.plancounts import RowCounts
from peersync.postgres.catalog import DatabaseCatalog, Table
from peersync.wire.messages import Catalogue, TableInfo

RIGHTS_MISSING = "rights are missing here"
_MUST_EXIST = (
    "the source keeps a column to itself that is NOT NULL and has no default, so the table can't "
    "be created and filled: create it here, with a default for that column or without it"
)

Action = Literal["create", "upsert", "insert", "blocked"]


class TablePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One table. `rows` and `rows_here` are the planner's estimates; None is unknown.

    Actions: create (and fill), upsert (by `key`), insert (no key: only rows whose whole
    content is not here yet), blocked (left out, with the reason).
    filtered: some rows do not come, so a row that is only here may be there too.
    """

    schema: str
    name: str
    action: Action
    key: tuple[str, ...] = ()
    rows: int | None = None
    rows_here: int | None = None
    size_bytes: int = 0
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    filtered: bool = False
    counts: RowCounts = RowCounts()
    way: Literal["full", "delta"] = "full"  # delta: only rows that are found to differ are sent
    way_reason: str | None = None  # why all rows are sent, although a delta was asked for
    compared: tuple[str, ...] = ()  # the columns by which rows are found to differ
    most_differing: float | None = None  # share of its blocks; beyond, all its rows are sent

    @property
    def table(self) -> TableName:
        return TableName(self.schema, self.name)


class TablePlanner:
    """Plans the tables of one full sync, one by one.

    `no_definitions`: why no table can be created, whatever the peer may; None where it can.
    """

    def __init__(
        self,
        source: Catalogue,
        target: DatabaseCatalog,
        *,
        source_name: str,
        may_bring_schema: bool,
        replica_role: bool,
        no_definitions: str | None,
        taken: Mapping[TableName, str],
    ) -> None:
        self._there = {t.name: t for t in source.types}
        self._target = target
        self._source_name = source_name
        self._may_bring = may_bring_schema
        self._replica_role = replica_role
        self._no_definitions = no_definitions
        self._taken = taken

    def plan(self, source: TableInfo) -> TablePlan:
        here = self._target.tables.get(table_name(source))
        return self._fitted(
            source, self._created(source) if here is None else self._filled(source, here)
        )

    def _created(self, source: TableInfo) -> TablePlan:
        """A table that is not here."""
        plan = _begun(source)
        must_exist = _MUST_EXIST if self._may_bring and source.must_exist else None
        reason = self._no_definitions or must_exist
        if reason is None and not self._may_bring:
            reason = (
                "this database does not have it "
                f"(peersync peer allow {self._source_name} --schema lets the sync create it)"
            )
        if reason is None:
            return plan
        return msgspec.structs.replace(plan, action="blocked", reason=reason)

    def _filled(self, source: TableInfo, here: Table) -> TablePlan:
        plan = msgspec.structs.replace(_begun(source), rows_here=here.rows)
        if reason := _blocked_by(source, here):
            return msgspec.structs.replace(plan, action="blocked", reason=reason)
        brought = frozenset(c.name for c in source.columns if not c.generated)
        usable = brought - {c.name for c in here.columns if c.generated}
        key = here.key_within(usable)
        found = _table_warnings(source, here, self._replica_role, keyed=key is not None)
        return msgspec.structs.replace(
            plan,
            action="upsert" if key else "insert",
            key=key.columns if key else (),
            warnings=(*plan.warnings, *found),
        )

    def _fitted(self, source: TableInfo, plan: TablePlan) -> TablePlan:
        """Blocked, or with a warning, where names mean something else here."""
        if plan.action == "blocked":
            return plan
        here = self._target.tables.get(plan.table)
        own = {c.name: c.type for c in here.columns} if here else {}
        brought = [
            c
            for c in source.columns
            if not c.generated and (here is None or own.get(c.name) == c.type)
        ]
        reason, warnings = compare_types(
            brought, self._there, self._target.types, created=here is None
        )
        if here is None:
            reason = self._name_taken(source) or reason
        elif source.bound is not None or here.bound:
            place = compare_place(source, here)
            warnings += [place] if place else []
        if reason:
            return msgspec.structs.replace(plan, action="blocked", reason=reason, warnings=())
        return msgspec.structs.replace(plan, warnings=(*plan.warnings, *warnings))

    def _name_taken(self, source: TableInfo) -> str | None:
        """Why a table that is not here can't be created under its name, or at its place."""
        name = table_name(source)
        if name in self._taken:
            return (
                f"{name} is {self._taken[name]} here and a table with rows there: rename or drop "
                "what is here"
            )
        parent = source.parent and TableName(source.parent.schema, source.parent.name)
        if parent and parent in self._target.tables:
            return (
                f"it is a partition of {parent} there, which is an ordinary table here: rename or "
                "drop what is here"
            )
        return None


def table_name(table: TableInfo) -> TableName:
    """The name of a table that the source has described."""
    return TableName(table.schema, table.name)


def _begun(source: TableInfo) -> TablePlan:
    return TablePlan(
        schema=source.schema,
        name=source.name,
        action="create",
        key=source.key or (),
        rows=source.rows,
        rows_here=0,
        size_bytes=source.size_bytes,
        filtered=source.filtered or source.narrowed,
        warnings=tuple(_filter_warnings(source)),
    )


def _blocked_by(source: TableInfo, here: Table) -> str | None:
    """Why rows of the source can't be written into the table that is here."""
    table = here.name.sql
    for column in source.columns:
        if not column.generated and here.column(column.name) is None:
            return (
                f"column {column.name} is missing here: "
                f"ALTER TABLE {table} ADD COLUMN {quote_ident(column.name)} {column.type};"
            )
    brought = {c.name for c in source.columns if not c.generated}
    for own in here.columns:
        fills_itself = own.has_default or own.generated or own.identity
        if own.name not in brought and own.not_null and not fills_itself:
            return (
                f"column {own.name} here is NOT NULL, has no default, and the source does not "
                f"have it: ALTER TABLE {table} ALTER COLUMN {quote_ident(own.name)} SET DEFAULT …;"
            )
    held = {"SELECT": here.may_select, "INSERT": here.may_insert, "UPDATE": here.may_update}
    if missing := [right for right, may in held.items() if not may]:
        return f"{RIGHTS_MISSING}: GRANT {', '.join(missing)} ON {table} TO …;"
    return None


def _filter_warnings(source: TableInfo) -> list[str]:
    found = []
    if source.filtered:
        found.append("filtered by the source: only the rows that it lets go come")
    if source.narrowed:
        found.append("only the rows that were asked for come; all others stay as they are here")
    if source.columns_filtered:
        found.append("filtered by the source: columns that it keeps stay as they are here")
    return found


def _table_warnings(
    source: TableInfo, here: Table, replica_role: bool, *, keyed: bool
) -> list[str]:
    found = []
    if not keyed:
        found.append("no key: whole rows are compared, and rows that are only here stay")
    found += filter(None, (compare_column(c, here.column(c.name)) for c in source.columns))
    if not replica_role and here.has_triggers:
        found.append("its triggers will fire")
    if not replica_role and here.has_rules:
        found.append("its rules will apply")
    if replica_role and here.fires_always:
        names = ", ".join(here.fires_always)
        found.append(
            f"{names} will fire: ENABLE ALWAYS or ENABLE REPLICA keeps it awake, and rows that it "
            "changes or drops can't be verified"
        )
    return found
