"""The one transaction that makes the target what the source was, proved before it commits.

Everything before it (staging, tables of our own making) can be thrown away; everything in
it becomes visible together or not at all. It checks the fence, so that a process which was
put to sleep and lost its lock can't write, and it records the session as committed, so that
a COMMIT whose answer was lost is answered by the database itself.

With `per_table` there is one transaction for each table (or for tables that can only be right
together) instead: what is committed stays, the record says which, and since rows are upserted
all of it can be done again. Only the last transaction makes the claim that the sync is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import psycopg

from peersync.core.errors import DatabaseError, Locked, VerifyFailed
from peersync.core.names import TableName
from peersync.core.results import TableResult
from peersync.dump.pieces import Statement
from peersync.postgres.blockers import lock_tables, rows_are_locked
from peersync.postgres.compared import refuse_changed
from peersync.postgres.definitions import run_rest
from peersync.postgres.errors import translate
from peersync.postgres.foreign_keys import ForeignKey, Unit, neighbours, read_foreign_keys, units
from peersync.postgres.journal import Journal
from peersync.postgres.load import Loading, TableLoad
from peersync.postgres.log.dirty import mark_all
from peersync.postgres.log.firstjoin import refuse_incomplete, send_only_here
from peersync.postgres.log.logcopy import LogStage
from peersync.postgres.log.members import encode_vector
from peersync.postgres.log.reissue import Reissue
from peersync.postgres.log.takeover import (
    forget_withheld,
    join_group,
    of_relations,
    refuse_one_way_source,
    refuse_strangers,
    reissued_keys,
    unsent_keys,
)
from peersync.postgres.meanwhile import LookBack
from peersync.postgres.mirror import check_mirrored, delete_only_here
from peersync.postgres.objects import note_sequences, raise_sequences, restore_large_objects
from peersync.postgres.schema import Definitions
from peersync.postgres.sqlfiles import queries
from peersync.postgres.tables import TableWork, TableWriter
from peersync.postgres.write import REFUSALS, words
from peersync.wire.messages import Baseline

log = logging.getLogger("peersync.target")

LEASE = "full_sync"


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
    mirror: bool = False  # rows that only this database has are deleted
    # Rows with unsent changes of ours, by their merge key's values as text: left alone.
    keep: Mapping[TableName, Sequence[tuple[str, ...]]] = field(default_factory=dict)
    source_wins: bool = False  # not even those
    log: LogStage | None = None  # the source's log, where this database joins its group
    send_only_here: bool = False  # rows that only this database has become changes of it
    per_table: bool = False  # a transaction for each table
    # Tables of which the source keeps rows to itself: never complete, and never mirrored.
    partial: Collection[TableName] = ()
    undo_bytes: int = 0  # how large a journal of the changes may grow; 0 keeps none
    look_back: LookBack | None = None  # connects once more: see `meanwhile`


def commit_session(
    connection: psycopg.Connection, loading: Loading, final: Final
) -> list[TableResult]:
    """Merges, verifies and commits. Any exception leaves the tables as they were.

    With `per_table` that holds for the table at hand. Raises VerifyFailed where a table does
    not hold what was sent, Locked where somebody else has taken over this database's lease or
    holds a table's lock.
    """
    restore = _Restore(connection, loading, final)
    return restore.table_by_table() if final.per_table else restore.at_once()


class _Restore:
    def __init__(self, connection: psycopg.Connection, loading: Loading, final: Final) -> None:
        self._connection = connection
        self._loading = loading
        self._final = final
        self._works: dict[int, TableWork] = {}
        group = final.baseline.group
        joins = final.log is not None and group is not None
        self._reissue = Reissue(connection, group, final.log) if joins else None  # type: ignore[arg-type]
        self._restored: set[int] = set()
        self._verified: set[int] = set()
        self._journal = Journal(connection, final.session, final.undo_bytes)
        for load in loading.tables.values():
            if final.undo_bytes and not load.created:
                load.journal = self._journal
        self._writer = TableWriter(
            connection,
            loading.stop,
            replica_role=final.replica_role,
            keep=final.keep,
            partial=frozenset(final.partial),
            make_room=self._delete_only_here if final.mirror else None,
        )

    def at_once(self) -> list[TableResult]:
        """Everything in one transaction."""
        loads = list(self._loading.tables.values())
        with self._connection.transaction():
            keys = self._foreign_keys()
        with self._transaction(loads, keys):
            if self._final.undo_bytes:
                self._journal.begin()
            ordered = self._units()
            for unit in ordered:
                works = self._write(unit)
                if not self._final.mirror:
                    self._verify(works)
            if self._final.mirror:
                for unit in reversed(ordered):
                    self._mirror(unit)
            return self._finish()

    def table_by_table(self) -> list[TableResult]:
        """Each unit in its own transaction; deletes of a mirror in a second one, children first."""
        with self._connection.transaction():
            if self._final.undo_bytes:
                self._journal.begin()
            ordered = self._units()
        for unit in ordered:
            self._alone(unit, lambda u: self._verify(self._write(u)))
        if self._final.mirror:
            for unit in reversed(ordered):
                self._alone(unit, self._mirror)
        with self._transaction([], []):
            return self._finish()

    # --- transactions ---------------------------------------------------------------------
    @contextmanager
    def _transaction(
        self, loads: Sequence[TableLoad], keys: Sequence[ForeignKey]
    ) -> Iterator[None]:
        final, connection = self._final, self._connection
        locked = [load for load in loads if not load.created]
        with connection.transaction():
            connection.execute(
                "SET LOCAL synchronous_commit = on; SET LOCAL enable_nestloop = off;"
                f" SET LOCAL lock_timeout = {final.lock_timeout_s * 1000}"
            )
            if final.replica_role:
                connection.execute("SET LOCAL session_replication_role = replica")
            else:
                connection.execute("SET CONSTRAINTS ALL DEFERRED")
            mark_all(connection)
            _check_fence(connection, final.fence)
            beside = neighbours(keys, locked, mirror=final.mirror)
            lock_tables(connection, locked, beside, final.lock_timeout_s)
            tables = [load.table for load in locked]
            with rows_are_locked(connection, tables, final.lock_timeout_s):
                refuse_changed(connection, locked, final.look_back)
                self._writer.keep = self._unsent(locked)
                yield

    def _unsent(self, loads: Sequence[TableLoad]) -> Mapping[TableName, Sequence[tuple[str, ...]]]:
        """What must stay as it is: asked when nobody can change it any more."""
        final, connection = self._final, self._connection
        if not refuse_strangers(connection, final.baseline, final.log):
            return final.keep
        if final.source_wins:
            forget_withheld(connection, loads, mirror=final.mirror)
            return final.keep
        if self._reissue is not None:
            keys = reissued_keys(connection, self._reissue, loads)
        else:
            refuse_one_way_source(final.baseline)
            keys = unsent_keys(connection, final.baseline.vector)
        return {**final.keep, **of_relations(connection, keys, loads)}

    def _alone(self, unit: Unit, step: Callable[[Unit], None]) -> None:
        """Commits one unit by itself; what refuses it is its own failure."""
        before = {load.table.oid: self._works.get(load.table.oid) for load in unit.loads}
        deleted = {oid: work.deleted for oid, work in before.items() if work is not None}
        try:
            with self._transaction(unit.loads, unit.keys):
                step(unit)
                self._record()
        except REFUSALS as exc:
            error = words(translate(exc, what=f"writing {unit.loads[0].table.name}"))
        except (VerifyFailed, Locked) as exc:
            if isinstance(exc, Locked) and "table" not in exc.data:
                raise  # the lease, not a table
            error = words(exc)
        else:
            return
        for load in unit.loads:
            oid = load.table.oid
            self._undo(load, before[oid], error, deleted.get(oid, 0))

    def _undo(self, load: TableLoad, earlier: TableWork | None, error: str, deleted: int) -> None:
        """The unit's transaction was rolled back: what an earlier one did to the table stays."""
        if earlier is None:
            earlier = self._writer.begin(load)
            earlier.fail(error)
            self._tell_restored(load)
            self._tell_verified(load)
        elif not earlier.failed:
            earlier.deleted, earlier.retained = deleted, 0
            earlier.error = f"rows that are only here could not be deleted: {error}"
        self._works[load.table.oid] = earlier
        if not earlier.complete:
            self._writer.complete.discard(load.table.oid)

    def _record(self) -> None:
        """What is committed so far. Tables that this session created go if it fails: not they."""
        done = [w.result() for w in self._works.values() if not w.load.created and not w.failed]
        row = (
            psycopg.RawCursor(self._connection)
            .execute(
                queries("restore")["record_tables"],
                (self._final.session, msgspec.json.encode(done).decode()),
            )
            .fetchone()
        )
        if row is None:
            raise _closed()
        if self._final.undo_bytes:
            self._journal.save()

    # --- steps ----------------------------------------------------------------------------
    def _units(self) -> list[Unit]:
        return units(list(self._loading.tables.values()), self._foreign_keys())

    def _foreign_keys(self) -> list[ForeignKey]:
        oids = [load.table.oid for load in self._loading.tables.values()]
        return read_foreign_keys(self._connection, oids)

    def _write(self, unit: Unit) -> list[TableWork]:
        self._loading.stop.check()
        works = self._writer.write(unit)
        for work in works:
            self._works[work.load.table.oid] = work
            self._tell_restored(work.load)
        return works

    def _tell_restored(self, load: TableLoad) -> None:
        if load.table.oid not in self._restored:
            self._restored.add(load.table.oid)
            self._final.restored(load)

    def _tell_verified(self, load: TableLoad) -> None:
        if load.table.oid not in self._verified:
            self._verified.add(load.table.oid)
            self._final.verified(load)

    def _verify(self, works: Sequence[TableWork]) -> None:
        for work in works:
            self._writer.verify(work, verify=self._final.verify)
            self._tell_verified(work.load)

    def _mirror(self, unit: Unit) -> None:
        self._loading.stop.check()
        works = [self._works[load.table.oid] for load in unit.loads]
        self._delete_only_here(unit, works)
        self._verify(works)
        for work in works:
            check_mirrored(work)

    def _delete_only_here(self, unit: Unit, works: Sequence[TableWork]) -> None:
        delete_only_here(self._connection, unit, works, replica_role=self._final.replica_role)

    def _finish(self) -> list[TableResult]:
        """What comes after the rows, and the claim that the session is done."""
        final, connection = self._final, self._connection
        results = [work.result() for work in self._works.values()]
        _refuse_nothing_written(results)
        results = run_rest(
            connection,
            final.definitions,
            final.rest,
            {w.load.table.oid: w.load for w in self._works.values() if w.load.created},
            results,
        )
        if self._loading.has_large_objects:
            restore_large_objects(connection, self._loading)
        results = note_sequences(results, raise_sequences(connection, self._loading))
        if self._final.undo_bytes:
            self._journal.end()
        failed = any(result.result == "failed" for result in results)
        results += final.left_out
        if not (final.per_table and failed):
            _store_baseline(connection, final)
        if self._reissue is not None:
            self._join(self._reissue)
        _mark_committed(connection, final, results)
        return results

    def _join(self, reissue: Reissue) -> None:
        final, works = self._final, list(self._works.values())
        assert final.log is not None
        assert final.baseline.group is not None
        refuse_incomplete(works, mirrored=final.mirror, sent=final.send_only_here)
        reissue.finish(mirrored=final.mirror)
        join_group(self._connection, final.baseline.group, final.log)
        if final.send_only_here:
            send_only_here(self._connection, works)


