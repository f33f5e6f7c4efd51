"""What a full sync will do, table by table, before anything is touched.

Pure: two catalogues in, a plan out. The command line, the API and the run itself read the
same plan, so what was shown is what is done. Whatever can't be synced is named here, with
the reason and what would help.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from peersync.agent.fit import compare_column, compare_place, compare_types, missing_sequences
from peersync.agent.methods import BY_COPY, NO_DEFINITIONS, choose_method
from peersync.core.errors import Denied, PermissionMissing, SchemaMismatch
from peersync.core.names import TableName, quote_ident
from peersync.core.plancounts import RowCounts
from peersync.postgres.catalog import DatabaseCatalog, Table
from peersync.wire.messages import Catalogue, SchemaScope, TableInfo

_RIGHTS_MISSING = "rights are missing here"
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


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it: who changes, what is overwritten, kept and left out."""

    action: str
    database: str
    source: str
    target: str
    method: str = "backup"
    method_reason: str | None = None
    rest_method: str = "backup"  # of a delta: how the tables travel that are sent whole
    source_version: str
    target_version: str
    dump_tool: str
    schema_scope: SchemaScope
    tables: tuple[TablePlan, ...]
    only_here: tuple[str, ...]  # tables of the target that the source does not have
    not_copied: tuple[tuple[str, str], ...]
    size_bytes: int
    rows: int | None
    large_objects: int
    free_bytes: int
    needed_bytes: int
    expected_s: float | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mirror: bool = False
    large_objects_here: int = 0
    narrowed: str | None = None

    @property
    def overwrites(self) -> bool:
        """Whether rows or large objects that are here now may get other values."""
        rows = any(t.action in ("upsert", "insert") and t.rows_here != 0 for t in self.tables)
        return rows or bool(self.large_objects and self.large_objects_here)

    @property
    def blocked(self) -> tuple[TablePlan, ...]:
        return tuple(t for t in self.tables if t.action == "blocked")

    def wanted(self) -> tuple[TablePlan, ...]:
        return tuple(t for t in self.tables if t.action != "blocked")


def make_plan(
    source: Catalogue,
    target: DatabaseCatalog,
    *,
    source_name: str,
    target_name: str,
    database: str,
    may_bring_schema: bool,
    replica_role: bool,
    free_bytes: int,
    expected_s: float | None = None,
    method: str = "auto",
    mirror: bool = False,
    taken: Mapping[TableName, str] | None = None,
) -> Plan:
    """`taken`: what is here under a name and is no table that rows can be brought into, in words.

    Raises Denied, SchemaMismatch or ToolMissing where nothing at all could be synced.
    """
    if source.encoding != target.server.encoding and "SQL_ASCII" in (
        source.encoding,
        target.server.encoding,
    ):
        raise SchemaMismatch(
            f"the encodings do not fit: {source.encoding} on {source_name}, "
            f"{target.server.encoding} here",
            hint="SQL_ASCII says nothing about what its bytes mean; create the database anew "
            "with ENCODING 'UTF8'.",
        )
    here = target.tables
    missing = [t for t in source.tables if _name(t) not in here]
    how, why = choose_method(
        method, source, source_name, needs_definitions=bool(missing and may_bring_schema)
    )
    no_definitions = NO_DEFINITIONS if how == "http" else None
    scope: SchemaScope = "none"
    if missing and may_bring_schema and how == "backup":
        scope = "all"  # also when some are here: those that miss may need types, parents …
    fitting = _Fitting(source, target, taken or {})
    tables = tuple(
        fitting.fitted(
            t,
            _plan_table(
                t, here.get(_name(t)), source_name, may_bring_schema, replica_role, no_definitions
            ),
        )
        for t in source.tables
    )
    if tables and all(t.action == "blocked" for t in tables):
        allowed = may_bring_schema or how == "http"  # http: the right would not help
        _nothing_possible(tables, source_name, allowed, bool(missing))
    size = sum(t.size_bytes for t in tables if t.action != "blocked")
    rows = [t.rows for t in tables if t.action != "blocked"]
    staged = sum(t.size_bytes for t in tables if t.action in ("upsert", "insert"))
    return Plan(
        action="pull",
        database=database,
        source=source_name,
        target=target_name,
        method=how,
        method_reason=why,
        source_version=source.server_version,
        target_version=target.server.version,
        dump_tool=source.dump_tool if how == "backup" else BY_COPY,
        schema_scope=scope,
        tables=tables,
        only_here=tuple(str(n) for n in sorted(set(here) - {_name(t) for t in source.tables})),
        not_copied=(*source.skipped, *_sequences_left(source, target, scope, tables)),
        size_bytes=size,
        rows=sum(r for r in rows if r is not None) if None not in rows else None,
        large_objects=source.large_objects,
        free_bytes=free_bytes,
        needed_bytes=size // 3 + staged,
        expected_s=expected_s,
        warnings=_warnings(source, target, replica_role, tables),
        notes=_notes(tables, source.large_objects, target.server.large_objects, mirror=mirror),
        mirror=mirror,
        large_objects_here=target.server.large_objects,
    )


