"""Chunks: the same bytes come out, and nothing that was changed on the way is taken for them."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peersync.core.errors import CorruptData, ProtocolError
from peersync.wire.chunks import RAW_LIMIT_BYTES, ChunkCutter, manifest_digest, read_chunk
from peersync.wire.messages import MAX_CHUNK_BYTES, Chunk, Codec

MIB = 1 << 20
CODECS: tuple[Codec, ...] = ("zstd", "none")
here = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


def chunk_of(data: bytes, raw_size: int, codec: Codec = "zstd", number: int = 0) -> Chunk:
    digest = hashlib.sha256(data).hexdigest()
    return Chunk(
        number=number, part=0, index=number, digest=digest, size=len(data), raw_size=raw_size,
        codec=codec,
    )  # fmt: skip


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def cut(
    data: bytes, piece_bytes: int, codec: Codec = "zstd", target_bytes: int = 4096
) -> list[tuple[Chunk, bytes]]:
    cutter = ChunkCutter(codec, target_bytes=target_bytes)
    found: list[tuple[Chunk, bytes]] = []

    def take() -> None:
        digest, packed, raw_size = cutter.take()
        chunk = chunk_of(packed, raw_size, codec, len(found))
        assert chunk.digest == digest
        found.append((chunk, packed))

    for piece in pieces(data, piece_bytes):
        if cutter.add(piece):
            take()
    if cutter.raw_size:
        take()
    return found


def unpack(directory: Path, chunk: Chunk, data: bytes) -> bytes:
    path = directory / "chunk"
    path.write_bytes(data)
    return b"".join(read_chunk(path, chunk))


data = st.one_of(
    st.binary(max_size=20_000),
    st.builds(lambda text, times: text * times, st.binary(min_size=1, max_size=50),
              st.integers(1, 4000)),
)  # fmt: skip


@here
@given(data, st.integers(1, 9000), st.sampled_from(CODECS), st.sampled_from([1, 100, 4096, 65536]))
def test_any_cutting_gives_the_same_bytes(
    tmp_path: Path, data: bytes, piece: int, codec: Codec, target: int
) -> None:
    chunks = cut(data, max(piece, len(data) // 300 + 1), codec, target)
    assert b"".join(unpack(tmp_path, chunk, packed) for chunk, packed in chunks) == data
    assert sum(chunk.raw_size for chunk, _ in chunks) == len(data)


@here
@given(data, st.integers(100, 9000), st.sampled_from(CODECS))
def test_the_same_data_in_the_same_pieces_gives_the_same_chunks(
    data: bytes, piece: int, codec: Codec
) -> None:
    assert cut(data, piece, codec) == cut(data, piece, codec)


def test_a_chunk_begins_anew_so_an_equal_rest_gives_equal_chunks() -> None:
    """What a resume saves: chunks after the place where two dumps differ are not lost."""
    tail = random.Random(1).randbytes(64_000)
    one = cut(b"a" * 8192 + tail, 1024, "none", 8192)
    other = cut(b"b" * 8192 + tail, 1024, "none", 8192)
    assert [c.digest for c, _ in one[1:]] == [c.digest for c, _ in other[1:]]
    assert one[0][0].digest != other[0][0].digest


@pytest.mark.parametrize("codec", CODECS)
def test_a_chunk_is_never_too_large_for_the_wire(codec: Codec) -> None:
    noise = random.Random(2).randbytes(13 * MIB)
    for chunk, _ in cut(noise, 256 * 1024, codec, 4 * MIB):
        assert chunk.size <= MAX_CHUNK_BYTES
    zeros = cut(bytes(RAW_LIMIT_BYTES + 3 * MIB), MIB, codec, 4 * MIB)
    assert all(chunk.raw_size <= RAW_LIMIT_BYTES + MIB for chunk, _ in zeros)


# --- what is refused --------------------------------------------------------------------------
@here
@given(st.binary(min_size=1, max_size=5000), st.sampled_from(CODECS), st.data())
def test_a_flipped_bit_anywhere_is_refused(
    tmp_path: Path, data: bytes, codec: Codec, draw: st.DataObject
) -> None:
    ((chunk, packed),) = cut(data, MIB, codec, MIB)
    bit = draw.draw(st.integers(0, len(packed) * 8 - 1))
    damaged = bytearray(packed)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptData):
        unpack(tmp_path, chunk, bytes(damaged))


@here
@given(st.binary(min_size=1, max_size=5000), st.sampled_from(CODECS), st.data())
def test_a_cut_chunk_is_refused_wherever_it_is_cut(
    tmp_path: Path, data: bytes, codec: Codec, draw: st.DataObject
) -> None:
    ((chunk, packed),) = cut(data, MIB, codec, MIB)
    end = draw.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(CorruptData):
        unpack(tmp_path, chunk, packed[:end])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("more", [b"\0", b"more", None])
def test_trailing_bytes_are_refused(tmp_path: Path, codec: Codec, more: bytes | None) -> None:
    ((chunk, packed),) = cut(b"rows" * 100, MIB, codec, MIB)
    with pytest.raises(CorruptData):
        unpack(tmp_path, chunk, packed + (packed if more is None else more))


@pytest.mark.parametrize("told", [0, 399, 401])
def test_a_wrong_raw_size_is_refused_although_the_digest_fits(tmp_path: Path, told: int) -> None:
    ((chunk, packed),) = cut(b"rows" * 100, MIB, "zstd", MIB)
    lie = chunk_of(packed, told)
    assert lie.digest == chunk.digest
    with pytest.raises(ProtocolError, match="unpacks to"):
        unpack(tmp_path, lie, packed)


def test_a_bomb_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """512 MiB of zeros in 16 kB, announced as 1 MiB: at most that much and a piece come out."""
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    zeros = bytes(16 * MIB)
    bomb = b"".join(packer.compress(zeros) for _ in range(32)) + packer.flush()
    path = tmp_path / "bomb"
    path.write_bytes(bomb)
    seen = 0
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than the 1048576 bytes"):
            for piece in read_chunk(path, chunk_of(bomb, MIB)):
                seen += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen <= MIB
    assert peak < 4 * MIB


def test_a_window_larger_than_ours_is_refused(tmp_path: Path) -> None:
    """A frame may ask its reader for gigabytes of memory before it gives a byte."""
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    frame = packer.compress(bytes(9 * MIB)) + packer.flush()
    with pytest.raises(ProtocolError, match="memory"):
        unpack(tmp_path, chunk_of(frame, 9 * MIB), frame)


def test_the_end_of_a_damaged_chunk_is_never_given_out(tmp_path: Path) -> None:
    raw = random.Random(3).randbytes(3 * MIB)
    ((chunk, packed),) = cut(raw, MIB, "none", 4 * MIB)
    path = tmp_path / "chunk"
    path.write_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))
    seen = b""
    with pytest.raises(CorruptData, match="SHA-256"):
        for piece in read_chunk(path, chunk):
            seen += piece
    assert len(seen) < len(raw)
    assert raw.startswith(seen)


# --- the manifest -----------------------------------------------------------------------------
def test_the_digest_of_a_manifest_is_of_the_order_in_the_parts_not_of_arrival() -> None:
    chunks = [chunk for chunk, _ in cut(random.Random(4).randbytes(50_000), 1000, "none", 8000)]
    assert manifest_digest(chunks) == manifest_digest(reversed(chunks))
    assert manifest_digest(chunks) != manifest_digest(chunks[:-1])
    swapped = [chunk_of(b"x", 1), *chunks[1:]]
    assert manifest_digest(chunks) != manifest_digest(swapped)
