"""The undo journal: what the final transaction of a full sync changes, row by row.

One table for each session, made and filled in that very transaction, so it is there exactly
when the changes are. A row of it says what a row was before (nothing, if it was inserted)
and what it was made into (nothing, if it was deleted): enough to put it back, and to see
whether somebody has changed it since. Images are records as text, which go back through the
types' own input functions.
"""

from __future__ import annotations

import msgspec
import psycopg

from peersync.core.names import TableName
from peersync.core.undo import UndoRecord, UndoTable
from peersync.postgres.merge import Merge
from peersync.postgres.sqlfiles import queries


def journal_name(session: str) -> TableName:
    return TableName("peersync", f"undo_{session}")


class Journal:
    """The journal of one session. `begin` first, one `take_*` call a table, then `end`."""

    def __init__(self, connection: psycopg.Connection, session: str, budget_bytes: int) -> None:
        """`budget_bytes`: a journal that grows beyond this is given up."""
        self._connection = connection
        self._session = session
        self._budget_bytes = budget_bytes
        self._name = journal_name(session)
        self._tables: list[UndoTable] = []
        self._too_large = False

    @property
    def open(self) -> bool:
        """Whether there is any sense in giving it more."""
        return not self._too_large

    def begin(self) -> None:
        self._execute(
            f"CREATE TABLE IF NOT EXISTS {self._name.sql} "
            "(t integer NOT NULL, key text NOT NULL, before text, after text) "
            "WITH (autovacuum_enabled = off)"
        )

    def take_changes(self, merge: Merge, changes: TableName) -> None:
        """The rows of `changes`: the merge's columns as they will be, and `peersync_before`."""
        self._insert(
            merge,
            f"SELECT {{number}}, {_key(merge, 's')}, s.peersync_before, "
            f"md5({_image(merge, 's')}) FROM {changes.sql} AS s",
        )

    def take_inserts(self, merge: Merge) -> None:
        """All staged rows: the table had none before."""
        self._insert(
            merge,
            f"SELECT {{number}}, {_key(merge, 's')}, NULL, md5({_image(merge, 's')}) "
            f"FROM {merge.stage.sql} AS s",
        )

    def take_deletes(self, merge: Merge, where: str) -> None:
        """The rows here (`t`) that will be deleted; call it before they are."""
        self._insert(
            merge,
            f"SELECT {{number}}, {_key(merge, 't')}, {_image(merge, 't')}, NULL "
            f"FROM ONLY {merge.table.name.sql} AS t WHERE {where}",
        )

    def _insert(self, merge: Merge, select: str) -> None:
        if self._too_large:
            return
        number = len(self._tables)
        rows = self._execute(
            f"INSERT INTO {self._name.sql} (t, key, before, after) "
            + select.replace("{number}", str(number))
        )
        if not rows:
            return
        name = merge.table.name
        self._tables.append(
            UndoTable(
                number=number,
                schema=name.schema,
                name=name.name,
                key=merge.key.columns if merge.key else (),
                columns=merge.written,
                rows=rows,
            )
        )
        if self._size() > self._budget_bytes:
            self._too_large = True
            self._execute(f"TRUNCATE {self._name.sql}")

    def _size(self) -> int:
        row = self._connection.execute(
            f"SELECT pg_catalog.pg_total_relation_size({self._oid()})".encode()
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _oid(self) -> str:
        return "'" + self._name.sql.replace("'", "''") + "'::regclass"

    def end(self) -> UndoRecord | None:
        """Writes what the session's record says of it. None when nothing was changed."""
        rows = sum(table.rows for table in self._tables)
        if self._too_large:
            record = UndoRecord(state="too_large")
        elif rows:
            record = UndoRecord(
                state="kept", rows=rows, size_bytes=self._size(), tables=tuple(self._tables)
            )
        else:
            record = None
        if record is None or self._too_large:
            self._execute(f"DROP TABLE {self._name.sql}")
        if record is not None:
            text = msgspec.json.encode(record).decode()
            sql = queries("undo")["record"]
            psycopg.RawCursor(self._connection).execute(sql, (self._session, text))
        return record

    def _execute(self, statement: str) -> int:
        return self._connection.execute(statement.encode()).rowcount


def _image(merge: Merge, alias: str) -> str:
    return f"{merge.row(alias)}::text"


def _key(merge: Merge, alias: str) -> str:
    return f"{merge.row(alias, merge.key.columns if merge.key else None)}::text"
