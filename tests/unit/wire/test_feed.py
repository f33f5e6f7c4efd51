"""A feed on the wire: what was put in comes out, in small pieces, and nothing else does."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from peersync.core.errors import BadRequest, CorruptData, PeersyncError, ProtocolError
from peersync.wire.codec import decode_request, encode
from peersync.wire.feed import (
    MAX_HEAD_BYTES,
    FeedHead,
    FeedReader,
    FeedRequest,
    FeedWriter,
    ShapeInfo,
    TransactionHead,
)

GROUP = "00000000-0000-4000-8000-000000000001"
AT = "2026-01-01T00:00:00+00:00"
SHAPE = ShapeInfo(
    shape=-7, schema="public", table="t", columns=("a", "b"), types=("integer", "text"), key=("a",)
)


def transaction(position: int = 1, **changed: Any) -> TransactionHead:
    first = TransactionHead(
        origin=5, position=position, hlc=100 + position, kind="d", changes=1, at=AT, seen={6: 2}
    )
    return msgspec.structs.replace(first, **changed)


def head_of(*transactions: TransactionHead, shapes: tuple[ShapeInfo, ...] = (SHAPE,)) -> FeedHead:
    return FeedHead(
        group=GROUP,
        origin=5,
        unix_time=1.5,
        vector={5: 3, 6: 2},
        transactions=transactions,
        shapes=shapes,
        more=False,
    )


def answer(head: FeedHead, rows: bytes, piece: int = 1 << 16) -> bytes:
    writer = FeedWriter()
    out = [writer.head(head)]
    out += [writer.add(rows[i : i + piece]) for i in range(0, len(rows), piece)]
    return b"".join([*out, writer.end()])


def read(data: bytes, piece: int = 1 << 16) -> tuple[FeedHead, bytes]:
    reader = FeedReader()
    rows = b"".join(
        part for i in range(0, len(data), piece) for part in reader.feed(data[i : i + piece])
    )
    reader.end()
    assert reader.head is not None
    return reader.head, rows


# --- what goes through ------------------------------------------------------------------------
ROWS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\0\n\t\\"), max_size=20),
    min_size=0,
    max_size=20,
).map(lambda found: b"".join(text.encode() + b"\\\\\\n\t\\N\n" for text in found))


@given(rows=ROWS, piece=st.integers(1, 300), cut=st.integers(1, 300))
def test_rows_come_out_as_they_went_in_however_they_are_cut(
    rows: bytes, piece: int, cut: int
) -> None:
    head = head_of(transaction(changes=rows.count(b"\n")))
    assert read(answer(head, rows, piece), cut) == (head, rows)


def test_rows_come_in_small_pieces_whatever_they_unpack_to() -> None:
    """40 MB of one byte travel as a few kilobytes, and are never in memory together."""
    rows = b"a" * (40 << 20) + b"\n"
    data = answer(head_of(transaction()), rows, 1 << 20)
    assert len(data) < 10_000
    reader = FeedReader()
    tracemalloc.start()
    sizes = [len(part) for part in reader.feed(data)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.end()
    assert sum(sizes) == len(rows)
    assert max(sizes) <= 128 << 10
    assert peak < 4 << 20


def test_an_empty_feed_is_whole() -> None:
    head = head_of(shapes=())
    assert read(answer(head, b"")) == (head, b"")


def test_a_left_out_seen_is_that_of_the_same_origin_before() -> None:
    head = head_of(
        transaction(1, seen={6: 1}),
        transaction(1, origin=9, seen={}),
        transaction(2, seen=None),
        transaction(3, seen={6: 4}),
    )
    assert head.seens == ({6: 1}, {}, {6: 1}, {6: 4})


def test_a_newer_peer_may_say_more() -> None:
    head = msgspec.to_builtins(head_of(transaction()))
    head["news"] = head["transactions"][0]["news"] = 1
    data = encode(head)
    whole = len(data).to_bytes(4, "big") + data + _flushed_all(b"1\n")
    assert read(whole)[0] == head_of(transaction())


def _flushed_all(rows: bytes) -> bytes:
    writer = FeedWriter()
    return writer.add(rows) + writer.end()


# --- what does not ----------------------------------------------------------------------------
GOOD = answer(head_of(transaction(changes=2)), b"1\tx\n2\ty\n")


@pytest.mark.parametrize("size", range(0, len(GOOD), 7))
def test_a_cut_answer_is_noticed(size: int) -> None:
    with pytest.raises((CorruptData, ProtocolError)):
        read(GOOD[:size])


def test_what_follows_is_noticed() -> None:
    for more in (b"\0", b"\x28\xb5\x2f\xfd", _flushed_all(b"3\n")):
        with pytest.raises(ProtocolError, match="follows"):
            read(GOOD + more)
        with pytest.raises(ProtocolError, match="follows"):
            read(GOOD + more, 1)


@settings(max_examples=300)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(1, 255), cut=st.integers(1, 300))
def test_a_changed_byte_gives_an_error_or_the_same_rows(at: int, byte: int, cut: int) -> None:
    """In the head a byte may change what is said; the rows are under the checksum."""
    changed = bytearray(GOOD)
    changed[at] ^= byte
    with contextlib.suppress(PeersyncError):
        assert read(bytes(changed), cut)[1] == b"1\tx\n2\ty\n"


@settings(max_examples=300)
@given(data=st.binary(max_size=300), cut=st.integers(1, 300))
def test_any_bytes_after_a_good_head_are_refused(data: bytes, cut: int) -> None:
    with pytest.raises(PeersyncError):
        read(FeedWriter.head(head_of(transaction())) + data, cut)
    with pytest.raises(PeersyncError):
        read(FeedWriter.head(head_of(transaction())) + b"\x28\xb5\x2f\xfd\x04" + data, cut)


def test_a_frame_without_a_checksum_is_refused() -> None:
    compress = zstandard.ZstdCompressor(write_checksum=False).compressobj()
    data = compress.compress(b"1\n") + compress.flush()
    with pytest.raises(ProtocolError, match="checksum"):
        read(FeedWriter.head(head_of(transaction())) + data)


def test_a_frame_that_wants_a_large_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_checksum=True)
    compress = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compress.compress(b"1\n") + compress.flush()
    with pytest.raises(CorruptData, match="memory"):
        read(FeedWriter.head(head_of(transaction())) + data)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (b"\\.\n", "mark"),
        (b"1\tx\\.y\n", "mark"),
        (b"1\tx\\\\\\.y\n", "mark"),
        (b"1\tx\\\ny\n", "mark"),
        (b"1\tx\ry\n", "carriage return"),
        (b"1\tx\0y\n", "NUL"),
        (b"1\tx", "inside a row"),
        (b"1\n2\n", "2 rows instead of 1"),
        (b"", "0 rows instead of 1"),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_rows_that_no_server_writes_are_refused(rows: bytes, complaint: str, piece: int) -> None:
    compress = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    data = FeedWriter.head(head_of(transaction()))
    for i in range(0, len(rows), piece):  # each piece is a block of its own
        data += compress.compress(rows[i : i + piece])
        data += compress.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    data += compress.flush()
    with pytest.raises(ProtocolError, match=complaint):
        read(data)


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_escaped_backslashes_in_front_of_a_dot_are_no_mark(piece: int) -> None:
    rows = b"1\t\\\\.\\\\\\\\.\\\\\n"
    head = head_of(transaction())
    assert read(answer(head, rows, piece)) == (head, rows)


@pytest.mark.parametrize(
    ("transactions", "complaint"),
    [
        ([transaction(seen=None)], "saw"),
        ([transaction(1), transaction(3)], "follows"),
        ([transaction(2), transaction(1)], "follows"),
        ([transaction(1), transaction(2, hlc=101)], "follows"),
        ([transaction(seen={5: 1})], "its own origin"),
        ([transaction(kind="b")], "may not have changes"),
        ([transaction(kind="z")], "Invalid enum"),
        ([transaction(position=0)], ">= 1"),
        ([transaction(changes=-1)], ">= 0"),
        ([transaction(origin=1 << 53)], "<= 9007199254740991"),
        ([transaction(hlc=1 << 63)], "hlc"),
        ([transaction(seen={-1: 1})], "seen"),
    ],
)
def test_a_head_that_no_peer_sends_is_refused(
    transactions: list[TransactionHead], complaint: str
) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        read(answer(head_of(*transactions), b"1\n" * len(transactions)))


@pytest.mark.parametrize(
    "shapes",
    [
        (SHAPE, SHAPE),
        (msgspec.structs.replace(SHAPE, types=("integer",)),),
        (msgspec.structs.replace(SHAPE, key=("c",)),),
        (msgspec.structs.replace(SHAPE, table=""),),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[ShapeInfo, ...]) -> None:
    with pytest.raises(ProtocolError):
        read(answer(head_of(transaction(), shapes=shapes), b"1\n"))


@pytest.mark.parametrize("length", [0, MAX_HEAD_BYTES + 1, (1 << 32) - 1])
def test_a_head_of_any_length_is_not_waited_for(length: int) -> None:
    with pytest.raises(ProtocolError, match="head of"):
        list(FeedReader().feed(length.to_bytes(4, "big")))


# --- the question -----------------------------------------------------------------------------
ASKED = FeedRequest(database="shop", group=GROUP, origin=5, vector={5: 1})


def test_a_question_comes_back_as_it_was() -> None:
    assert decode_request(encode(ASKED), FeedRequest) == ASKED


@pytest.mark.parametrize(
    "changed",
    [
        {"database": ""},
        {"group": "x"},
        {"origin": 0},
        {"vector": {0: 1}},
        {"vector": {1: -1}},
        {"wait_s": 61},
        {"max_changes": 0},
        {"max_bytes": 0},
        {"transactions": 10_001},
    ],
)
def test_a_question_out_of_bounds_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        decode_request(encode(msgspec.structs.replace(ASKED, **changed)), FeedRequest)
