"""What a dump consists of, once it is read.

Pieces are data and may be applied; a `Statement` is SQL text that somebody else
wrote, which nothing here executes.
"""

from __future__ import annotations

from dataclasses import dataclass

from peersync.core.names import TableName


@dataclass(frozen=True, slots=True)
class CopyBegin:
    """Rows of this table follow. `columns` is empty for a table without columns."""

    table: TableName
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CopyRows:
    """Some bytes of the rows, in COPY's text format, cut anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CopyEnd:
    """The rows are complete; `rows` is how many there were."""

    rows: int


@dataclass(frozen=True, slots=True)
class SequenceValue:
    sequence: TableName
    value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class LargeObject:
    """This large object exists.

    It comes when the object is created and again when its content begins (one of
    the two may be missing, by version and options of pg_dump). An object without
    `LargeObjectData` is empty.
    """

    oid: int


@dataclass(frozen=True, slots=True)
class LargeObjectData:
    """The next bytes of the object whose content has begun."""

    oid: int
    data: bytes


Piece = CopyBegin | CopyRows | CopyEnd | SequenceValue | LargeObject | LargeObjectData


@dataclass(frozen=True, slots=True)
class Toc:
    """pg_dump's header comment above an object."""

    name: str
    type: str
    schema: str


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement with its semicolon. `position` is its first byte in the stream."""

    text: str
    position: int
    toc: Toc | None


Item = Statement | CopyBegin | CopyRows | CopyEnd
