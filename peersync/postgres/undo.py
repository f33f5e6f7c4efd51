"""Puts back what a full sync has changed, from its journal, in one transaction.

A row is put back only where it still is what the sync made of it: whatever was changed
since then is newer, is left alone, and is named. Foreign keys are proved before the commit,
for under the replica role PostgreSQL does not check them. A table that was altered since,
or whose rows can't be written, is left as it is, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import psycopg
from psycopg import errors as pg

from peersync.core.errors import NotFound, SchemaMismatch, VerifyFailed
from peersync.core.names import TableName, quote_ident
from peersync.core.undo import UndoneTable, UndoRecord, UndoState, UndoTable
from peersync.postgres.cascades import read_cascades, refuse_cascade
from peersync.postgres.catalog import Key, Table
from peersync.postgres.errors import translate
from peersync.postgres.journal import journal_name
from peersync.postgres.load import TableLoad
from peersync.postgres.log.dirty import mark_all
from peersync.postgres.merge import Merge
from peersync.postgres.sqlfiles import queries
from peersync.postgres.write import REFUSALS, column, differences, upsert, words

SHOWN_KEYS = 20
_STAGE = TableName("peersync", "undo_stage")
_ROWS = "pg_temp.peersync_undo"


def undo_session(
    connection: psycopg.Connection,
    session: str,
    record: UndoRecord,
    tables: dict[TableName, Table],
    *,
    replica_role: bool,
    dry_run: bool,
    lock_timeout_s: int,
) -> list[UndoneTable]:
    """Raises what ends all of it; then, and in a dry run, nothing is changed."""
    groups: dict[TableName, list[UndoTable]] = {}
    for entry in reversed(record.tables):  # children were written last
        groups.setdefault(TableName(entry.schema, entry.name), []).append(entry)
    with connection.transaction(force_rollback=dry_run):
        connection.execute(
            f"SET LOCAL synchronous_commit = on; SET LOCAL enable_nestloop = off;"
            f" SET LOCAL lock_timeout = {lock_timeout_s * 1000}"
        )
        role = "SET LOCAL session_replication_role = replica"
        connection.execute(role if replica_role else "SET CONSTRAINTS ALL DEFERRED")
        mark_all(connection)
        broken = _broken_keys(connection, [tables[name].oid for name in groups if name in tables])
        undone = _Undo(connection, session, replica_role=replica_role)
        done = _all(undone, groups, tables)
        _refuse_newly_broken(connection, broken)
        if not dry_run:
            _record(connection, session, _what_is_left(record, done))
    return done


def _all(
    undone: _Undo, groups: dict[TableName, list[UndoTable]], tables: dict[TableName, Table]
) -> list[UndoneTable]:
    """What is refused because of another table is tried again when that one has been put back."""
    done: dict[TableName, UndoneTable] = {}
    waiting = dict(groups)
    while waiting:
        for name, parts in waiting.items():
            done[name] = undone.table(name, parts, tables)
        again = {name: parts for name, parts in waiting.items() if done[name].error}
        if len(again) == len(waiting):
            break
        waiting = again
    return list(done.values())


def _what_is_left(record: UndoRecord, done: Sequence[UndoneTable]) -> UndoRecord:
    """Tables that could not be put back can be tried again."""
    failed = {(t.schema, t.name) for t in done if t.error}
    left = tuple(t for t in record.tables if (t.schema, t.name) in failed)
    state: UndoState = "kept" if left else "undone"
    return msgspec.structs.replace(record, state=state, tables=left)


def _record(connection: psycopg.Connection, session: str, record: UndoRecord) -> None:
    cursor = psycopg.RawCursor(connection)
    sql = queries("undo")
    cursor.execute(sql["record"], (session, msgspec.json.encode(record).decode()))
    cursor.execute(sql["forget_baseline"], (session,))


def drop_journal(connection: psycopg.Connection, session: str, record: UndoRecord) -> None:
    """Its time is over."""
    with connection.transaction():
        connection.execute(f"DROP TABLE IF EXISTS {journal_name(session).sql}".encode())
        expired = msgspec.structs.replace(record, state="expired", tables=())
        cursor = psycopg.RawCursor(connection)
        text = msgspec.json.encode(expired).decode()
        cursor.execute(queries("undo")["record"], (session, text))


class _Undo:
    def __init__(self, connection: psycopg.Connection, session: str, *, replica_role: bool) -> None:
        self._connection = connection
        self._journal = journal_name(session)
        self._replica_role = replica_role

    def table(
        self, name: TableName, parts: Sequence[UndoTable], tables: dict[TableName, Table]
    ) -> UndoneTable:
        """All parts of the journal of one table, or none of them."""
        result = UndoneTable(schema=name.schema, name=name.name)
        try:
            with self._connection.transaction():
                for entry in parts:
                    result = self._put_back(entry, _as_it_was(entry, tables), result)
        except (SchemaMismatch, NotFound) as exc:
            error = words(exc)
        except REFUSALS as exc:
            error = words(translate(exc, what=f"putting back {name}"))
        else:
            return result
        return UndoneTable(schema=name.schema, name=name.name, error=error)

    def _put_back(self, entry: UndoTable, table: Table, result: UndoneTable) -> UndoneTable:
        key = _key_of(entry, table)
        merge = Merge(table, _STAGE, entry.columns, key)
        self._execute(f"LOCK TABLE ONLY {table.name.sql} IN SHARE ROW EXCLUSIVE MODE")
        self._execute(f"DROP TABLE IF EXISTS {_ROWS}; DROP TABLE IF EXISTS {_STAGE.sql}")
        self._execute(merge.create_stage())
        self._find_rows(entry, merge)
        counts = self._counts()
        if not self._replica_role:
            self._refuse_cascades(merge)
        self._execute(
            f"INSERT INTO {_STAGE.sql} SELECT (u.before::{_STAGE.sql}).* FROM {_ROWS} AS u "
            "WHERE u.deed IN ('restore', 'reinsert')"
        )
        try:
            with self._connection.transaction():
                self._delete(table)
                self._write(merge, table)
        except pg.ForeignKeyViolation:  # of the table to itself: what refers goes first
            self._write(merge, table)
            self._delete(table)
        newer = self._execute_rows(
            f"SELECT key FROM {_ROWS} WHERE deed = 'newer' ORDER BY key LIMIT {SHOWN_KEYS}"
        )
        self._execute(f"DROP TABLE {_ROWS}; DROP TABLE {_STAGE.sql}")
        return msgspec.structs.replace(
            result,
            restored=result.restored + counts.get("restore", 0),
            reinserted=result.reinserted + counts.get("reinsert", 0),
            deleted=result.deleted + counts.get("delete", 0),
            newer=result.newer + counts.get("newer", 0),
            newer_keys=(*result.newer_keys, *(row[0] for row in newer))[:SHOWN_KEYS],
        )

    def _delete(self, table: Table) -> None:
        self._execute(
            f"DELETE FROM ONLY {table.name.sql} AS t USING {_ROWS} AS u "
            "WHERE t.ctid = u.place AND u.deed = 'delete'"
        )

    def _refuse_cascades(self, merge: Merge) -> None:
        name, key = merge.table.name, set(merge.key.columns if merge.key else ())
        rows = f"JOIN {_ROWS} AS u ON u.place = t.ctid AND u.deed = "
        for cascade in read_cascades(self._connection, merge.table.oid):
            if cascade.on_delete:
                refuse_cascade(self._connection, name, cascade, f"{rows}'delete'", "taken away")
            if cascade.on_update and not set(cascade.columns) <= key:
                refuse_cascade(self._connection, name, cascade, f"{rows}'restore'", "changed")

    def _find_rows(self, entry: UndoTable, merge: Merge) -> None:
        """What is to be done with each row of the journal: its deed, and its place here."""
        image = f"{merge.row('t')}::text"
        columns = merge.key.columns if merge.key else None
        key = f"{merge.row('t', columns)}::text"
        # Copies of one row are told apart by their number; a key has one copy of each. Which
        # of several equal rows was deleted nobody can say: it is inserted again.
        again = "" if merge.key else "WHEN j.after IS NULL THEN 'reinsert' "
        self._execute(
            f"CREATE TEMP TABLE {_ROWS.partition('.')[2]} ON COMMIT DROP AS "
            f"SELECT j.key, j.before, t.place, CASE {again}"
            "WHEN t.now IS NOT DISTINCT FROM j.before THEN 'same' "
            "WHEN md5(t.now) IS DISTINCT FROM j.after THEN 'newer' "
            "WHEN j.before IS NULL THEN 'delete' "
            "WHEN j.after IS NULL THEN 'reinsert' ELSE 'restore' END AS deed "
            "FROM (SELECT key, before, after, "
            f"row_number() OVER (PARTITION BY key ORDER BY after) AS copy FROM {self._journal.sql} "
            f"WHERE t = {entry.number}) AS j LEFT JOIN (SELECT t.ctid AS place, {key} AS key, "
            f"{image} AS now, row_number() OVER (PARTITION BY {key}) AS copy "
            f"FROM ONLY {merge.table.name.sql} AS t) AS t ON t.key = j.key AND t.copy = j.copy"
        )
        self._execute(f"ANALYZE {_ROWS}")

    def _counts(self) -> dict[str, int]:
        rows = self._execute_rows(f"SELECT deed, count(*) FROM {_ROWS} GROUP BY deed")
        return {deed: int(count) for deed, count in rows}

    def _write(self, merge: Merge, table: Table) -> None:
        """Through the same ways as a sync's own rows, so that unique values may have moved."""
        load = TableLoad(table, created=False, stage=_STAGE, columns=merge.columns, loaded=True)
        if merge.key is None:
            columns = ", ".join(quote_ident(c) for c in merge.written)
            self._execute(
                f"INSERT INTO {table.name.sql} ({columns}) OVERRIDING SYSTEM VALUE "
                f"SELECT {columns} FROM {_STAGE.sql}"
            )
            return
        outcome = upsert(self._connection, load, replica_role=self._replica_role)
        missing, differing, _ = differences(self._connection, merge)
        if outcome.skipped or missing or differing:
            raise pg.UniqueViolation(
                f"{outcome.skipped + missing + differing} rows can't be put back beside the rows "
                "that are here now: " + (outcome.note or "they were changed as they were written")
            )

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def _execute_rows(self, statement: str) -> list[tuple[str, int]]:
        return self._connection.execute(statement.encode()).fetchall()


