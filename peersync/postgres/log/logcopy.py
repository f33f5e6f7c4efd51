"""The log as a part of a backup: given in the form of pg_dump's data, taken into staging tables.

Whoever joins needs more than the rows: with a change that is still on its way somewhere, a later
one can only be compared if it is known. Nothing that comes is believed before the final
transaction, and nothing of it is ever SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import psycopg

from peersync.core.errors import CorruptData, RefusedInput
from peersync.core.names import TableName
from peersync.dump.pieces import CopyBegin, CopyEnd, CopyRows
from peersync.dump.scan import DataScanner
from peersync.postgres.copyout import TableCopy
from peersync.postgres.errors import translated
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("baseline")
_COLUMNS: Final = {
    "transaction": (
        'origin bigint, position bigint, hlc bigint, kind "char", changes integer, bytes bigint,'
        " at timestamptz, seen jsonb, info jsonb"
    ),
    "entry": (
        "origin bigint, position bigint, ordinal bigint, at timestamptz, shape bigint,"
        ' op "char", key text, image text, old text'
    ),
    "shape": (
        "shape bigint, schema_name text, table_name text, columns text[], types text[], key text[]"
    ),
    "base": "schema_name text, table_name text, key text, shape bigint, image text",
    "strategy": "schema_name text, table_name text, strategy text",
}
_QUERIES: Final = {
    "transaction": "give_transactions",
    "entry": "give_entries",
    "shape": "give_shapes",
    "base": "give_bases",
    "strategy": "give_strategies",
}


@dataclass(frozen=True)
class _LogTable(TableCopy):
    """What a query gives, under the name of a table that is nowhere."""

    query: str = ""

    @property
    def statement(self) -> str:
        return f"COPY ({self.query}) TO STDOUT"

    @property
    def what(self) -> str:
        return f"reading the {self.name.name} part of the log"


def log_tables() -> tuple[TableCopy, ...]:
    """What a run of `CopyOut` gives of the log."""
    return tuple(
        _LogTable(TableName("peersync", f"log_{kind}"), _names(kind), query=_SQL[_QUERIES[kind]])
        for kind in _COLUMNS
    )


def _names(kind: str) -> tuple[str, ...]:
    return tuple(column.split()[0] for column in _COLUMNS[kind].split(","))


@dataclass(frozen=True)
class LogStage:
    """The staging tables of one session. They are dropped with its others."""

    prefix: str

    def table(self, kind: str) -> TableName:
        return TableName("peersync", f"{self.prefix}_log_{kind}")

    def create(self, connection: psycopg.Connection) -> None:
        for kind, columns in _COLUMNS.items():
            connection.execute(f"CREATE UNLOGGED TABLE {self.table(kind).sql} ({columns})".encode())

    def load(self, connection: psycopg.Connection, pieces: Iterator[bytes]) -> int:
        """Takes the part in; gives the number of bytes. Raises CorruptData or RefusedInput."""
        scanner = DataScanner()
        sink = _LogSink(connection, self)
        size = 0
        with sink, translated("taking in the log"):
            for data in pieces:
                size += len(data)
                for piece in scanner.feed(data):
                    sink.take(piece)
            for piece in scanner.finish():
                sink.take(piece)
        if not scanner.complete:
            raise CorruptData("the log in the backup is cut off")
        return size


class _LogSink:
    """One COPY at a time into the staging table that a block is for."""

    def __init__(self, connection: psycopg.Connection, stage: LogStage) -> None:
        self._connection = connection
        self._stage = stage
        self._stack = ExitStack()
        self._copy: psycopg.Copy | None = None
        self._done: set[str] = set()

    def __enter__(self) -> _LogSink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._stack.close()
        else:
            self._stack.__exit__(kind, error, trace)  # type: ignore[arg-type]  # as they came

    def take(self, piece: object) -> None:
        if isinstance(piece, CopyBegin):
            self._begin(piece)
        elif isinstance(piece, CopyRows) and self._copy is not None:
            self._copy.write(piece.data)
        elif isinstance(piece, CopyEnd):
            self._stack.close()
            self._copy = None
        else:
            raise RefusedInput("the log in the backup has something other than rows")

    def _begin(self, piece: CopyBegin) -> None:
        kind = piece.table.name.removeprefix("log_")
        if piece.table.schema != "peersync" or kind not in _COLUMNS or kind in self._done:
            raise RefusedInput(f"the log in the backup has rows of {piece.table}")
        if piece.columns != _names(kind):
            raise RefusedInput(f"the log in the backup has other columns in {piece.table}")
        self._done.add(kind)
        cursor = self._stack.enter_context(self._connection.cursor())
        names = ", ".join(_names(kind))
        command = f"COPY {self._stage.table(kind).sql} ({names}) FROM STDIN"
        self._copy = self._stack.enter_context(cursor.copy(command.encode()))
