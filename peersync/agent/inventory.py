"""What a backup has made so far: its generation, its parts, its chunks, and their journal.

Threads add to it while the loop reads it. Each addition is in the spool's journal before it
counts, so a restarted agent finds what was complete. It knows nothing of databases, and
nobody waits in it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from peersync.agent.workers import Workers
from peersync.config.filters import Filters
from peersync.core.errors import NotFound
from peersync.wire.chunks import manifest_digest
from peersync.wire.messages import BackupRequest, Baseline, Chunk, Codec, ManifestPage, Part
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.source")

PAGE_CHUNKS = 1000
_GENERATION_BITS = 48


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the spool's journal; exactly one field is set."""

    request: BackupRequest | None = None
    peer_id: str | None = None
    filters: Filters = ()  # a backup made with others must not be served
    generation: int | None = None
    parts: tuple[Part, ...] | None = None
    baseline: Baseline | None = None
    chunk: Chunk | None = None
    complete: str | None = None


class Inventory:
    """The parts and chunks of one backup, for as long as its generation lasts."""

    def __init__(self, spool: Spool) -> None:
        self.generation = 0
        self.parts: dict[int, Part] = {}
        self.dumped_bytes = 0
        self._spool = spool
        self._chunks: list[Chunk] = []
        self._known: dict[str, Chunk] = {}
        self._sent: set[str] = set()
        self._digest: str | None = None
        self._baseline: Baseline | None = None
        self._guard = threading.Lock()

    @property
    def complete(self) -> bool:
        return self._digest is not None

    # --- serving ------------------------------------------------------------------------
    def has_after(self, after: int) -> bool:
        """Whether there are more chunks than so many."""
        return len(self._chunks) > after

    def page(self, after: int, *, error: str | None, waiting_for: str | None) -> ManifestPage:
        with self._guard:
            chunks = tuple(self._chunks[after : after + PAGE_CHUNKS])
            last = after + len(chunks) == len(self._chunks)
            return ManifestPage(
                generation=self.generation,
                parts=tuple(self.parts.values()),
                chunks=chunks,
                complete=self.complete and last,
                digest=self._digest if last else None,
                baseline=self._baseline,
                dumped_bytes=self.dumped_bytes,
                error=error,
                waiting_for=waiting_for,
            )

    async def chunk_path(self, digest: str, workers: Workers) -> Path:
        """The file of a chunk of this backup. Raises NotFound for any other digest.

        A file that is asked for again may have been found damaged, so it is looked at; when
        it is, or is gone, the whole backup is not what it says, and must be made anew.
        """
        chunk = self._known.get(digest)
        if chunk is None:
            raise NotFound("this backup has no such chunk")
        looks = self._spool.proves if digest in self._sent else self._spool.has
        self._sent.add(digest)
        if not await workers.run(looks, chunk):
            log.error("backup %s: chunk %d is damaged", self._spool.session, chunk.number)
            await workers.run(self._spool.discard, chunk)
            self._digest = None
            raise NotFound("this chunk was damaged on the disk of the source")
        return self._spool.path(digest)

    # --- after a restart ----------------------------------------------------------------
    def reload(self, request: BackupRequest, peer_id: str, filters: Filters) -> bool:
        """Takes up what the journal has. True when the dump was complete; blocks.

        A journal of another peer's or of another request is not this backup's: begun anew.
        """
        try:
            self._replay((request, peer_id, filters))
        except msgspec.MsgspecError as exc:
            log.warning("backup %s: its journal can't be read: %s", request.session, exc)
            self._digest = None
        if self.complete and not all(self._spool.has(chunk) for chunk in self._chunks):
            self._digest = None  # somebody cleaned up: dump again
        self._known = {chunk.digest: chunk for chunk in self._chunks}
        self.dumped_bytes = sum(chunk.raw_size for chunk in self._chunks)
        return self.complete

    def _replay(self, made_for: tuple[BackupRequest, str, Filters]) -> None:
        for line in self._spool.journal():
            entry = msgspec.json.decode(line, type=_Line)
            if entry.request is not None:
                self._digest = None
                if (entry.request, entry.peer_id, entry.filters) != made_for:
                    return
            if entry.generation is not None:
                self.generation = entry.generation
                self.parts, self._chunks = {}, []
            self.parts.update({p.id: p for p in entry.parts or ()})
            self._baseline = entry.baseline or self._baseline
            if entry.chunk is not None:
                self._chunks.append(entry.chunk)
            self._digest = entry.complete or self._digest

    # --- making: all of these block -----------------------------------------------------
    def begin(self, request: BackupRequest, peer_id: str, filters: Filters) -> None:
        """A new generation, with nothing in it."""
        self._spool.create()
        self._spool.remove_chunks()  # of a view that is gone: the target has what it has
        self.forget()
        # Not counted up: a journal that was lost must not give an old number again.
        self.generation = secrets.randbits(_GENERATION_BITS)
        self._spool.restart_journal()
        self._spool.append(_Line(request=request, peer_id=peer_id, filters=filters))
        self._spool.append(_Line(generation=self.generation))

    def forget(self) -> None:
        with self._guard:
            self.parts, self._chunks, self._digest = {}, [], None
            self._known, self._sent = {}, set()
            self._baseline, self.dumped_bytes = None, 0

    def plan(self, parts: Sequence[Part], baseline: Baseline) -> None:
        """What this generation will have, and which view of the rows it is made of."""
        self._spool.append(_Line(parts=tuple(parts), baseline=baseline))
        with self._guard:
            self.parts = {part.id: part for part in parts}
            self._baseline = baseline

    def dumped(self, size_bytes: int) -> None:
        with self._guard:
            self.dumped_bytes += size_bytes

    def add_chunk(
        self, part: Part, index: int, codec: Codec, *, digest: str, size: int, raw_size: int
    ) -> None:
        with self._guard:
            chunk = Chunk(
                number=len(self._chunks),
                part=part.id,
                index=index,
                digest=digest,
                size=size,
                raw_size=raw_size,
                codec=codec,
            )
            self._spool.append(_Line(chunk=chunk))
            self._chunks.append(chunk)
            self._known[digest] = chunk

    def end_part(self, part: Part, chunks: int, raw_bytes: int) -> None:
        ended = msgspec.structs.replace(part, done=True, chunks=chunks, raw_bytes=raw_bytes)
        with self._guard:
            self.parts[part.id] = ended
            self._spool.append(_Line(parts=(ended,)))

    def end(self) -> None:
        """All parts are done."""
        digest = manifest_digest(self._chunks)
        self._spool.append(_Line(complete=digest))
        self._digest = digest