def _as_it_was(entry: UndoTable, tables: dict[TableName, Table]) -> Table:
    table = tables.get(TableName(entry.schema, entry.name))
    if table is None:
        raise NotFound("the table is not here any more")
    for name in entry.columns:
        column = table.column(name)
        if column is None or column.generated:
            raise SchemaMismatch(
                f"column {name} was dropped or is generated now",
                hint="Bring it back (ALTER TABLE … ADD COLUMN), and undo again.",
            )
    return table


def _key_of(entry: UndoTable, table: Table) -> Key | None:
    if not entry.key:
        return None
    for key in table.keys:
        if key.columns == entry.key:
            return key
    raise SchemaMismatch(f"the key ({', '.join(entry.key)}) is not there any more")


class _Key(NamedTuple):
    """A foreign key, how to count the rows that break it, and how many did before."""

    child: str
    parent: str
    name: str
    query: str
    before: int


def _broken_keys(connection: psycopg.Connection, oids: Sequence[int]) -> list[_Key]:
    """The foreign keys from and to these tables."""
    cursor = psycopg.RawCursor(connection)
    found = cursor.execute(queries("undo")["foreign_keys"], (list(oids),)).fetchall()
    return [
        _Key(child, parent, name, query, int(column(connection, query)[0]))
        for child, parent, name, query in found
    ]


def _refuse_newly_broken(connection: psycopg.Connection, keys: Sequence[_Key]) -> None:
    """Raises VerifyFailed when a row refers to one that the undo has taken away."""
    for key in keys:
        number = int(column(connection, key.query)[0]) - key.before
        if number > 0:
            raise VerifyFailed(
                f"{number} rows of {key.child} refer to rows of {key.parent} that the undo would "
                f"take away (foreign key {key.name}); nothing was changed",
                hint="They came after the sync. Change or delete them first, or keep what the "
                "sync brought.",
            )