def _sequences_left(
    source: Catalogue, target: DatabaseCatalog, scope: SchemaScope, tables: tuple[TablePlan, ...]
) -> list[tuple[str, str]]:
    if scope == "all":
        return []  # they come
    filled = (t.table for t in tables if t.action in ("upsert", "insert"))
    return missing_sequences(source, target, filled)


class _Fitting:
    """Blocks or warns where names mean something else here."""

    def __init__(
        self, source: Catalogue, target: DatabaseCatalog, taken: Mapping[TableName, str]
    ) -> None:
        self._there = {t.name: t for t in source.types}
        self._target = target
        self._taken = taken

    def fitted(self, source: TableInfo, plan: TablePlan) -> TablePlan:
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
        name = _name(source)
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


def _name(table: TableInfo) -> TableName:
    return TableName(table.schema, table.name)


def _nothing_possible(
    tables: tuple[TablePlan, ...], source_name: str, may_bring_schema: bool, missing: bool
) -> None:
    if missing and not may_bring_schema:
        raise Denied(
            f"this database has none of the {len(tables)} tables of {source_name}, and "
            f"{source_name} may not bring its schema",
            hint=f"Allow it with: peersync peer allow {source_name} --schema\n"
            "or create the tables here yourself, then start again.",
        )
    first = tables[0]
    words = f"none of the {len(tables)} tables can be synced; {first.table}: {first.reason}"
    if all((t.reason or "").startswith(_RIGHTS_MISSING) for t in tables):
        raise PermissionMissing(words)
    raise SchemaMismatch(words)


def _plan_table(
    source: TableInfo,
    here: Table | None,
    source_name: str,
    may_bring: bool,
    replica_role: bool,
    no_definitions: str | None,
) -> TablePlan:
    plan = TablePlan(
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
    if here is None:
        if reason := no_definitions or (_MUST_EXIST if may_bring and source.must_exist else None):
            return msgspec.structs.replace(plan, action="blocked", reason=reason)
        if may_bring:
            return plan
        return msgspec.structs.replace(
            plan,
            action="blocked",
            reason="this database does not have it "
            f"(peersync peer allow {source_name} --schema lets the sync create it)",
        )
    plan = msgspec.structs.replace(plan, rows_here=here.rows)
    if reason := _blocked_by(source, here):
        return msgspec.structs.replace(plan, action="blocked", reason=reason)
    brought = frozenset(c.name for c in source.columns if not c.generated)
    usable = brought - {c.name for c in here.columns if c.generated}
    key = here.key_within(usable)
    warnings = (
        *plan.warnings,
        *_table_warnings(source, here, replica_role, keyed=key is not None),
    )
    return msgspec.structs.replace(
        plan,
        action="upsert" if key else "insert",
        key=key.columns if key else (),
        warnings=warnings,
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
        return f"{_RIGHTS_MISSING}: GRANT {', '.join(missing)} ON {table} TO …;"
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


def _warnings(
    source: Catalogue, target: DatabaseCatalog, replica_role: bool, tables: tuple[TablePlan, ...]
) -> tuple[str, ...]:
    found = []
    if not replica_role and any(t.action in ("upsert", "insert") for t in tables):
        found.append(
            "this role may not set session_replication_role: triggers fire and foreign keys are "
            "checked while rows are written (GRANT SET ON PARAMETER session_replication_role)"
        )
    if source.server_version_num // 10000 > target.server.version_num // 10000 and any(
        t.action == "create" for t in tables
    ):
        found.append(
            "the source is newer than this server: definitions that it does not know will be "
            "refused, and then nothing is changed"
        )
    return tuple(found)


def _notes(
    tables: tuple[TablePlan, ...], objects: int, objects_here: int, *, mirror: bool
) -> tuple[str, ...]:
    """What happens to rows and large objects that are here, in words."""
    large = []
    if objects and objects_here:
        large.append("large objects here that have the oid of one of the source's are overwritten")
    if not any(t.action in ("upsert", "insert") for t in tables):
        nothing = "no row" if large else "nothing"
        return (f"tables are created and filled; {nothing} that is here is touched", *large)
    only_here = "are DELETED" if mirror else "are kept, nothing is deleted"
    notes = [f"rows here that differ are overwritten, rows only here {only_here}", *large]
    if mirror and any(t.filtered for t in tables):
        notes.append("of tables that the source filters, rows only here are kept all the same")
    if any(t.action == "create" for t in tables):
        notes.append(
            "with the tables that miss here come the types, functions and views that miss, where "
            "they can; what is here stays as it is"
        )
    return tuple(notes)
