"""Feeds from a real log: what a peer is given, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from typing import Any

import asyncpg
import pytest

from peersync.core.errors import DatabaseError, NotFound, ResyncRequired
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import Replica, add_member, read_vector
from peersync.postgres.log.publish import announce, publish
from peersync.wire.feed import COLUMNS, FeedHead, FeedReader, FeedRequest
from tests.integration.log_rig import SHAPE, Connect, make_log

ASKER, THIRD = 77, 99


@pytest.fixture
async def conn(open_log: Connect) -> asyncpg.Connection:
    return await open_log()


@pytest.fixture
async def replica(conn: asyncpg.Connection) -> Replica:
    replica = await make_log(conn)
    await add_member(conn, ASKER, "b" * 32, "beta")
    await add_member(conn, THIRD, "c" * 32, "gamma")
    return replica


def request(replica: Replica, vector: dict[int, int] | None = None, **limits: Any) -> FeedRequest:
    return FeedRequest(
        database="shop", group=replica.group_id, origin=ASKER, vector=vector or {}, **limits
    )


async def fetch(conn: asyncpg.Connection, wanted: FeedRequest) -> tuple[FeedHead, list[list[str]]]:
    """A frame as the peer reads it: its head, and its rows as lists of text."""
    reader = FeedReader()
    rows = bytearray()

    async def write(data: bytes) -> None:
        for piece in reader.feed(data):
            rows.extend(piece)

    feed = await open_feed(conn, wanted)
    await feed.send(write)
    reader.end()
    assert reader.head == feed.head
    return feed.head, [line.split("\t") for line in rows.decode().splitlines()]


async def write_rows(conn: asyncpg.Connection, *counts: int) -> None:
    """One published transaction for each count, of that many rows."""
    for count in counts:
        await conn.execute(
            "INSERT INTO acc SELECT coalesce((SELECT max(id) FROM acc), 0) + i, 0 "
            "FROM generate_series(1, $1::int) i",
            count,
        )
    await publish(conn)


async def relay(
    conn: asyncpg.Connection, origin: int, position: int, hlc: int, seen: str = "{}"
) -> None:
    """As if a transaction of another origin had been applied here, and kept."""
    await conn.execute(
        'INSERT INTO peersync.transaction (origin, position, hlc, changes, bytes, seen) '
        "VALUES ($1, $2, $3, 1, 10, $4::jsonb)",
        origin, position, hlc, seen,
    )  # fmt: skip
    await conn.execute(
        "INSERT INTO peersync.relayed (origin, position, ordinal, at, tbl, shape, op, key, image) "
        f"VALUES ($1, $2, 1, now(), 1, {SHAPE}, 'I', '(' || $3 || ')', '(' || $3 || ',1)')",
        origin, position, str(1000 + position),
    )  # fmt: skip
    await conn.execute(
        "UPDATE peersync.member SET applied = $2 WHERE origin = $1", origin, position
    )


def places(head: FeedHead) -> list[tuple[int, int]]:
    return [(t.origin, t.position) for t in head.transactions]


# --- what is in a frame -----------------------------------------------------------------------
@pytest.mark.parametrize("database", [15, 18], indirect=True)
async def test_a_peer_is_given_what_comes_after_its_vector(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 2, 1)
    head, rows = await fetch(conn, request(replica))
    assert places(head) == [(replica.origin, 1), (replica.origin, 2)]
    assert [t.changes for t in head.transactions] == [2, 1]
    assert head.vector == await read_vector(conn)
    assert not head.more
    own = str(replica.origin)
    got = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    assert [(r["origin"], r["position"], r["op"], r["key"], r["image"], r["old"]) for r in got] == [
        (own, "1", "I", "(1)", "(1,0)", r"\N"),
        (own, "1", "I", "(2)", "(2,0)", r"\N"),
        (own, "2", "I", "(3)", "(3,0)", r"\N"),
    ]
    head, rows = await fetch(conn, request(replica, {replica.origin: 1}))
    assert places(head) == [(replica.origin, 2)]
    assert [row[1] for row in rows] == ["2"]
    head, rows = await fetch(conn, request(replica, {replica.origin: 2}))
    assert (head.transactions, rows, head.more, head.shapes) == ((), [], False, ())


async def test_others_changes_are_handed_on_in_the_order_of_time_but_never_the_askers_own(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 1)
    hlc = await conn.fetchval("SELECT hlc FROM peersync.replica")
    await relay(conn, THIRD, 1, hlc - 10)
    await relay(conn, ASKER, 1, hlc - 5)
    await relay(conn, THIRD, 2, hlc + 5)
    await conn.execute("UPDATE peersync.replica SET hlc = hlc + 5")
    await write_rows(conn, 1)
    feed = await open_feed(conn, request(replica))
    assert feed.own_position == 2
    await feed.close()
    head, rows = await fetch(conn, request(replica))
    own = replica.origin
    assert places(head) == [(THIRD, 1), (own, 1), (THIRD, 2), (own, 2)]
    assert [(int(row[0]), int(row[1])) for row in rows] == places(head)
    assert [t.seen for t in head.transactions] == [{}, {}, None, {ASKER: 1, THIRD: 2}]


async def test_announcements_travel_with_what_they_say(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await announce(conn, "j", {"origin": 5, "name": "δelta"})
    head, rows = await fetch(conn, request(replica))
    assert [(t.kind, t.changes, t.info) for t in head.transactions] == [
        ("j", 0, {"origin": 5, "name": "δelta"})
    ]
    assert rows == []


async def test_only_the_shapes_of_a_frame_are_described(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await conn.execute(
        "INSERT INTO peersync.shape SELECT shape, schema_name, table_name, columns, types, key "
        "FROM peersync.shape UNION ALL "  # twice is allowed
        "SELECT 5, 'public', 'other', '{a}', '{text}', '{}'"
    )
    await write_rows(conn, 1)
    head, _ = await fetch(conn, request(replica))
    (shape,) = head.shapes
    assert (shape.shape, shape.schema, shape.table) == (SHAPE, "public", "acc")
    assert (shape.columns, shape.types, shape.key) == (
        ("id", "n"), ("integer", "integer"), ("id",),
    )  # fmt: skip


async def test_a_change_that_nobody_could_read_is_not_sent(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 1)
    await conn.execute("DELETE FROM peersync.shape")
    with pytest.raises(DatabaseError, match="nobody knows its columns"):
        await open_feed(conn, request(replica))
    assert not conn.is_in_transaction()


async def test_any_text_arrives_as_it_was(conn: asyncpg.Connection, replica: Replica) -> None:
    texts = ["\\.", "a\nb", "\r\n", "\t", "\\N", "", "\\", 'ü"(', "\\\\.", "\x01", None]
    for text in texts:
        await conn.execute(
            "INSERT INTO peersync.change (tbl, shape, op, key, image) VALUES (1, $1, 'I', 'k', $2)",
            SHAPE, text,
        )  # fmt: skip
    await publish(conn)
    reader = FeedReader()
    rows = io.BytesIO()

    async def write(data: bytes) -> None:
        for piece in reader.feed(data):
            rows.write(piece)

    await (await open_feed(conn, request(replica))).send(write)
    reader.end()
    rows.seek(0)
    await conn.execute(
        "CREATE TEMP TABLE got (origin bigint, position bigint, ordinal bigint, at timestamptz,"
        'shape bigint, op "char", key text, image text, old text)'
    )
    await conn.copy_to_table("got", source=rows)
    assert [r["image"] for r in await conn.fetch("SELECT image FROM got ORDER BY ordinal")] == texts


# --- how much ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("limits", "frames"),
    [
        ({"max_changes": 4}, [[1, 2], [3], [4], [5]]),
        ({"max_changes": 1}, [[1], [2], [3], [4], [5]]),
        ({"transactions": 2}, [[1, 2], [3, 4], [5]]),
        ({"max_bytes": 30}, [[1, 2], [3], [4], [5]]),  # eight bytes a row
        ({}, [[1, 2, 3, 4, 5]]),
    ],
)
async def test_frames_are_bounded_and_each_transaction_is_whole_and_comes_once(
    conn: asyncpg.Connection, replica: Replica, limits: dict[str, int], frames: list[list[int]]
) -> None:
    await write_rows(conn, 1, 2, 3, 7, 1)
    own = replica.origin
    got, vector, more = [], 0, True
    while more:
        head, rows = await fetch(conn, request(replica, {own: vector}, **limits))
        got.append([t.position for t in head.transactions])
        assert len(rows) == head.changes
        vector, more = head.transactions[-1].position, head.more
    assert got == frames


async def test_a_head_and_its_rows_are_of_one_view(
    conn: asyncpg.Connection, open_log: Connect, replica: Replica
) -> None:
    await write_rows(conn, 1, 1)
    other = await open_log()
    feed = await open_feed(conn, request(replica))
    await write_rows(other, 1)
    await other.execute("DELETE FROM peersync.change; DELETE FROM peersync.transaction")
    reader = FeedReader()

    async def write(data: bytes) -> None:
        for _ in reader.feed(data):
            pass

    await feed.send(write)
    reader.end()
    assert places(feed.head) == [(replica.origin, 1), (replica.origin, 2)]


@pytest.mark.parametrize(("rows", "width"), [(200_000, 10), (1, 30_000_000)])
async def test_memory_holds_no_more_than_a_row(
    conn: asyncpg.Connection, replica: Replica, rows: int, width: int
) -> None:
    await conn.execute(
        "INSERT INTO peersync.change (tbl, shape, op, key, image) "
        "SELECT 1, $1, 'U', '(' || i || ')', repeat(md5(i::text), $2) "
        "FROM generate_series(1, $3::int) i",
        SHAPE, width // 32 + 1, rows,
    )  # fmt: skip
    await publish(conn)
    feed = await open_feed(conn, request(replica))
    sent = 0

    async def write(data: bytes) -> None:
        nonlocal sent
        sent += len(data)

    tracemalloc.start()
    await feed.send(write)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent > 1000
    assert peak < 4_000_000 + 3 * width


async def test_a_peer_that_goes_away_leaves_the_connection_usable(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 50_000)
    feed = await open_feed(conn, request(replica, max_changes=1))
    written = 0

    async def write(data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await feed.send(write)
    assert not conn.is_in_transaction()
    assert len((await fetch(conn, request(replica)))[1]) == 50_000


async def test_compression_can_be_left_to_a_thread(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 50_000)
    reader = FeedReader()
    rows = calls = 0

    async def write(data: bytes) -> None:
        nonlocal rows
        for piece in reader.feed(data):
            rows += piece.count(b"\n")

    async def in_thread(work: Any, data: bytes) -> bytes:
        nonlocal calls
        calls += 1
        packed: bytes = await asyncio.to_thread(work, data)
        return packed

    await (await open_feed(conn, request(replica))).send(write, in_thread=in_thread)
    reader.end()
    assert rows == 50_000
    assert calls > 5


# --- what can't be given ----------------------------------------------------------------------
async def test_what_has_left_the_log_is_said_and_not_stepped_over(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await write_rows(conn, 1, 1, 1)
    own = replica.origin
    await conn.execute("DELETE FROM peersync.transaction WHERE position <= 2")
    await conn.execute("UPDATE peersync.member SET floor = 2 WHERE origin = $1", own)
    with pytest.raises(ResyncRequired) as caught:
        await open_feed(conn, request(replica, {own: 1}))
    assert caught.value.data == {"floors": {str(own): 2}}
    assert not conn.is_in_transaction()
    assert places((await fetch(conn, request(replica, {own: 2})))[0]) == [(own, 3)]


async def test_a_hole_without_a_floor_is_no_end_either(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    """A transaction of another origin that was applied here and not kept."""
    hlc = await conn.fetchval("SELECT hlc FROM peersync.replica")
    await relay(conn, THIRD, 3, hlc + 1)
    for known in ({}, {THIRD: 1}):
        with pytest.raises(ResyncRequired) as caught:
            await open_feed(conn, request(replica, known))
        assert caught.value.data == {"floors": {str(THIRD): 2}}
    assert places((await fetch(conn, request(replica, {THIRD: 2})))[0]) == [(THIRD, 3)]
    await conn.execute("DELETE FROM peersync.transaction")
    with pytest.raises(ResyncRequired) as caught:
        await open_feed(conn, request(replica, {THIRD: 2}))
    assert caught.value.data == {"floors": {str(THIRD): 3}}


async def test_without_periodic_sync_there_is_no_feed(
    conn: asyncpg.Connection, replica: Replica
) -> None:
    await conn.execute("DELETE FROM peersync.replica")
    with pytest.raises(NotFound):
        await open_feed(conn, request(replica))
