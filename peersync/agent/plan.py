"""What a full sync will do, all in all, before anything is touched.

Pure: two catalogues in, a plan out. The command line, the API and the run itself read the
same plan, so what was shown is what is done. Whatever can't be synced is named, with the
reason and what would help. What becomes of one table is decided in `agent.tableplan`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from peersync.agent.fit import missing_sequences
from peersync.agent.methods import BY_COPY, NO_DEFINITIONS, choose_method
from peersync.agent.tableplan import RIGHTS_MISSING, TablePlan, TablePlanner, table_name
from peersync.core.errors import Denied, PermissionMissing, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import DatabaseCatalog
from peersync.wire.messages import Catalogue, SchemaScope


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
    missing = [t for t in source.tables if table_name(t) not in here]
    how, why = choose_method(
        method, source, source_name, needs_definitions=bool(missing and may_bring_schema)
    )
    scope: SchemaScope = "none"
    if missing and may_bring_schema and how == "backup":
        scope = "all"  # also when some are here: those that miss may need types, parents …
    planner = TablePlanner(
        source,
        target,
        source_name=source_name,
        may_bring_schema=may_bring_schema,
        replica_role=replica_role,
        no_definitions=NO_DEFINITIONS if how == "http" else None,
        taken=taken or {},
    )
    tables = tuple(planner.plan(t) for t in source.tables)
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
        only_here=tuple(str(n) for n in sorted(set(here) - {table_name(t) for t in source.tables})),
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
    if all((t.reason or "").startswith(RIGHTS_MISSING) for t in tables):
        raise PermissionMissing(words)
    raise SchemaMismatch(words)


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
