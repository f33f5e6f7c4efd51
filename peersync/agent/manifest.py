"""What a peer says about its backup, held against what it said before and what was asked.

Every page is hostile until it has passed here: parts that were not asked for, chunks that
are counted twice or belong nowhere, counts that do not add up, a list without an end. Pure:
it keeps the accepted chunks and parts, and fetches nothing.
"""

from __future__ import annotations

from peersync.core.errors import DumpRestarted, ProtocolError
from peersync.wire.chunks import manifest_digest
from peersync.wire.messages import BackupRequest, Baseline, Chunk, ManifestPage, Part

MAX_PARTS = 1000
MAX_PAGE_CHUNKS = 5000
MAX_CHUNKS = 500_000  # 2 TB of them on the wire
FEW_CHUNKS = 1000
SMALL_CHUNK_BYTES = 256 << 10  # unpacked; a source cuts none below 1 MiB but a part's last
_SLACK_BYTES = 1 << 30
_SLACK_TIMES = 20  # text of TOASTed rows, uncompressed, against their size on disk
_SCHEMA_KINDS = frozenset({"pre-data", "post-data"})


class Manifest:
    """The parts and chunks of one generation of a backup, as far as they are known."""

    def __init__(
        self, request: BackupRequest, *, peer: str, peer_id: str, planned_bytes: int
    ) -> None:
        self._request = request
        self._peer = peer
        self._peer_id = peer_id
        self._limit_bytes = planned_bytes * _SLACK_TIMES + _SLACK_BYTES
        self._digest: str | None = None
        self._in_part: dict[int, tuple[int, int]] = {}  # part → its chunks and raw bytes so far
        self.generation: int | None = None
        self.parts: dict[int, Part] = {}
        self.chunks: list[Chunk] = []
        self.wire_bytes = 0
        self._raw_bytes = 0
        self.complete = False
        self.baseline: Baseline | None = None

    def take(self, page: ManifestPage) -> tuple[Chunk, ...]:
        """Gives the chunks that are new. Raises DumpRestarted or ProtocolError."""
        if self.generation is None:
            if not page.parts:
                return ()
            self._begin(page)
        elif page.generation != self.generation:
            raise DumpRestarted(f"{self._peer} had to begin its dump again")
        self._take_parts(page.parts)
        self._take_chunks(page.chunks)
        if page.complete:
            self._digest = page.digest
            self._prove()
        return page.chunks

    @property
    def data_bytes(self) -> int:
        """The raw bytes of all data parts, once the dump is complete."""
        return sum(part.raw_bytes for part in self.parts.values() if part.kind == "data")

    # --- the parts ----------------------------------------------------------------------
    def _begin(self, page: ManifestPage) -> None:
        kinds = [part.kind for part in page.parts]
        if len(kinds) > MAX_PARTS or len({part.id for part in page.parts}) != len(kinds):
            raise self._refused("its parts are too many, or counted twice")
        schema = [kind for kind in kinds if kind in _SCHEMA_KINDS]
        if schema and self._request.schema == "none":
            raise self._refused("it brings table definitions, which nobody asked for")
        if len(schema) != len(set(schema)):
            raise self._refused("it brings its definitions twice")
        asked = set(self._request.compare)
        if any(part.probe is not None and part.table not in asked for part in page.parts):
            raise self._refused("it leaves rows out, which nobody asked for")
        if page.baseline is None or page.baseline.node_id != self._peer_id:
            raise self._refused("it does not say of which node it is")
        self.generation = page.generation
        self.baseline = page.baseline
        self.parts = {part.id: part for part in page.parts}
        self._in_part = dict.fromkeys(self.parts, (0, 0))

    def _take_parts(self, parts: tuple[Part, ...]) -> None:
        for part in parts:
            known = self.parts.get(part.id)
            if known is None or (known.kind, known.table) != (part.kind, part.table):
                raise self._refused(f"its part {part.id} was not there at the beginning")
            if known.done and known != part:
                raise self._refused(f"its part {part.id} changed after it was done")
            self.parts[part.id] = part

    # --- the chunks ---------------------------------------------------------------------
    def _take_chunks(self, chunks: tuple[Chunk, ...]) -> None:
        if len(chunks) > MAX_PAGE_CHUNKS or len(self.chunks) + len(chunks) > MAX_CHUNKS:
            raise self._refused("it has no end")
        for chunk in chunks:
            count, raw = self._in_part.get(chunk.part, (-1, 0))
            if chunk.number != len(self.chunks) or chunk.index != count:
                raise self._refused(f"chunk {chunk.number} is out of place")
            self._in_part[chunk.part] = (count + 1, raw + chunk.raw_size)
            self.wire_bytes += chunk.size
            self._raw_bytes += chunk.raw_size
            self.chunks.append(chunk)
        count = len(self.chunks)
        if count > FEW_CHUNKS and self._raw_bytes < count * SMALL_CHUNK_BYTES:
            raise self._refused("its chunks are too many and too small")
        if self.wire_bytes > self._limit_bytes:
            raise self._refused("it is many times larger than the plan said")

    def _prove(self) -> None:
        for part in self.parts.values():
            if not part.done or (part.chunks, part.raw_bytes) != self._in_part[part.id]:
                raise self._refused(f"its part {part.id} does not have what it says")
        if manifest_digest(self.chunks) != self._digest:
            raise self._refused("it does not have the digest that it announced")
        self.complete = True

    def _refused(self, reason: str) -> ProtocolError:
        return ProtocolError(
            f"the manifest of {self._peer} can't be right: {reason}",
            hint=f"Nothing was changed here. Is {self._peer} what it should be? "
            "If both run the same version, report this.",
        )
