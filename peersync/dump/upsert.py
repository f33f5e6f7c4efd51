"""The SQL that puts the rows of one COPY block into a table, for scripts that psql runs.

The rows go into a temporary table shaped like the target, then one statement changes
only what differs. Four things are not obvious:

* A guarded ON CONFLICT still locks each row that it leaves alone and logs that (189 MB
  for a million rows that are equal), so equal rows are filtered out before it.
* Rows are compared by image (`*<>`): it tells 1.0 from 1.00 and takes types without an
  equality operator (json, point). `NOT … *<>` instead of `*=`, because the planner
  may sort both tables to merge by the latter.
* Keys are compared by the operators of pg_catalog, named in full. A key of another
  type (an extension's, a domain, an enum) is compared by image: its own operator is
  somewhere that only the target knows. The unique index decides in the end anyway.
* The key's columns are written too, because equal keys may look different (citext,
  numeric). Only an identity column that is GENERATED ALWAYS cannot be.

ON CONFLICT cannot be used on tables with INSERT or UPDATE rules, nor with a deferrable
key: there it is UPDATE, then INSERT. Without any key, rows are compared whole, and as
often as they come.
"""

# ruff: noqa: S608 - names are quoted by core.names

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peersync.core.names import TableName, quote_ident, quote_literal

STAGE = "pg_temp.peersync_stage"


@dataclass(frozen=True, slots=True)
class TablePlan:
    """How the rows of a table get in. `key` is empty: rows are compared whole."""

    table: TableName
    key: tuple[str, ...] = ()
    arbiter: bool = True  # ON CONFLICT (key) can be used
    by_image: bool = False  # some column of the key is not of a built-in type
    fixed: frozenset[str] = frozenset()  # columns that an UPDATE leaves alone
    only: bool = True  # the table itself, without those that inherit from it
    has_rules: bool = False

    @property
    def method(self) -> str:
        if not self.key:
            return "whole-row"
        return "upsert" if self.arbiter and not self.has_rules else "update-insert"

    @property
    def source(self) -> str:
        """The target in a FROM clause or as the object of an UPDATE."""
        return f"{'ONLY ' if self.only else ''}{self.table.sql}"


def stage_sql(plan: TablePlan, columns: tuple[str, ...]) -> str:
    """What comes before the rows; the last line is the COPY."""
    names = _names(columns)
    listed = f" ({names})" if columns else ""
    return (
        f"CREATE TEMPORARY TABLE peersync_stage ON COMMIT DROP AS\n"
        f"  SELECT {names} FROM {plan.table.sql} WITH NO DATA;\n"
        f"COPY {STAGE}{listed} FROM stdin;\n"
    )


def merge_sql(plan: TablePlan, columns: tuple[str, ...]) -> str:
    """What comes after the rows and their end mark."""
    body = {"upsert": _upsert, "update-insert": _update_insert, "whole-row": _whole_rows}
    guard = _rules_guard(plan.table) if plan.has_rules else ""
    merged = body[plan.method](plan, columns)
    return f"ANALYZE {STAGE};\n{guard}{merged}DROP TABLE {STAGE};\n"


def _upsert(plan: TablePlan, columns: tuple[str, ...]) -> str:
    changed = _changed(plan, columns)
    equal = f"\n      AND NOT ({_differ('o', 's', changed)})" if changed else ""
    action = "DO NOTHING"
    if changed:
        sets = ", ".join(f"{quote_ident(c)} = excluded.{quote_ident(c)}" for c in changed)
        action = f"DO UPDATE SET {sets}\n  WHERE {_differ('t', 'excluded', changed)}"
    return (
        f"{_insert(plan, columns)}"
        f"  SELECT {_names(columns, 's')} FROM {STAGE} AS s\n"
        f"  WHERE NOT EXISTS (SELECT FROM {plan.source} AS o\n"
        f"    WHERE {_same_key(plan)}{equal})\n"
        f"  ON CONFLICT ({_names(plan.key)}) {action};\n"
    )


