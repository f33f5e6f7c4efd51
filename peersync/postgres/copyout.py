r"""Rows over an ordinary connection, in the form of pg_dump's data: for where it can't be used.

A `CopyOut` reads one exported view and prints what `dump.scan` knows from pg_dump: blocks of
COPY, sequence values, large objects. It has the same two methods as `postgres.backup.Dump`.
It dumps what pg_dump can't: some rows or columns of a table; and it needs no program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg

from peersync.core.errors import DatabaseUnreachable
from peersync.core.names import TableName, quote_ident, quote_literal
from peersync.postgres.backup import View
from peersync.postgres.bulk import Stop, connect
from peersync.postgres.conninfo import Resolved
from peersync.postgres.errors import translated
from peersync.postgres.sqlfiles import queries

PIECE_BYTES: Final = 256 * 1024
_OBJECT_BYTES: Final = 64 * 1024  # of a large object at a time: twice as much in the text
_OBJECTS_AT_ONCE: Final = 16
_SEQUENCES_AT_ONCE: Final = 200
_SETTINGS: Final = {
    "lock_timeout": "30s",
    "quote_all_identifiers": "off",  # it shows in values of regclass and its like
    "synchronize_seqscans": "off",  # the same rows in the same order give the same chunks
}
_VIEW_GONE: Final = ("22023", "42704", "55000")  # by version: of a snapshot that nobody holds

_HEADER: Final = b"""--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SET lock_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET row_security = off;

"""
_TRAILER: Final = b"""--
-- PostgreSQL database dump complete
--

