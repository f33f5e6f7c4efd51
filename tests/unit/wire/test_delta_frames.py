"""Digests on their way: whatever pieces the network makes of them, and whatever a peer sends."""

from __future__ import annotations

import struct

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from peersync.core.errors import ProtocolError
from peersync.wire.delta import Digest, Unpacker, pack

_KEYS = st.tuples(st.text(max_size=20), st.text(max_size=20))
_DIGESTS = st.lists(
    st.tuples(_KEYS, st.integers(0, 1 << 40), st.integers(0, (1 << 64) - 1)), max_size=30
)


def unpacked(data: bytes, piece: int) -> list[Digest]:
    unpacker = Unpacker()
    found = []
    for at in range(0, len(data), piece):
        for some in unpacker.feed(data[at : at + piece]):
            found += some
    unpacker.end()
    return found


@given(frames=st.lists(_DIGESTS, max_size=4), opened=st.booleans(), piece=st.integers(1, 500))
def test_what_is_packed_comes_out_again(
    frames: list[list[Digest]], opened: bool, piece: int
) -> None:
    if opened:
        frames = [[(None, 3, 7)], *frames]
    data = b"".join(pack(frame) for frame in frames)
    assert unpacked(data, piece) == [one for frame in frames for one in frame]


def test_the_digests_of_blocks_in_order_take_little_more_than_themselves() -> None:
    blocks: list[Digest] = [
        ((str(n * 64),), 64, n * 0x9E3779B97F4A7C15 % (1 << 64)) for n in range(4096)
    ]
    assert len(pack(blocks)) < 11 * len(blocks)


def framed(content: object) -> bytes:
    packed = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(content))
    return struct.pack("<I", len(packed)) + packed


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", 1 << 31),
        struct.pack("<I", 5) + b"12345",
        struct.pack("<I", 40) + zstandard.ZstdCompressor().compress(bytes(64 << 20))[:40],
        framed("x"),
        framed([False, [["a"]], [], b"12345678" * 2]),
        framed([False, [["a", "b"], ["c"]], [], b"12345678" * 2]),
        framed([False, [], [], b"12345678"]),
        framed([False, [["a"]], [1, 2], b"12345678"]),
        framed([False, [["a"]], [-1], b"12345678"]),
        framed([False, [["a"]], [], b"1234567"]),
        framed([False, [["a"] * 20_000], [], b"12345678" * 20_000]),
    ],
)
def test_what_is_no_list_of_digests_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpacked(data, 1 << 20)


def test_a_stream_that_ends_within_a_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="end too early"):
        unpacked(pack([(("1",), 1, 1)])[:-1], 100)