def _update_insert(plan: TablePlan, columns: tuple[str, ...]) -> str:
    changed = _changed(plan, columns)
    update = ""
    if changed:
        sets = ", ".join(f"{quote_ident(c)} = s.{quote_ident(c)}" for c in changed)
        update = (
            f"UPDATE {plan.source} AS o SET {sets}\n"
            f"  FROM {STAGE} AS s\n"
            f"  WHERE {_same_key(plan)} AND {_differ('o', 's', changed)};\n"
        )
    return (
        f"{update}{_insert(plan, columns)}"
        f"  SELECT {_names(columns, 's')} FROM {STAGE} AS s\n"
        f"  WHERE NOT EXISTS (SELECT FROM {plan.source} AS o WHERE {_same_key(plan)});\n"
    )


def _whole_rows(plan: TablePlan, columns: tuple[str, ...]) -> str:
    text = f"ROW({_names(columns, 'x')})::pg_catalog.text"
    values = ", ".join(f"(s.x).{quote_ident(column)}" for column in columns)
    return (
        f"{_insert(plan, columns)}"
        f"  SELECT {values} FROM (\n"
        f"    SELECT x, {text} AS r, pg_catalog.row_number() OVER (PARTITION BY {text}) AS n\n"
        f"    FROM {STAGE} AS x) AS s\n"
        f"  LEFT JOIN (SELECT {text} AS r, pg_catalog.count(*) AS n\n"
        f"    FROM {plan.source} AS x GROUP BY 1) AS o ON o.r OPERATOR(pg_catalog.=) s.r\n"
        f"  WHERE s.n > COALESCE(o.n, 0);\n"
    )


def _insert(plan: TablePlan, columns: tuple[str, ...]) -> str:
    listed = f" ({_names(columns)})" if columns else ""
    return f"INSERT INTO {plan.table.sql} AS t{listed} OVERRIDING SYSTEM VALUE\n"


def _changed(plan: TablePlan, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns to update: none if there is nothing beside the key."""
    free = tuple(column for column in columns if column not in plan.fixed)
    return free if plan.by_image or not set(free) <= set(plan.key) else ()


def _same_key(plan: TablePlan) -> str:
    if plan.by_image:
        left, right = _names(plan.key, "o"), _names(plan.key, "s")
        return f"{_record(left)} OPERATOR(pg_catalog.*=) {_record(right)}"
    names = [quote_ident(column) for column in plan.key]
    return " AND ".join(f"o.{name} OPERATOR(pg_catalog.=) s.{name}" for name in names)


def _differ(left: str, right: str, columns: tuple[str, ...]) -> str:
    names = _record(_names(columns, left)), _record(_names(columns, right))
    return " OPERATOR(pg_catalog.*<>) ".join(names)


def _record(names: str) -> str:
    return f"ROW({names})::pg_catalog.record"  # without the cast it is expanded by column


def _names(columns: Iterable[str], alias: str = "") -> str:
    prefix = f"{alias}." if alias else ""
    return ", ".join(prefix + quote_ident(column) for column in columns)


def _rules_guard(table: TableName) -> str:
    """COPY passes rules by, INSERT does not: they must be off, which replica mode does."""
    relation = quote_literal(table.sql)
    body = (
        "BEGIN IF pg_catalog.current_setting('session_replication_role') <> 'replica' AND EXISTS ("
        f"SELECT FROM pg_catalog.pg_rewrite WHERE ev_class = {relation}::pg_catalog.regclass"
        " AND ev_type IN ('2', '3') AND ev_enabled <> 'D') THEN RAISE EXCEPTION"
        f" 'rules of % would change the rows: run this script with the right to set"
        f" session_replication_role', {relation}; END IF; END"
    )
    return f"DO {quote_literal(body)};\n"