"""


@dataclass(frozen=True)
class TableCopy:
    """One table: the columns that go, in their order, and the rows, where not all do."""

    name: TableName
    columns: tuple[str, ...]
    where: str | None = None

    @property
    def begin(self) -> str:
        """The line in front of the rows, as pg_dump writes it."""
        columns = f"({self._list}) " if self.columns else " "
        return f"COPY {self.name.sql} {columns}FROM stdin;\n"

    @property
    def statement(self) -> str:
        """What gives the rows."""
        if self.where is not None:
            return f"COPY ({self.select}) TO STDOUT"
        return f"COPY {self.name.sql} {f'({self._list}) ' if self.columns else ''}TO STDOUT"

    @property
    def statements(self) -> Iterator[str]:
        """What gives the rows, one after the other."""
        yield self.statement

    @property
    def select(self) -> str:
        """The rows as a query. The filter is one expression: `config.filters` has seen to it."""
        rows = f"SELECT {self._list} FROM ONLY {self.name.sql}"  # noqa: S608 - names are quoted
        return f"{rows} WHERE (\n{self.where}\n)" if self.where is not None else rows

    @property
    def what(self) -> str:
        """For the beginning of a message."""
        if self.where is not None:
            return f"reading {self.name} with its filter, WHERE {self.where}"
        return f"reading {self.name}"

    @property
    def _list(self) -> str:
        return ", ".join(quote_ident(name) for name in self.columns)


class CopyOut:
    """One part of a backup, read by the thread that calls `run`, stopped from any other."""

    def __init__(
        self,
        resolved: Resolved,
        view: View,
        tables: Sequence[TableCopy],
        *,
        kind: str = "backup",
        sequences: bool = False,
        large_objects: bool = False,
        left_alone: Sequence[TableName] = (),
    ) -> None:
        """`kind` is seen in pg_stat_activity as peersync/<kind>.

        left_alone: sequences that are not read.
        """
        self._resolved = resolved
        self._view = view
        self._tables = tables
        self._kind = kind
        self._sequences = sequences
        self._large_objects = large_objects
        self._left_alone = frozenset(left_alone)
        self._stop = Stop()

    def run(self, take: Callable[[bytes], None]) -> None:
        """Gives the whole part to `take`, in pieces of up to 256 KiB.

        Holds one row at a time, a very large one at most twice. Raises what `postgres.errors`
        makes of the database's words; DatabaseUnreachable when the view is gone.
        """
        if self._stop.is_set():
            return
        out = _Pieces(take)
        with connect(
            self._resolved, self._kind, self._stop, what="backing up", settings=_SETTINGS
        ) as connection:
            _enter(connection, self._view)
            out.add(_HEADER)
            for table in self._tables:
                self._copy(connection, table, out)
            if self._large_objects:
                self._copy_objects(connection, out)
            if self._sequences:
                self._copy_sequences(connection, out)
            out.add(_TRAILER)
            out.flush()

    def stop(self) -> None:
        """Cancels the statement; `run` then raises Cancelled soon. Harmless at any time."""
        self._stop.set()

    def _copy(self, connection: psycopg.Connection, table: TableCopy, out: _Pieces) -> None:
        out.add(table.begin.encode())
        for statement in table.statements:
            self._stop.check()
            with (
                _reading(table.what),
                connection.cursor() as cursor,
                cursor.copy(statement.encode()) as rows,
            ):
                while out.add(rows.read()):  # a loop variable would hold the row before
                    pass
        out.add(b"\\.\n\n")

    def _copy_sequences(self, connection: psycopg.Connection, out: _Pieces) -> None:
        with translated("reading the sequences"):
            rows = connection.execute(queries("copyout")["sequences"].encode()).fetchall()
            names = [n for n in map(TableName._make, rows) if n not in self._left_alone]
            for start in range(0, len(names), _SEQUENCES_AT_ONCE):
                self._stop.check()
                some = names[start : start + _SEQUENCES_AT_ONCE]
                for name, (value, called) in zip(some, _values(connection, some), strict=True):
                    literal = quote_literal(name.sql)
                    state = "true" if called else "false"
                    out.add(f"SELECT pg_catalog.setval({literal}, {value}, {state});\n".encode())
        out.add(b"\n")

    def _copy_objects(self, connection: psycopg.Connection, out: _Pieces) -> None:
        """Many objects are small: the beginnings of several are asked for at once."""
        sql = queries("copyout")
        cursor = psycopg.RawCursor(connection)
        with translated("reading the large objects"):
            oids = [oid for (oid,) in cursor.execute(sql["large_objects"]).fetchall()]
            for start in range(0, len(oids), _OBJECTS_AT_ONCE):
                self._stop.check()
                some = oids[start : start + _OBJECTS_AT_ONCE]
                found = cursor.execute(sql["beginnings"], (some, _OBJECT_BYTES)).fetchall()
                for oid, digits in found:
                    out.add(_begin_object(oid))
                    for part in self._object(cursor, oid, digits):
                        out.add(f"SELECT pg_catalog.lowrite(0, '\\x{part}');\n".encode())
                    out.add(b"SELECT pg_catalog.lo_close(0);\nCOMMIT;\n\n")

    def _object(
        self, cursor: psycopg.RawCursor[tuple[str]], oid: int, digits: str
    ) -> Iterator[str]:
        at = 0
        while digits:
            yield digits
            if len(digits) < 2 * _OBJECT_BYTES:
                return
            self._stop.check()
            at += _OBJECT_BYTES
            more = cursor.execute(queries("copyout")["object_part"], (oid, at, _OBJECT_BYTES))
            ((digits,),) = more.fetchall()


class _Pieces:
    """Collects small pieces and cuts large ones, so that `take` gets about 256 KiB each."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._kept: list[bytes | bytearray | memoryview] = []
        self._size = 0

    def add(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether there was anything in it."""
        full = size = len(data)
        if self._size + size > PIECE_BYTES:
            self.flush()
            while size > PIECE_BYTES:  # a view, so that nothing is copied twice
                data = memoryview(data)
                self._take(bytes(data[:PIECE_BYTES]))
                data = data[PIECE_BYTES:]
                size -= PIECE_BYTES
            data = bytes(data)
        self._kept.append(data)
        self._size += size
        return full > 0

    def flush(self) -> None:
        if self._size:
            self._take(b"".join(self._kept))
            self._kept, self._size = [], 0


def _begin_object(oid: int) -> bytes:
    return (
        f"SELECT pg_catalog.lo_create('{oid}');\nBEGIN;\n"
        f"SELECT pg_catalog.lo_open('{oid}', 131072);\n"
    ).encode()


def _enter(connection: psycopg.Connection, view: View) -> None:
    """Begins a transaction that sees the keeper's view."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        connection.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(view.exported)}".encode())
    except psycopg.Error as exc:
        if exc.sqlstate not in _VIEW_GONE:
            raise
        raise DatabaseUnreachable(
            "the view that is backed up is gone: PostgreSQL ended its connection",
            detail=str(exc),
            hint="The dump starts again.",
        ) from exc


def _values(connection: psycopg.Connection, names: Sequence[TableName]) -> list[tuple[int, bool]]:
    union = " UNION ALL ".join(
        f"SELECT {number}, last_value, is_called FROM {name.sql}"  # noqa: S608 - quoted
        for number, name in enumerate(names)
    )
    return [
        (value, called) for _, value, called in connection.execute(f"{union} ORDER BY 1".encode())
    ]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """A lock that does not come is waited for again with the next try of the whole dump."""
    with translated(what):
        try:
            yield
        except psycopg.errors.LockNotAvailable as exc:
            raise DatabaseUnreachable(
                f"{what}: the table is locked",
                detail=str(exc),
                hint="Another session holds an exclusive lock (ALTER TABLE, VACUUM FULL, …). "
                "Let it end, then start again.",
            ) from exc