def _refuse_nothing_written(results: Sequence[TableResult]) -> None:
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


def _check_fence(connection: psycopg.Connection, fence: int) -> None:
    row = (
        psycopg.RawCursor(connection).execute(queries("leases")["check_fence"], (LEASE,)).fetchone()
    )
    if row is None or row[0] != fence:
        raise Locked(
            "another full sync has taken over this database while this one was asleep",
            hint="Nothing was changed by this one. See: peersync jobs list",
        )


def _store_baseline(connection: psycopg.Connection, final: Final) -> None:
    base = final.baseline
    vector = encode_vector(base.vector)
    psycopg.RawCursor(connection).execute(
        queries("sessions")["store_baseline"],
        (final.session, base.node_id, base.snapshot, vector, base.taken_at),
    )


def _mark_committed(
    connection: psycopg.Connection, final: Final, results: list[TableResult]
) -> None:
    tables = msgspec.json.encode(results).decode()
    row = (
        psycopg.RawCursor(connection)
        .execute(queries("sessions")["mark_committed"], (final.session, tables))
        .fetchone()
    )
    if row is None:
        raise _closed()


def _closed() -> Locked:
    return Locked(
        "this session's record is closed: it was cancelled or taken over",
        hint="Nothing was changed. See: peersync history",
    )
