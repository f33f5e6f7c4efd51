"""A stream cut into chunks: each its own zstd frame, named by the SHA-256 of its bytes.

Cutting depends on the content alone, so the same rows dumped a second time give the
same chunks, and what the other side has already is not sent again. zstd is not trusted
with anything: it neither notices a cut frame nor bounds what it unpacks (a 64 kB frame
can hold 2 GiB), so lengths and digests are checked here, on both sides of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from peersync.core.errors import CorruptData, PeersyncError, ProtocolError
from peersync.wire.messages import MAX_CHUNK_RAW_BYTES, Chunk, Codec

RAW_LIMIT_BYTES = MAX_CHUNK_RAW_BYTES // 2
_READ_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
_WINDOW_LIMIT_BYTES = 8 * 1024 * 1024


class ChunkCutter:
    """Collects a stream and gives back one finished chunk at a time.

    `target_bytes` is what a chunk aims at on the wire; it is never twice as large.
    """

    def __init__(self, codec: Codec, *, level: int = 1, target_bytes: int = 4 << 20) -> None:
        self._codec = codec
        self._target_bytes = target_bytes
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._begin()

    def _begin(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self.raw_size = 0
        self._frame = self._compressor.compressobj() if self._codec == "zstd" else None

    def add(self, data: bytes) -> bool:
        """Takes a piece of at most 1 MiB; True when the chunk is full and must be taken."""
        piece = self._frame.compress(data) if self._frame else data
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
        self.raw_size += len(data)
        return self._size >= self._target_bytes or self.raw_size >= RAW_LIMIT_BYTES

    def take(self) -> tuple[str, bytes, int]:
        """The chunk so far: its digest, its bytes for the wire, and its raw size."""
        if self._frame:
            self._pieces.append(self._frame.flush())
        data = b"".join(self._pieces)
        raw_size = self.raw_size
        self._begin()
        return hashlib.sha256(data).hexdigest(), data, raw_size


def read_chunk(path: Path, chunk: Chunk) -> Iterator[bytes]:
    """The raw bytes of a chunk file in small pieces, proved by digest and length.

    Raises CorruptData when the file is not what its name and the manifest say. The
    last piece is only given out after the proof, so a reader that stops at the error
    has never seen the end of a damaged chunk. A file that has the right digest and still
    is not what was announced is no damage but a lie: ProtocolError, which no retry mends.
    """
    digest = hashlib.sha256()
    raw_seen = 0
    held = b""
    for piece in _unpacked(path, chunk, digest):
        raw_seen += len(piece)
        if raw_seen > chunk.raw_size:
            raise _wrong(path, chunk, f"it unpacks to more than the {chunk.raw_size} bytes")
        if held:
            yield held
        held = piece
    if digest.hexdigest() != chunk.digest:
        raise _corrupt(chunk, "its SHA-256 is not the one announced")
    if raw_seen != chunk.raw_size:
        raise _wrong(path, chunk, f"it unpacks to {raw_seen} bytes instead of {chunk.raw_size}")
    if held:
        yield held


class _HashingReader:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO, digest: hashlib._Hash) -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


def _unpacked(path: Path, chunk: Chunk, digest: hashlib._Hash) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        reader = _HashingReader(file, digest)
        if chunk.codec == "zstd":
            # Not decompressobj(): one call of it returns all that its input unpacks to.
            decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT_BYTES)
            frame = decompressor.stream_reader(cast("BinaryIO", reader), read_size=_READ_BYTES)
            try:
                while piece := frame.read(_PIECE_BYTES):
                    yield piece
            except zstandard.ZstdError as exc:
                raise _wrong(path, chunk, str(exc)) from exc
        else:
            while piece := reader.read(_PIECE_BYTES):
                yield piece
        while reader.read(_READ_BYTES):
            pass


def _wrong(path: Path, chunk: Chunk, reason: str) -> PeersyncError:
    """Damage on the way or on this disk, or what the peer really sent: the digest tells."""
    if hashlib.sha256(path.read_bytes()).hexdigest() != chunk.digest:
        return _corrupt(chunk, reason)
    return ProtocolError(
        f"chunk {chunk.number} of the backup is not what the peer announced: {reason}",
        hint="Nothing of it was applied. If that server was not tampered with, report this.",
    )


def _corrupt(chunk: Chunk, reason: str) -> CorruptData:
    return CorruptData(
        f"chunk {chunk.number} of the backup is damaged: {reason}",
        hint="It is fetched again. If this repeats, check the disk of the spool directory.",
    )


def manifest_digest(chunks: Iterable[Chunk]) -> str:
    """SHA-256 over every chunk's place and digest, in order of part and index."""
    digest = hashlib.sha256()
    for chunk in sorted(chunks, key=lambda c: (c.part, c.index)):
        digest.update(f"{chunk.part} {chunk.index} {chunk.raw_size} {chunk.digest}\n".encode())
    return digest.hexdigest()
