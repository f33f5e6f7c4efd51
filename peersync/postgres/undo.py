"""Puts back what a full sync has changed, from its journal, in one transaction.

A row is put back only where it still is what the sync made of it: whatever was changed
since then is newer, is left alone, and is named. Foreign keys are proved before the commit,
for under the replica role PostgreSQL does not check them. A table that was altered since,
or whose rows can't be written, is left as it is, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import psycopg
from psycopg import errors as pg

from peersync.core.errors import NotFound, SchemaMismatch, VerifyFailed
from peersync.core.names import TableName, quote_ident
from peersync.core.undo import UndoneTable, UndoRecord, UndoTable
from peersync.postgres.catalog import Key, Table
from peersync.postgres.errors import translate
from peersync.postgres.journal import journal_name
from peersync.postgres.load import TableLoad
from peersync.postgres.merge import Merge
from peersync.postgres.sqlfiles import queries
from peersync.postgres.write import REFUSALS, differences, upsert, words

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
    done: list[UndoneTable] = []
    with connection.transaction(force_rollback=dry_run):
        connection.execute(
            f"SET LOCAL synchronous_commit = on; SET LOCAL enable_nestloop = off;"
            f" SET LOCAL lock_timeout = {lock_timeout_s * 1000}"
        )
        role = "SET LOCAL session_replication_role = replica"
        connection.execute(role if replica_role else "SET CONSTRAINTS ALL DEFERRED")
        undone = _Undo(connection, session, replica_role=replica_role)
        for entry in reversed(record.tables):  # children were written last
            done.append(undone.table(entry, tables))
        if replica_role:
            _prove_foreign_keys(connection, [t for t in tables.values() if _touched(t, done)])
        if not dry_run:
            _record(connection, session, msgspec.structs.replace(record, state="undone"))
    return _by_table(done)


def _by_table(parts: Sequence[UndoneTable]) -> list[UndoneTable]:
    """A table has one part of the journal for its upsert and one for its mirror."""
    found: dict[tuple[str, str], UndoneTable] = {}
    for part in parts:
        name = (part.schema, part.name)
        sofar = found.setdefault(name, UndoneTable(schema=part.schema, name=part.name))
        found[name] = msgspec.structs.replace(
            sofar,
            restored=sofar.restored + part.restored,
            reinserted=sofar.reinserted + part.reinserted,
            deleted=sofar.deleted + part.deleted,
            newer=sofar.newer + part.newer,
            newer_keys=(*sofar.newer_keys, *part.newer_keys)[:SHOWN_KEYS],
            error=sofar.error or part.error,
        )
    return list(found.values())


def _touched(table: Table, done: Sequence[UndoneTable]) -> bool:
    return any((t.schema, t.name) == tuple(table.name) and not t.error for t in done)


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

    def table(self, entry: UndoTable, tables: dict[TableName, Table]) -> UndoneTable:
        result = UndoneTable(schema=entry.schema, name=entry.name)
        try:
            table = _as_it_was(entry, tables)
            with self._connection.transaction():
                return self._put_back(entry, table, result)
        except (SchemaMismatch, NotFound) as exc:
            return msgspec.structs.replace(result, error=words(exc))
        except REFUSALS as exc:
            error = translate(exc, what=f"putting back {entry.schema}.{entry.name}")
            return msgspec.structs.replace(result, error=words(error))

    def _put_back(self, entry: UndoTable, table: Table, result: UndoneTable) -> UndoneTable:
        key = _key_of(entry, table)
        merge = Merge(table, _STAGE, entry.columns, key)
        self._execute(f"LOCK TABLE ONLY {table.name.sql} IN SHARE ROW EXCLUSIVE MODE")
        self._execute(merge.create_stage())
        try:
            self._find_rows(entry, merge)
            counts = self._counts()
            self._execute(
                f"DELETE FROM ONLY {table.name.sql} AS t USING {_ROWS} AS u "
                "WHERE t.ctid = u.place AND u.deed = 'delete'"
            )
            self._execute(
                f"INSERT INTO {_STAGE.sql} SELECT (u.before::{_STAGE.sql}).* FROM {_ROWS} AS u "
                "WHERE u.deed IN ('restore', 'reinsert')"
            )
            self._write(merge, table)
            newer = self._execute_rows(
                f"SELECT key FROM {_ROWS} WHERE deed = 'newer' ORDER BY key LIMIT {SHOWN_KEYS}"
            )
        finally:
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
                self._execute(f"DROP TABLE IF EXISTS {_ROWS}; DROP TABLE IF EXISTS {_STAGE.sql}")
        return msgspec.structs.replace(
            result,
            restored=counts.get("restore", 0),
            reinserted=counts.get("reinsert", 0),
            deleted=counts.get("delete", 0),
            newer=counts.get("newer", 0),
            newer_keys=tuple(row[0] for row in newer),
        )

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
                hint="Its old values are in the journal, as text: "
                f'SELECT key, before FROM peersync."undo_…" WHERE t = {entry.number}',
            )
    return table


def _key_of(entry: UndoTable, table: Table) -> Key | None:
    if not entry.key:
        return None
    for key in table.keys:
        if key.columns == entry.key:
            return key
    raise SchemaMismatch(f"the key ({', '.join(entry.key)}) is not there any more")


def _prove_foreign_keys(connection: psycopg.Connection, tables: Sequence[Table]) -> None:
    """Raises VerifyFailed when a row refers to one that the undo has taken away."""
    oids = [table.oid for table in tables]
    cursor = psycopg.RawCursor(connection)
    for child, parent, name, query in cursor.execute(
        queries("undo")["foreign_keys"], (oids,)
    ).fetchall():
        found = connection.execute(query.encode()).fetchone()
        if found is not None and found[0]:
            raise VerifyFailed(
                f"{found[0]} rows of {child} refer to rows of {parent} that the undo would take "
                f"away (foreign key {name}); nothing was changed",
                hint="They came after the sync. Change or delete them first, or keep what the "
                "sync brought.",
            )
