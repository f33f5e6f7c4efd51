"""The undo journal: what the final transaction of a full sync changes, row by row.

One table for each session, made and filled in that very transaction, so it is there exactly
when the changes are. A row of it says what a row was before (nothing, if it was inserted)
and what it was made into (nothing, if it was deleted): enough to put it back, and to see
whether somebody has changed it since. Images are records as text, which go back through the
types' own input functions.

What a savepoint takes back is taken back here, too: nothing about rows is kept in memory.
"""

from __future__ import annotations

import msgspec
import psycopg

from peersync.core.names import TableName, quote_literal
from peersync.core.undo import UndoRecord, UndoTable
from peersync.postgres.load import TableLoad
from peersync.postgres.sqlfiles import queries

_ROW_OVERHEAD_BYTES = 100


def journal_name(session: str) -> TableName:
    return TableName("peersync", f"undo_{session}")


class Journal:
    """The journal of one session: `begin`, a `take_*` before each change, `save` at the end."""

    def __init__(self, connection: psycopg.Connection, session: str, budget_bytes: int) -> None:
        """`budget_bytes`: a journal that would grow beyond this is given up."""
        self._connection = connection
        self._session = session
        self._budget_bytes = budget_bytes
        self._name = journal_name(session)
        self._tables: list[UndoTable] = []  # by number, also those that a savepoint took back
        self._too_large = budget_bytes <= 0

    def begin(self) -> None:
        """Goes on with what an earlier attempt has committed of this session."""
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {self._name.sql} "
            "(t integer NOT NULL, key text NOT NULL, before text, after text) "
            "WITH (autovacuum_enabled = off)"
        )
        cursor = psycopg.RawCursor(self._connection)
        row = cursor.execute(queries("undo")["get"], (self._session,)).fetchone()
        if row is not None and row[0] is not None:
            earlier = msgspec.json.decode(row[0], type=UndoRecord)
            self._too_large = self._too_large or earlier.state == "too_large"
            numbers = {table.number: table for table in earlier.tables}
            self._tables = [
                numbers.get(n) or UndoTable(number=n, schema="", name="", key=(), columns=())
                for n in range(max(numbers, default=-1) + 1)
            ]

    def take_changes(self, load: TableLoad) -> int | None:
        """What an upsert of the staged rows will insert and change, and how many rows that is.

        Their places are then in `merge.changed`. None when there is no journal any more.
        """
        merge = load.merge
        self._execute(
            f"DROP TABLE IF EXISTS {merge.changed.sql};"
            f"CREATE UNLOGGED TABLE {merge.changed.sql} (place tid)"
        )
        return self._insert(
            load,
            "c.key, c.before, pg_catalog.md5(c.after) FROM c",
            given=f"c AS MATERIALIZED ({merge.changes()} LIMIT {{most}})",
            then=f"INSERT INTO {merge.changed.sql} SELECT place FROM c",
        )

    def take_deletes(self, load: TableLoad, places: TableName) -> None:
        """The rows here whose ctid is in `places` (peersync_at), before they are deleted."""
        merge = load.merge
        key = merge.row("t", merge.key.columns if merge.key else None)
        self._insert(
            load,
            f"{key}::text, {merge.row('t')}::text, NULL FROM ONLY {merge.table.name.sql} AS t "
            f"JOIN {places.sql} AS g ON g.peersync_at = t.ctid LIMIT {{most}}",
        )

    def _insert(
        self, load: TableLoad, select: str, *, given: str = "", then: str = ""
    ) -> int | None:
        """Adds the rows of a query, and does something more with them in the same statement.

        `{most}` in the texts is one row more than there is room for.
        """
        if self._too_large:
            return None
        number, name = len(self._tables), load.table.name
        merge = load.merge
        self._tables.append(
            UndoTable(
                number=number,
                schema=name.schema,
                name=name.name,
                key=merge.key.columns if merge.key else (),
                columns=merge.written,
            )
        )
        most = self._rows_left(load)
        insert = f"INSERT INTO {self._name.sql} (t, key, before, after) SELECT {number}, {select}"
        statement = f"WITH {given}, j AS ({insert}) {then}" if given else insert
        rows = self._execute(statement.replace("{most}", str(most + 1)))
        if rows <= most:
            return rows
        self._too_large = True
        self._execute(f"TRUNCATE {self._name.sql}")
        return None

    def _rows_left(self, load: TableLoad) -> int:
        row_bytes = load.raw_bytes // max(load.rows, 1) + _ROW_OVERHEAD_BYTES
        return max(self._budget_bytes - self._size(), 0) // row_bytes

    def _size(self) -> int:
        name = quote_literal(self._name.sql)
        rows = self._rows(f"SELECT pg_catalog.pg_total_relation_size({name}::regclass)")
        return int(rows[0][0])

    def save(self) -> UndoRecord | None:
        """Writes what the session's record says of it. None when nothing was changed so far."""
        record = self._record()
        if record is not None:
            text = msgspec.json.encode(record).decode()
            sql = queries("undo")["record"]
            psycopg.RawCursor(self._connection).execute(sql, (self._session, text))
        return record

    def end(self) -> None:
        """The last `save`; a journal that is of no use goes."""
        record = self.save()
        if record is None or record.state == "too_large":
            self._execute(f"DROP TABLE {self._name.sql}")

    def _record(self) -> UndoRecord | None:
        if self._too_large:
            return UndoRecord(state="too_large")
        counts = dict(self._rows(f"SELECT t, count(*) FROM {self._name.sql} GROUP BY t"))
        tables = tuple(
            msgspec.structs.replace(table, rows=counts[table.number])
            for table in self._tables
            if table.number in counts
        )
        if not tables:
            return None
        rows = sum(table.rows for table in tables)
        return UndoRecord(state="kept", rows=rows, size_bytes=self._size(), tables=tables)

    def _execute(self, statement: str) -> int:
        return self._connection.execute(statement.encode()).rowcount

    def _rows(self, query: str) -> list[tuple[int, int]]:
        return self._connection.execute(query.encode()).fetchall()
