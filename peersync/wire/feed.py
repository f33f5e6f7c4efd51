"""A feed: transactions of a log on their way to a peer, as it asks for them and as they come.

Owns the form of the question and of the answer: four bytes of length, the head as JSON, and
one zstd frame with the changes as rows of COPY text, in the order of the head's transactions.
Neither side holds a frame: a single value may have hundreds of megabytes.

A peer is not trusted with anything. zstd bounds nothing (four bytes can unpack to 128 KiB),
so the frame is cut at its blocks and unpacked one by one. COPY is not trusted either: rows
are refused that no server writes but some reader could take for their end. What the rows
mean is not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import msgspec
import zstandard

from peersync.core.errors import CorruptData, PeersyncError, ProtocolError
from peersync.wire import codec
from peersync.wire.messages import Message, Name
from peersync.wire.zstdframe import FrameCutter

MAX_HEAD_BYTES: Final = 32 * 1024 * 1024
MAX_TRANSACTIONS: Final = 10_000
MAX_CHANGES: Final = 20_000
MAX_BYTES: Final = 8 * 1024 * 1024
MEDIA_TYPE: Final = "application/octet-stream"
COLUMNS: Final = ("origin", "position", "ordinal", "at", "shape", "op", "key", "image", "old")

_MAX_INT64: Final = (1 << 63) - 1
_LENGTH_BYTES: Final = 4
_LEVEL: Final = 1
_WINDOW_LIMIT_BYTES: Final = 8 * 1024 * 1024

Origin = Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
Position = Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT64)]
Shape = Annotated[int, msgspec.Meta(ge=-_MAX_INT64 - 1, le=_MAX_INT64)]
Vector = Annotated[dict[Origin, Position], msgspec.Meta(max_length=10_000)]
Group = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
TypeName = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Columns = Annotated[tuple[Name, ...], msgspec.Meta(max_length=1_600)]
# data, heartbeat, join, leave, expire, a conflict that a person has decided
Kind = Literal["d", "b", "j", "l", "e", "c", "w"]


class FeedRequest(Message, frozen=True, kw_only=True):
    """Asks for what comes after `vector`, in at most so much; a transaction is never cut.

    `wait_s`: how long the answer may wait for something to say, in seconds. Without `rows` the
    transactions come without their changes: the asker only gives, and wants to know where it is.
    """

    database: Name
    group: Group
    origin: Origin
    vector: Vector
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 20.0
    max_changes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = MAX_CHANGES
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = MAX_BYTES
    transactions: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRANSACTIONS)] = MAX_TRANSACTIONS
    rows: bool = True


class TransactionHead(Message, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A transaction without its changes. `at` is its last change's time as ISO 8601.

    `seen` is None where it is that of the transaction before it of the same origin.
    """

    origin: Origin
    position: Annotated[int, msgspec.Meta(ge=1, le=_MAX_INT64)]
    hlc: Position
    kind: Kind
    changes: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
    at: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    seen: Vector | None = None
    info: dict[str, Any] | None = None


class ShapeInfo(Message, frozen=True, kw_only=True):
    """What the columns of an image are; no `key` where the table has none."""

    shape: Shape
    schema: Name
    table: Name
    columns: Columns
    types: Annotated[tuple[TypeName, ...], msgspec.Meta(max_length=1_600)]
    key: Columns


class FeedHead(Message, frozen=True, kw_only=True):
    """What comes, and from whom. `more`: asking again at once is worth it.

    `vector` is the sender's when it read its log; `unix_time` its clock then.
    """

    group: Group
    origin: Origin
    unix_time: float
    vector: Vector
    transactions: Annotated[tuple[TransactionHead, ...], msgspec.Meta(max_length=MAX_TRANSACTIONS)]
    shapes: Annotated[tuple[ShapeInfo, ...], msgspec.Meta(max_length=100_000)]
    more: bool

    @property
    def changes(self) -> int:
        return sum(t.changes for t in self.transactions)

    @property
    def seens(self) -> tuple[dict[int, int], ...]:
        """What each transaction's origin had seen, the left out ones filled in."""
        last: dict[int, dict[int, int]] = {}
        found = []
        for t in self.transactions:
            if t.seen is not None:
                last[t.origin] = t.seen
            found.append(last[t.origin])
        return tuple(found)


class FeedWriter:
    """Makes the bytes of an answer. What it returns may be empty: zstd collects."""

    def __init__(self) -> None:
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        self._frame = compressor.compressobj()

    @staticmethod
    def head(head: FeedHead) -> bytes:
        data = codec.encode(head)
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError(f"the head of a feed has {len(data)} bytes: too large to send")
        return len(data).to_bytes(_LENGTH_BYTES, "big") + data

    def add(self, rows: bytes) -> bytes:
        return self._frame.compress(rows)

    def end(self) -> bytes:
        return self._frame.flush()


