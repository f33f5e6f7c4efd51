"""The one transaction that makes the target what the source was, proved before it commits.

Everything before it (staging, tables of our own making) can be thrown away; everything in
it becomes visible together or not at all. It checks the fence, so that a process which was
put to sleep and lost its lock can't write, and it records the session as committed, so that
a COMMIT whose answer was lost is answered by the database itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import psycopg
from msgspec.structs import replace

from peersync.core.errors import Locked, PeersyncError, VerifyFailed
from peersync.core.names import TableName, quote_literal
from peersync.postgres.catalog import Table, parents_first
from peersync.postgres.errors import translate
from peersync.postgres.load import Loading, TableLoad
from peersync.postgres.merge import Merge
from peersync.postgres.schema import restore_rest
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import Baseline

LEASE = "full_sync"
_LOCKED_AT_ONCE = 200


class TableResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a full sync did to one table. Counts are rows; None where nothing counted them."""

    schema: str
    name: str
    result: str  # done | partly | failed
    source: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    target_only: int | None = None
    raw_bytes: int = 0
    created: bool = False
    note: str | None = None
    error: str | None = None


@dataclass
class Final:
    """What the final transaction needs, and how it tells how far it is."""

    session: str
    fence: int
    baseline: Baseline
    indexes: Sequence[str]  # of tables without rows of their own: partitioned ones
    rest: Sequence[str]
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
        restore_rest(connection, [*final.indexes, *final.rest])
        if loading.has_large_objects:
            restore_large_objects(connection, loading)
        raise_sequences(connection, loading)
        _store_baseline(connection, final, results)
    return results


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
        result = replace(result, result="failed", error=_words(load.error))
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
    merge = load.merge
    try:
        outcome = _upsert(connection, merge, load)
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as exc:
        final.restored(load)
        final.verified(load)
        error = translate(exc, what=f"writing {load.table.name}")
        return replace(result, result="failed", error=_words(error))
    final.restored(load)
    target_only = _verify_table(connection, merge, load, outcome) if final.verify else None
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


@dataclass
class _Outcome:
    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    note: str | None = None
    error: str | None = None


def _upsert(connection: psycopg.Connection, merge: Merge, load: TableLoad) -> _Outcome:
    """The usual statement; where unique values swap, delete and insert; else insert what fits."""
    try:
        return _counted(connection, load, merge.merge())
    except psycopg.errors.UniqueViolation as exc:
        refusal = exc
    if merge.key is not None:
        try:
            outcome = _counted(connection, load, merge.replace())
        except psycopg.errors.UniqueViolation as exc:
            refusal = exc
        else:
            outcome.note = "unique values moved between rows: rows were replaced"
            return outcome
        outcome = _counted(connection, load, [merge.insert_missing(skip_conflicts=True)])
        missing, differing, _ = _differences(connection, merge)
        outcome.skipped = missing + differing
        outcome.error = _words(translate(refusal, what=f"writing {load.table.name}"))
        outcome.note = "rows that collide with rows here on another unique key were left out"
        return outcome
    raise refusal


def _counted(
    connection: psycopg.Connection, load: TableLoad, statements: Sequence[str]
) -> _Outcome:
    """Runs the statements in a savepoint, and counts by the server's own statistics.

    A row that was deleted and inserted anew counts as updated.
    """
    with connection.transaction():
        before = _tuple_counts(connection, load.table.oid)
        for statement in statements:
            connection.execute(statement.encode())
        after = _tuple_counts(connection, load.table.oid)
    inserted, updated, deleted = (b - a for a, b in zip(before, after, strict=True))
    return _Outcome(inserted=inserted - deleted, updated=updated + deleted)


def _tuple_counts(connection: psycopg.Connection, oid: int) -> tuple[int, int, int]:
    row = connection.execute(
        "SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_updated(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_deleted(%(oid)s::bigint::oid)",
        {"oid": oid},
    ).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def _differences(connection: psycopg.Connection, merge: Merge) -> tuple[int, int, int]:
    row = connection.execute(merge.verify().encode()).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def _verify_table(
    connection: psycopg.Connection, merge: Merge, load: TableLoad, outcome: _Outcome
) -> int:
    """How many rows are only here. Raises VerifyFailed unless every source row is here, equal.

    A MERGE that wrote nothing has compared every row already: only the count is missing.
    """
    wrote = outcome.inserted or outcome.updated or outcome.skipped
    if not wrote and merge.key is not None:
        row = connection.execute(merge.count_target().encode()).fetchone()
        assert row is not None
        return int(row[0]) - load.rows
    missing, differing, target_only = _differences(connection, merge)
    if missing + differing > outcome.skipped:
        raise VerifyFailed(
            f"{load.table.name}: after the restore {missing} rows are missing and {differing} "
            "differ from what the source sent; everything was rolled back",
            hint="A trigger, a rule or a generated column here may change rows as they are "
            "written. Run peersync check, and report this if it finds nothing.",
        )
    return target_only


def _verify_count(connection: psycopg.Connection, load: TableLoad) -> None:
    row = connection.execute(load.merge.count_target().encode()).fetchone()
    assert row is not None
    if row[0] != load.rows:
        raise VerifyFailed(
            f"{load.table.name}: {load.rows} rows were loaded and {row[0]} are there; "
            "everything was rolled back"
        )


def restore_large_objects(connection: psycopg.Connection, loading: Loading) -> None:
    """Creates the large objects that are missing and rewrites those that differ."""
    stage = loading.large_objects.sql
    connection.execute(
        f"DO $peersync$ DECLARE o record; BEGIN"
        f" FOR o IN SELECT s.loid, max(s.at + length(s.data)) AS size FROM {stage} AS s"
        f" GROUP BY s.loid LOOP"
        f" IF NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = o.loid)"
        f" THEN PERFORM pg_catalog.lo_create(o.loid);"
        f" ELSIF length(pg_catalog.lo_get(o.loid, o.size, 1)) = 0 AND NOT EXISTS ("
        f"   SELECT FROM {stage} AS s WHERE s.loid = o.loid"
        f"   AND pg_catalog.lo_get(o.loid, s.at, length(s.data)) <> s.data)"
        f" THEN CONTINUE;"
        f" ELSE PERFORM pg_catalog.lo_unlink(o.loid); PERFORM pg_catalog.lo_create(o.loid);"
        f" END IF;"
        f" PERFORM pg_catalog.lo_put(s.loid, s.at, s.data) FROM {stage} AS s"
        f" WHERE s.loid = o.loid AND length(s.data) > 0;"
        f" END LOOP; END $peersync$".encode()
    )


def raise_sequences(connection: psycopg.Connection, loading: Loading) -> None:
    """Moves each sequence to the further of both values, in its own direction.

    setval is not undone by a rollback, so this comes last; it only ever moves on.
    """
    rows = connection.execute(queries("catalog")["sequences"].encode()).fetchall()
    for schema, name, increment in rows:
        value = loading.sequences.get(TableName(schema, name))
        if value is None:
            continue
        ident = value.sequence.sql
        further = ">" if increment > 0 else "<"
        called = "true" if value.is_called else "false"
        connection.execute(
            f"SELECT pg_catalog.setval({quote_literal(ident)}, {value.value}, {called}) "
            f"FROM {ident} AS q WHERE ({value.value}, {called}) IS DISTINCT FROM "
            f"(q.last_value, q.is_called) AND ({value.value} {further} q.last_value "
            f"OR {value.value} = q.last_value AND {called})".encode()
        )


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


def _words(error: PeersyncError) -> str:
    return f"{error.message}: {error.detail}" if error.detail else error.message
