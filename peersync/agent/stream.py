"""The way of a part's chunks from the loop, which fetches them, to the thread that reads them.

Chunks arrive in any order and are read in theirs. The files stay in the spool until the
session has ended: what has arrived once is never sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from peersync.core.errors import CorruptData
from peersync.wire.chunks import read_chunk
from peersync.wire.messages import Chunk, Part
from peersync.wire.spool import Spool


class PartStream:
    """One part of the backup. `offer` and `end` come from the loop, `pieces` from a thread."""

    def __init__(self, part: Part, spool: Spool) -> None:
        self.part = part
        self._spool = spool
        self._ready: dict[int, Chunk] = {}
        self._count: int | None = None
        self._raw_bytes = 0
        self._aborted = False
        self._changed = threading.Condition()

    def offer(self, chunk: Chunk) -> None:
        """The chunk's file is in the spool."""
        with self._changed:
            self._ready[chunk.index] = chunk
            self._changed.notify_all()

    def end(self, part: Part) -> None:
        """The part is complete on the source, and has this many chunks."""
        with self._changed:
            self._count = part.chunks
            self._raw_bytes = part.raw_bytes
            self._changed.notify_all()

    def abort(self) -> None:
        """No more will come; a reader gets an error."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def pieces(self) -> Iterator[bytes]:
        """The raw bytes of the part, in order. Blocks while the next chunk is under way.

        Raises CorruptData when a chunk is damaged, or the part is not as long as the source
        says: the caller must not commit what it has taken.
        """
        seen = 0
        index = 0
        while (chunk := self._next(index)) is not None:
            try:
                for piece in read_chunk(self._spool.path(chunk.digest), chunk):
                    seen += len(piece)
                    yield piece
            except CorruptData:
                self._spool.discard(chunk)
                raise
            except FileNotFoundError as exc:
                raise CorruptData(f"chunk {chunk.number} is gone from the spool") from exc
            index += 1
        if seen != self._raw_bytes:
            raise CorruptData(
                f"part {self.part.id} of the backup has {seen} bytes instead of {self._raw_bytes}"
            )

    def _next(self, index: int) -> Chunk | None:
        with self._changed:
            while True:
                if self._aborted:
                    raise CorruptData(f"part {self.part.id} of the backup ended early")
                if index in self._ready:
                    return self._ready.pop(index)
                if self._count is not None and index >= self._count:
                    return None
                self._changed.wait()
