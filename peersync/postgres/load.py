"""Takes the data parts of a backup into a database: table by table, by COPY, in threads.

A table that was here before is loaded into a staging table of ours and not touched; a
table that this session created is loaded directly. Nothing here changes what a user of
the database had, so all of it can be thrown away and done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg

from peersync.core.errors import CorruptData, PeersyncError, ProtocolError, RefusedInput
from peersync.core.names import TableName
from peersync.dump.pieces import (
    CopyBegin,
    CopyEnd,
    CopyRows,
    LargeObject,
    LargeObjectData,
    Piece,
    SequenceValue,
)
from peersync.dump.scan import DataScanner
from peersync.postgres.bulk import Stop
from peersync.postgres.catalog import Table
from peersync.postgres.compared import Comparison
from peersync.postgres.errors import TRANSLATED, translate
from peersync.postgres.merge import Merge, copy_into


class KeepsChanges(Protocol):
    """Is told what will be changed, in the savepoint that changes it."""

    def take_changes(self, load: TableLoad) -> int | None: ...
    def take_deletes(self, load: TableLoad, places: TableName) -> None: ...


@dataclass
class TableLoad:
    """What became of one table of the backup. `error` ends this table, not the others."""

    table: Table
    created: bool
    stage: TableName
    columns: tuple[str, ...] = ()
    rows: int = 0
    rows_seen: int = 0  # while they come
    raw_bytes: int = 0
    loaded: bool = False
    error: PeersyncError | None = None
    journal: KeepsChanges | None = None  # of a table that was here before
    compared: Comparison | None = None  # only the rows that differ were sent
    way_reason: str | None = None  # why all rows were sent, although only some were asked for

    @property
    def merge(self) -> Merge:
        names = frozenset(self.columns)
        generated = {c.name for c in self.table.columns if c.generated}
        key = self.table.key_within(names - generated)
        only_here = self.compared.only_here if self.compared else None
        return Merge(self.table, self.stage, self.columns, key, only_here)

    @property
    def source_rows(self) -> int:
        """The rows that the source has of it, whether they were sent or not."""
        return self.compared.rows_there if self.compared else self.rows


@dataclass
class Loading:
    """Everything that the loader threads of one session share. Counters only grow."""

    tables: dict[TableName, TableLoad]
    large_objects: TableName  # the staging table of large objects
    take_large_objects: bool
    stop: Stop
    scanned_bytes: int = 0
    direct_bytes: int = 0
    rows: int = 0
    new_sequences: frozenset[TableName] = frozenset()  # that this session created
    sequences: dict[TableName, SequenceValue] = field(default_factory=dict)
    has_large_objects: bool = False
    ignored: set[TableName] = field(default_factory=set)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def count(self, raw: int, *, direct: bool) -> None:
        with self.guard:
            self.scanned_bytes += raw
            if direct:
                self.direct_bytes += raw


def create_stages(connection: psycopg.Connection, loading: Loading) -> None:
    """The staging table of large objects; those of tables are made when their rows come."""
    connection.execute(
        f"CREATE UNLOGGED TABLE {loading.large_objects.sql} "
        "(loid oid NOT NULL, at bigint NOT NULL, data bytea NOT NULL)"
    )


def load_part(connection: psycopg.Connection, pieces: Iterator[bytes], loading: Loading) -> None:
    """Loads one data part. Raises CorruptData or RefusedInput when the stream is not a dump."""
    scanner = DataScanner()
    with _Sink(connection, loading) as sink:
        for data in pieces:
            loading.stop.check()
            for piece in scanner.feed(data):
                sink.take(piece)
        for piece in scanner.finish():
            sink.take(piece)
    if not scanner.complete:
        raise CorruptData("a part of the backup does not have pg_dump's last line")


def refuse_unasked(loading: Loading, not_copied: Iterable[str]) -> None:
    """Raises ProtocolError if rows came of a table that is no part of the sync.

    Not for those that the plan names as not copied: pg_dump writes the settings of extensions.
    """
    known = {name.replace('"', "") for name in not_copied}
    unasked = [str(n) for n in sorted(loading.ignored) if f"{n.schema}.{n.name}" not in known]
    if unasked:
        raise ProtocolError(
            f"the source sent rows of tables that nobody asked for: {', '.join(unasked)}",
            hint="Nothing was changed. Both agents should have the same version.",
        )


class _Sink:
    """Where pieces go: one COPY at a time, on one connection."""

    def __init__(self, connection: psycopg.Connection, loading: Loading) -> None:
        self._connection = connection
        self._loading = loading
        self._load: TableLoad | None = None
        self._copy: _Copy | None = None
        self._objects: _Copy | None = None
        self._object: tuple[int, int] = (0, 0)  # oid, bytes so far
        self._handlers: dict[type, Callable[[Any], None]] = {
            CopyBegin: self._begin,
            CopyRows: self._rows,
            CopyEnd: self._end,
            SequenceValue: self._sequence,
            LargeObject: self._large_object,
            LargeObjectData: self._large_object_data,
        }

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for copy in (self._copy, self._objects):
            if copy is not None:
                copy.close(whole=kind is None)

    def take(self, piece: Piece) -> None:
        self._handlers[type(piece)](piece)

    def _begin(self, piece: CopyBegin) -> None:
        self._close_objects()
        load = self._loading.tables.get(piece.table)
        if load is None:
            self._loading.ignored.add(piece.table)
        elif load.loaded or load.columns:
            raise RefusedInput(f"the backup has the rows of {piece.table} twice")
        self._load = load
        if load is None:
            return
        load.columns = piece.columns
        with self._failing(load):
            target = load.table.name
            if not load.created:
                self._connection.execute(load.merge.create_stage())
                target = load.stage
            self._copy = _Copy(self._connection, copy_into(target, piece.columns))

    def _rows(self, piece: CopyRows) -> None:
        load = self._load
        self._loading.count(len(piece.data), direct=load is not None and load.created)
        if load is None:
            return
        load.raw_bytes += len(piece.data)
        load.rows_seen += piece.data.count(b"\n")  # in this format a row has one, at its end
        if self._copy is not None:
            with self._failing(load):
                self._copy.write(piece.data)

    def _end(self, piece: CopyEnd) -> None:
        load, copy = self._load, self._copy
        self._load = self._copy = None
        if load is None or copy is None:
            return
        with self._failing(load):
            load.rows = copy.close(whole=True)
            load.loaded = True
            if not load.created:
                self._connection.execute(f"ANALYZE {load.stage.sql}")
        if load.error is None and load.rows != piece.rows:
            raise CorruptData(
                f"{load.table.name}: {piece.rows} rows came, {load.rows} were taken in"
            )
        with self._loading.guard:
            self._loading.rows += load.rows

    def _sequence(self, piece: SequenceValue) -> None:
        self._close_objects()
        with self._loading.guard:
            self._loading.sequences[piece.sequence] = piece

    def _large_object(self, piece: LargeObject) -> None:
        if not self._loading.take_large_objects:
            return
        self._object = (piece.oid, 0)
        self._write_object(piece.oid, 0, b"")

    def _large_object_data(self, piece: LargeObjectData) -> None:
        if not self._loading.take_large_objects:
            return
        self._loading.count(len(piece.data), direct=False)
        at = self._object[1] if self._object[0] == piece.oid else 0
        self._write_object(piece.oid, at, piece.data)
        self._object = (piece.oid, at + len(piece.data))

    def _write_object(self, oid: int, at: int, data: bytes) -> None:
        if self._objects is None:
            table = self._loading.large_objects
            self._objects = _Copy(self._connection, f"COPY {table.sql} (loid, at, data) FROM STDIN")
            self._loading.has_large_objects = True
        self._objects.write(b"%d\t%d\t\\\\x%s\n" % (oid, at, data.hex().encode()))

    def _close_objects(self) -> None:
        if self._objects is not None:
            self._objects.close(whole=True)
            self._objects = None

    def _failing(self, load: TableLoad) -> _TableFails:
        return _TableFails(self, load)

    def drop_copy(self) -> None:
        if self._copy is not None:
            self._copy.close(whole=False)
            self._copy = None


class _TableFails:
    """What the database refuses ends this table: the rest of its rows is passed over."""

    def __init__(self, sink: _Sink, load: TableLoad) -> None:
        self._sink = sink
        self._load = load

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, exc: BaseException | None, _tb: object) -> bool:
        if not isinstance(exc, TRANSLATED):
            return False
        if self._sink._loading.stop.is_set():
            return False
        name = self._load.table.name
        error = translate(exc, what=f"loading {name}")
        if error.retryable or self._load.created:
            error.hint = error.hint or (
                f"Mend it, or leave the table out: -T '{name}'. Nothing of this sync is left."
            )
            raise error from exc
        self._load.error = error
        self._load.loaded = False
        self._sink.drop_copy()
        return True


class _Copy:
    """A COPY FROM STDIN that is open; closing it gives the rows that the server took."""

    def __init__(self, connection: psycopg.Connection, statement: str) -> None:
        self._cursor = connection.cursor()
        self._context = self._cursor.copy(statement.encode())
        self._copy = self._context.__enter__()

    def write(self, data: bytes) -> None:
        self._copy.write(data)

    def close(self, *, whole: bool) -> int:
        """Ends the COPY; not whole means that the server must forget what it got."""
        try:
            if whole:
                self._context.__exit__(None, None, None)
                return self._cursor.rowcount
            with suppress(_Abandoned, psycopg.Error):
                self._context.__exit__(_Abandoned, _Abandoned(), None)
            return 0
        finally:
            self._cursor.close()


class _Abandoned(Exception):
    """Tells psycopg to end a COPY with CopyFail instead of CopyDone."""
