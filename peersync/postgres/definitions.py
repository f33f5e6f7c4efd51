"""The rest of a peer's definitions, once the rows are in: foreign keys, triggers, policies.

Where a table that was here is incomplete, a foreign key of a table that this session created
may find rows without parents. Those rows are left out, as they are of tables that were here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed

import psycopg
from msgspec.structs import replace
from psycopg import errors as pg

from peersync.core.errors import SchemaMismatch
from peersync.core.names import TableName, quote_ident
from peersync.core.results import TableResult
from peersync.dump.pieces import Statement
from peersync.postgres.aside import Reason
from peersync.postgres.foreign_keys import read_foreign_keys
from peersync.postgres.load import TableLoad
from peersync.postgres.orphans import prune_created
from peersync.postgres.schema import Definitions


def run_rest(
    connection: psycopg.Connection,
    definitions: Definitions,
    rest: Sequence[Statement],
    created: Mapping[int, TableLoad],
    results: list[TableResult],
) -> list[TableResult]:
    """Runs the statements in the caller's transaction; gives the results as they are then."""
    late = False
    for statement in rest:
        try:
            definitions.run(connection, [statement])
        except SchemaMismatch as exc:
            if not isinstance(exc.__cause__, pg.ForeignKeyViolation):
                raise
            text = statement.text.rstrip().removesuffix(";") + " NOT VALID;"
            definitions.run(connection, [changed(statement, text=text)])
            late = True
    return _prune(connection, created, results) if late else results


def _prune(
    connection: psycopg.Connection, created: Mapping[int, TableLoad], results: list[TableResult]
) -> list[TableResult]:
    keys = [k for k in read_foreign_keys(connection, list(created)) if k.child in created]
    pruned = prune_created(connection, keys)
    connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # ALTER TABLE refuses pending events
    for key in keys:
        if not key.validated:
            name = quote_ident(key.name)
            connection.execute(
                f"ALTER TABLE {key.child_name.sql} VALIDATE CONSTRAINT {name}".encode()
            )
    by_name = {created[oid].table.name: reasons for oid, reasons in pruned.items()}
    return [_pruned(r, by_name.get(TableName(r.schema, r.name), {})) for r in results]


def _pruned(result: TableResult, reasons: Mapping[Reason, int]) -> TableResult:
    number = sum(reasons.values())
    if not number:
        return result
    return replace(
        result,
        result="partly",
        inserted=result.inserted - number,
        skipped=result.skipped + number,
        note="; ".join(why[n != 1].format(n) for why, n in reasons.items()),
    )
