"""Cuts a zstd frame at its blocks, so that whoever unpacks it knows how much can come out.

A block unpacks to at most 128 KiB, but there is no limit to how many fit into a few
kilobytes. The library's reader objects that bound their output pull from a file, and rows
from a peer are pushed. The form is RFC 8878, section 3.1.1. Owns nothing but the cutting:
content and checksum are the library's. It refuses frames that prove nothing (no checksum),
dictionaries, and whatever follows the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from peersync.core.errors import ProtocolError

MAX_BLOCK_BYTES: Final = 128 * 1024
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SIZE_BYTES: Final = (0, 2, 4, 8)  # of the content's size, by the flag
_RLE: Final = 1
_RESERVED: Final = 3
_BLOCK_HEADER_BYTES: Final = 3
_CHECKSUM_BYTES: Final = 4


class FrameCutter:
    """Takes the bytes of one frame in pieces of any size."""

    def __init__(self) -> None:
        self.finished = False
        self._kept = bytearray()
        self._step: Callable[[int], int] = self._descriptor
        self._wanted = len(_MAGIC) + 1

    def cut(self, data: bytes) -> Iterator[bytes]:
        """Whole parts of the frame: its header, each block, its checksum."""
        if self.finished and data:
            raise _refused("something follows it")
        self._kept += data
        at = 0
        while not self.finished and len(self._kept) - at >= self._wanted:
            size = self._step(at)
            if size:
                yield bytes(self._kept[at : at + size])
                at += size
        del self._kept[:at]
        if self.finished and self._kept:
            raise _refused("something follows it")

    # Each step looks at what is there from `at` on and says how many bytes of it are a part:
    # none while it wants more.
    def _descriptor(self, at: int) -> int:
        if not self._kept.startswith(_MAGIC, at):
            raise _refused("it does not begin like one")
        flags = self._kept[at + len(_MAGIC)]
        if flags & 0b1011:  # reserved, dictionary
            raise _refused("it has an unknown form")
        if not flags & 0b100:
            raise _refused("it has no checksum")
        single = bool(flags & 0b100000)
        content = _SIZE_BYTES[flags >> 6] or single
        return self._next(self._header, len(_MAGIC) + 1 + (not single) + content)

    def _header(self, at: int) -> int:
        size = self._wanted
        self._next(self._block, _BLOCK_HEADER_BYTES)
        return size

    def _block(self, at: int) -> int:
        header = int.from_bytes(self._kept[at : at + _BLOCK_HEADER_BYTES], "little")
        kind, size = header >> 1 & 3, header >> 3
        if kind == _RESERVED or size > MAX_BLOCK_BYTES:
            raise _refused("it has a block of an unknown form")
        body = 1 if kind == _RLE else size
        return self._next(self._last if header & 1 else self._body, _BLOCK_HEADER_BYTES + body)

    def _body(self, at: int) -> int:
        size = self._wanted
        self._next(self._block, _BLOCK_HEADER_BYTES)
        return size

    def _last(self, at: int) -> int:
        size = self._wanted
        self._next(self._checksum, _CHECKSUM_BYTES)
        return size

    def _checksum(self, at: int) -> int:
        self.finished = True
        return _CHECKSUM_BYTES

    def _next(self, step: Callable[[int], int], wanted: int) -> int:
        self._step, self._wanted = step, wanted
        return 0


def _refused(reason: str) -> ProtocolError:
    return ProtocolError(f"the rows of a feed are not one zstd frame: {reason}")
