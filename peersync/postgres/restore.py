"""The one transaction that makes the target what the source was, proved before it commits.

Everything before it (staging, tables of our own making) can be thrown away; everything in
it becomes visible together or not at all. It checks the fence, so that a process which was
put to sleep and lost its lock can't write, and it records the session as committed, so that
a COMMIT whose answer was lost is answered by the database itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import psycopg
from msgspec.structs import replace

from peersync.core.errors import DatabaseError, Locked, VerifyFailed
from peersync.core.names import TableName, quote_literal
from peersync.core.results import TableResult
from peersync.dump.pieces import Statement
from peersync.postgres.catalog import Table, parents_first
from peersync.postgres.errors import translate
from peersync.postgres.load import Loading, TableLoad
from peersync.postgres.orphans import find_orphans
from peersync.postgres.schema import Definitions
from peersync.postgres.sqlfiles import queries
from peersync.postgres.write import REFUSALS, upsert, verify_table, words
from peersync.wire.messages import Baseline

log = logging.getLogger("peersync.target")

LEASE = "full_sync"
_LOCKED_AT_ONCE = 200


@dataclass
class Final:
    """What the final transaction needs, and how it tells how far it is."""

    session: str
    fence: int
    baseline: Baseline
    definitions: Definitions
    left_out: Sequence[TableResult]  # by the plan; they belong in the record, with the reason
    rest: Sequence[Statement]  # foreign keys, triggers, rules, policies, views' contents
    verify: bool
    replica_role: bool
    lock_timeout_s: int
    restored: Callable[[TableLoad], None]
    verified: Callable[[TableLoad], None]


def commit_session(
    connection: psycopg.Connection,
    loading: Loading,
    parents: dict[int, frozenset[int]],
    final: Final,
) -> list[TableResult]:
    """Merges, verifies and commits. Any exception leaves the tables as they were.

    Raises VerifyFailed where a table does not hold what was sent, Locked where somebody else
    has taken over this database's lease or holds a table's lock.
    """
    loads = _in_order(loading, parents)
    results: list[TableResult] = []
    with connection.transaction():
        connection.execute(
            f"SET LOCAL synchronous_commit = on; SET LOCAL enable_nestloop = off;"
            f" SET LOCAL lock_timeout = {final.lock_timeout_s * 1000}"
        )
        if final.replica_role:
            connection.execute("SET LOCAL session_replication_role = replica")
        else:
            connection.execute("SET CONSTRAINTS ALL DEFERRED")
        _check_fence(connection, final.fence)
        _lock_tables(connection, [load.table for load in loads if not load.created])
        for load in loads:
            loading.stop.check()
            results.append(_restore_table(connection, load, final))
        _refuse_nothing_written(loads, results)
        final.definitions.run(connection, final.rest)
        if final.replica_role:
            results = _note_orphans(connection, loads, results)
        if loading.has_large_objects:
            restore_large_objects(connection, loading)
        results = _note_sequences(results, raise_sequences(connection, loading))
        results += final.left_out
        _store_baseline(connection, final, results)
    return results


def _refuse_nothing_written(loads: Sequence[TableLoad], results: Sequence[TableResult]) -> None:
    """A sync in which every table failed has failed: there is nothing to commit."""
    if not results or any(result.result != "failed" for result in results):
        return
    first = results[0]
    more = f" ({len(results)} tables failed)" if len(results) > 1 else ""
    raise DatabaseError(
        f"no table could be written{more}; the first is {first.schema}.{first.name}",
        detail=first.error,
        hint="Mend that here or on the source, then start again. Nothing was changed.",
    )


def _note_orphans(
    connection: psycopg.Connection, loads: Sequence[TableLoad], results: list[TableResult]
) -> list[TableResult]:
    done = {(r.schema, r.name) for r in results if r.result == "done"}
    written = [load for load in loads if load.loaded]
    complete = [load.table.oid for load in loads if tuple(load.table.name) in done]
    orphans = find_orphans(connection, written, complete)
    return [
        replace(result, result="partly", note=orphans[name])
        if (name := TableName(result.schema, result.name)) in orphans
        else result
        for result in results
    ]


def _in_order(loading: Loading, parents: dict[int, frozenset[int]]) -> list[TableLoad]:
    by_oid = {load.table.oid: load for load in loading.tables.values()}
    ordered = parents_first([load.table for load in by_oid.values()], parents)
    return [by_oid[table.oid] for table in ordered]


def _check_fence(connection: psycopg.Connection, fence: int) -> None:
    row = (
        psycopg.RawCursor(connection).execute(queries("leases")["check_fence"], (LEASE,)).fetchone()
    )
    if row is None or row[0] != fence:
        raise Locked(
            "another full sync has taken over this database while this one was asleep",
            hint="Nothing was changed by this one. See: peersync jobs list",
        )


def _lock_tables(connection: psycopg.Connection, tables: Sequence[Table]) -> None:
    """Keeps other writers out until the commit: a MERGE beside an INSERT fails on a new key."""
    ordered = sorted(tables, key=lambda t: t.name)
    for start in range(0, len(ordered), _LOCKED_AT_ONCE):
        names = ", ".join(f"ONLY {t.name.sql}" for t in ordered[start : start + _LOCKED_AT_ONCE])
        connection.execute(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE".encode())


def _restore_table(connection: psycopg.Connection, load: TableLoad, final: Final) -> TableResult:
    name = load.table.name
    result = TableResult(
        schema=name.schema,
        name=name.name,
        result="done",
        source=load.rows,
        raw_bytes=load.raw_bytes,
        created=load.created,
    )
    if load.error is not None:
        result = replace(result, result="failed", error=words(load.error))
    elif load.created:
        result = replace(result, inserted=load.rows, target_only=0)
        if final.verify:
            _verify_count(connection, load)
    elif not load.loaded:
        result = replace(result, result="failed", error="the backup does not have its rows")
    else:
        return _merge_table(connection, load, result, final)
    final.restored(load)
    final.verified(load)
    return result


def _merge_table(
    connection: psycopg.Connection, load: TableLoad, result: TableResult, final: Final
) -> TableResult:
    try:
        outcome = upsert(connection, load, replica_role=final.replica_role)
    except REFUSALS as exc:
        final.restored(load)
        final.verified(load)
        error = translate(exc, what=f"writing {load.table.name}")
        return replace(result, result="failed", error=words(error))
    final.restored(load)
    target_only = verify_table(connection, load, outcome) if final.verify else None
    final.verified(load)
    return replace(
        result,
        result="partly" if outcome.skipped else "done",
        inserted=outcome.inserted,
        updated=outcome.updated,
        unchanged=load.rows - outcome.inserted - outcome.updated - outcome.skipped,
        skipped=outcome.skipped,
        target_only=target_only,
        note=outcome.note,
        error=outcome.error,
    )


def _verify_count(connection: psycopg.Connection, load: TableLoad) -> None:
    row = connection.execute(load.merge.count_target().encode()).fetchone()
    assert row is not None
    if row[0] != load.rows:
        raise VerifyFailed(
            f"{load.table.name}: {load.rows} rows were loaded and {row[0]} are there; "
            "everything was rolled back"
        )


def restore_large_objects(connection: psycopg.Connection, loading: Loading) -> None:
    """Creates the large objects that are missing and rewrites those that differ.

    One that is rewritten stays the same object, with its owner, its rights and its comment.
    """
    stage = loading.large_objects.sql
    connection.execute(
        f"CREATE INDEX ON {stage} (loid, at); ANALYZE {stage};"
        f"DO $peersync$ DECLARE o record; BEGIN"
        f" FOR o IN SELECT s.loid, max(s.at + length(s.data)) AS size FROM {stage} AS s"
        f" GROUP BY s.loid LOOP"
        f" IF NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = o.loid)"
        f" THEN PERFORM pg_catalog.lo_create(o.loid);"
        f" ELSIF length(pg_catalog.lo_get(o.loid, o.size, 1)) = 0 AND NOT EXISTS ("
        f"   SELECT FROM {stage} AS s WHERE s.loid = o.loid"
        f"   AND pg_catalog.lo_get(o.loid, s.at, length(s.data)) <> s.data)"
        f" THEN CONTINUE;"
        f" ELSE PERFORM pg_catalog.lo_truncate64(fd, 0), pg_catalog.lo_close(fd)"
        f" FROM pg_catalog.lo_open(o.loid, 131072) AS fd;"
        f" END IF;"
        f" PERFORM pg_catalog.lo_put(s.loid, s.at, s.data) FROM {stage} AS s"
        f" WHERE s.loid = o.loid AND length(s.data) > 0;"
        f" END LOOP; END $peersync$".encode()
    )


def raise_sequences(
    connection: psycopg.Connection, loading: Loading
) -> dict[TableName | None, list[str]]:
    """Moves each sequence to the further of both values, in its own direction.

    One that this session created gets the very value of the source. setval is not undone by
    a rollback, so this comes last; it only ever moves on. Gives what could not be set, by the
    table that owns the sequence (None: no table).
    """
    failed: dict[TableName | None, list[str]] = {}
    rows = connection.execute(queries("catalog")["sequences"].encode()).fetchall()
    for schema, name, increment, owner_schema, owner_name in rows:
        value = loading.sequences.get(TableName(schema, name))
        if value is None:
            continue
        ident = value.sequence.sql
        further = ">" if increment > 0 else "<"
        called = "true" if value.is_called else "false"
        further_on = (
            f"{value.value} {further} q.last_value OR {value.value} = q.last_value AND {called}"
        )
        try:
            with connection.transaction():
                connection.execute(
                    f"SELECT pg_catalog.setval({quote_literal(ident)}, {value.value}, {called}) "
                    f"FROM {ident} AS q WHERE ({value.value}, {called}) IS DISTINCT FROM "
                    f"(q.last_value, q.is_called) AND "
                    f"({value.sequence in loading.new_sequences} OR {further_on})".encode()
                )
        except (psycopg.DataError, psycopg.ProgrammingError) as exc:
            owner = TableName(owner_schema, owner_name) if owner_name else None
            error = translate(exc, what=f"setting sequence {value.sequence}")
            failed.setdefault(owner, []).append(words(error))
    return failed


def _note_sequences(
    results: list[TableResult], failed: dict[TableName | None, list[str]]
) -> list[TableResult]:
    """A sequence that stays behind makes its table "partly": its next insert may collide."""
    noted = []
    for result in results:
        said = failed.pop(TableName(result.schema, result.name), None)
        if said and result.result == "done":
            result = replace(result, result="partly", error="\n".join(said))
        noted.append(result)
    for texts in failed.values():
        log.warning("%s", "; ".join(texts))
    return noted


def _store_baseline(
    connection: psycopg.Connection, final: Final, results: list[TableResult]
) -> None:
    cursor = psycopg.RawCursor(connection)
    sessions = queries("sessions")
    base = final.baseline
    vector = msgspec.json.encode(base.vector).decode()
    cursor.execute(
        sessions["store_baseline"],
        (final.session, base.node_id, base.snapshot, vector, base.taken_at),
    )
    tables = msgspec.json.encode(results).decode()
    row = cursor.execute(sessions["mark_committed"], (final.session, tables)).fetchone()
    if row is None:
        raise Locked(
            "this session's record is closed: it was cancelled or taken over",
            hint="Nothing was changed. See: peersync history",
        )
