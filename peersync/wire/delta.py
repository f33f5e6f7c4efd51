"""The messages of the method delta: what a target asks the source of its backup about one table.

Each belongs to one generation of one session's backup, and to one part of it: the rows of one
table in the view that is backed up. Keys travel as the texts of their columns. Digests come as a
stream of frames, each a list of them that is packed column by column, so that it compresses to
little more than the digests themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Annotated, Final

import msgspec
import zstandard

from peersync.core.errors import ProtocolError
from peersync.wire.messages import Count, Message, Name

MAX_KEY_COLUMNS: Final = 32
MAX_RANGES: Final = 5_000  # that one request asks for
MAX_KEYS: Final = 2_000  # that one message brings
MAX_ASKED_BYTES: Final = 16 << 20
MAX_FRAME_BYTES: Final = 8 << 20  # unpacked as well as packed
_MAX_ENTRIES: Final = 10_000
_LEVEL: Final = 3

Key = tuple[str, ...]
KeyText = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_KEY_COLUMNS)]
Columns = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=1700)]
Types = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1700)]
KeyColumns = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_KEY_COLUMNS)]


class Compared(Message, frozen=True, kw_only=True):
    """What of a part's table is compared: the columns of both sides, their types, the key's.

    portable: the two servers do not hash alike, so the texts of the rows are hashed.
    """

    generation: Count
    part: Count
    columns: Columns
    types: Types
    key: KeyColumns
    portable: bool = False


class BlocksRequest(Message, frozen=True, kw_only=True):
    """Asks for the digests of all blocks of rows, in the order of the key.

    `after`: where the block begins with which to go on, when an answer broke off.
    """

    what: Compared
    after: KeyText | None = None


class KeyRange(Message, frozen=True, kw_only=True, array_like=True):
    """The keys from `low` on and below `high`; None is open."""

    low: KeyText | None
    high: KeyText | None


class RowsRequest(Message, frozen=True, kw_only=True):
    """Asks for the key and the hash of each row in some ranges that do not overlap."""

    what: Compared
    ranges: Annotated[tuple[KeyRange, ...], msgspec.Meta(min_length=1, max_length=MAX_RANGES)]


class Wanted(Message, frozen=True, kw_only=True):
    """The keys of rows that the target wants. After the `last` message the source sends them.

    `at`: how many were told before, so that a message can be repeated. `whole`: all rows are
    wanted, and no keys are told.
    """

    generation: Count
    part: Count
    at: Count = 0
    keys: Annotated[tuple[KeyText, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    last: bool = False
    whole: bool = False


class _Digests(msgspec.Struct, frozen=True, array_like=True):
    """keys: the texts column by column, without that of a first, open block. rows: of blocks."""

    opened: bool
    keys: tuple[tuple[str, ...], ...]
    rows: tuple[Count, ...]
    digests: bytes


Digest = tuple[Key | None, int, int]  # key, number of rows, 64 bits


def pack(digests: Sequence[Digest]) -> bytes:
    """One frame. Only the first key may be None."""
    opened = bool(digests) and digests[0][0] is None
    keys = [key for key, _, _ in digests[opened:] if key is not None]
    rows = tuple(rows for _, rows, _ in digests)
    data = msgspec.msgpack.encode(
        _Digests(
            opened=opened,
            keys=tuple(zip(*keys, strict=True)),
            rows=() if all(number == 1 for number in rows) else rows,
            digests=struct.pack(f"<{len(digests)}Q", *(digest for _, _, digest in digests)),
        )
    )
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    return struct.pack("<I", len(packed)) + packed


class Unpacker:
    """Takes the bytes of a stream in pieces of any size. Raises ProtocolError for what is wrong."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Digest]]:
        """The lists that are whole by now."""
        self._kept += data
        while len(self._kept) >= 4:  # of the length in front
            (size,) = struct.unpack_from("<I", self._kept)
            if size > MAX_FRAME_BYTES:
                raise _refused("a frame is too large")
            if len(self._kept) < 4 + size:
                return
            packed = bytes(self._kept[4 : 4 + size])
            del self._kept[: 4 + size]
            yield _unpack(packed)

    def end(self) -> None:
        """Raises ProtocolError when the stream ended within a frame."""
        if self._kept:
            raise _refused("they end too early")


def _unpack(packed: bytes) -> list[Digest]:
    try:
        if not 0 < zstandard.get_frame_parameters(packed).content_size <= MAX_FRAME_BYTES:
            raise _refused("a frame is too large")
        data = zstandard.ZstdDecompressor().decompress(packed)
        found = msgspec.msgpack.decode(data, type=_Digests)
    except (zstandard.ZstdError, msgspec.MsgspecError) as exc:
        raise _refused("a frame can't be read") from exc
    count = len(found.digests) // 8
    if count > _MAX_ENTRIES or len(found.digests) % 8 or len(found.rows) not in (0, count):
        raise _refused("a frame does not add up")
    if any(len(column) != count - found.opened for column in found.keys):
        raise _refused("a frame does not add up")
    keys: Iterator[Key | None] = zip(*found.keys, strict=True)
    if count > found.opened and not found.keys:
        raise _refused("a frame has no keys")
    rows = iter(found.rows) if found.rows else repeat(1)
    digests = struct.unpack(f"<{count}Q", found.digests)
    opened: list[Key | None] = [None] if found.opened else []
    return [
        (key, next(rows), digest) for key, digest in zip((*opened, *keys), digests, strict=True)
    ]


def _refused(why: str) -> ProtocolError:
    return ProtocolError(f"digests of rows that can't be read: {why}")