class FeedReader:
    """Takes the bytes of an answer in pieces of any size; gives the head, then rows.

    Raises ProtocolError for what a peer does not send and CorruptData for what was cut or
    changed on the way. Nothing that came from a feed may be committed before `end`.
    """

    def __init__(self) -> None:
        self.head: FeedHead | None = None
        self._length = bytearray()
        self._wanted = 0
        self._rows = _Rows()
        self._frame = FrameCutter()
        self._unpack = zstandard.ZstdDecompressor(
            max_window_size=_WINDOW_LIMIT_BYTES
        ).decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Rows in pieces of at most 128 KiB, cut anywhere. Must be run to its end."""
        if self.head is None:
            data = self._take_head(data)
        for block in self._frame.cut(data):
            try:
                rows = self._unpack.decompress(block)
            except zstandard.ZstdError as error:
                raise _damaged(str(error)) from error
            if rows:
                self._rows.check(rows)
                yield rows

    def end(self) -> None:
        """The proof that all of it has come: checksum, whole rows, as many as announced."""
        if self.head is None or not self._frame.finished or not self._unpack.eof:
            raise _damaged("it ends too early")
        self._rows.end(self.head.changes)

    def _take_head(self, data: bytes) -> bytes:
        """What comes after the head, as far as that is here."""
        self._length += data
        if not self._wanted and len(self._length) >= _LENGTH_BYTES:
            self._wanted = int.from_bytes(self._length[:_LENGTH_BYTES], "big")
            del self._length[:_LENGTH_BYTES]
            if not 0 < self._wanted <= MAX_HEAD_BYTES:
                raise ProtocolError(f"a feed announces a head of {self._wanted} bytes")
        if not self._wanted or len(self._length) < self._wanted:
            return b""
        self.head = codec.decode(
            bytes(self._length[: self._wanted]), FeedHead, limit=MAX_HEAD_BYTES
        )
        _check_head(self.head)
        rest = bytes(self._length[self._wanted :])
        self._length.clear()
        return rest


class _Rows:
    """Refuses COPY text that no server writes, and counts its rows."""

    _MARK = re.compile(rb"\\[.\n]")  # a tenth of the time of looking for the two one by one
    _ESCAPED = re.compile(rb"(?<!\\)(?:\\\\)*\\[.\n]")  # an odd run of backslashes in front

    def __init__(self) -> None:
        self._count = 0
        self._begins = True
        self._odd = False  # the last byte is a backslash that escapes the next one

    def check(self, data: bytes) -> None:
        if b"\r" in data or b"\0" in data:
            raise ProtocolError("the rows of a feed hold a carriage return or a NUL")
        seen = b"\\" + data if self._odd else data
        if self._MARK.search(seen) and self._ESCAPED.search(seen):
            raise ProtocolError("the rows of a feed hold a mark for the end of the rows")
        self._odd = (len(seen) - len(seen.rstrip(b"\\"))) % 2 == 1
        self._count += data.count(b"\n")
        self._begins = data.endswith(b"\n")

    def end(self, announced: int) -> None:
        if not self._begins:
            raise ProtocolError("the rows of a feed end inside a row")
        if self._count != announced:
            raise ProtocolError(f"a feed has {self._count} rows instead of {announced}")


def _check_head(head: FeedHead) -> None:
    """What types can't say: each origin's transactions follow each other."""
    last: dict[int, TransactionHead] = {}
    for t in head.transactions:
        before = last.get(t.origin)
        if before is None and t.seen is None:
            raise ProtocolError(f"transaction {t.origin}/{t.position} does not say what it saw")
        if before and (t.position != before.position + 1 or t.hlc <= before.hlc):
            raise ProtocolError(
                f"transaction {t.origin}/{t.position} follows {before.position} in a feed"
            )
        if t.seen and t.origin in t.seen:
            raise ProtocolError(f"transaction {t.origin}/{t.position} has seen its own origin")
        if t.changes and t.kind != "d":
            raise ProtocolError(f"transaction {t.origin}/{t.position} may not have changes")
        last[t.origin] = t
    if len({s.shape for s in head.shapes}) != len(head.shapes):
        raise ProtocolError("a feed describes a shape twice")
    for s in head.shapes:
        if len(s.columns) != len(s.types) or not set(s.key) <= set(s.columns):
            raise ProtocolError(f"the shape of {s.schema}.{s.table} in a feed does not fit itself")


def _damaged(reason: str) -> PeersyncError:
    return CorruptData(
        f"a feed is damaged: {reason}",
        hint="Nothing of it was applied, and it is asked for again.",
    )
