"""One frame of the log, for a peer: what comes after its vector, in an order it can be applied in.

Owns what is in a frame (own transactions and kept ones of others, never the asker's own, never
past something that is not here any more) and how it is read: one view for the head and the
rows, streamed, so that memory holds one row and not the transaction that it belongs to. Who
may ask, and when it is worth it, is decided by the caller.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import asyncpg
import msgspec

from peersync.core.errors import DatabaseError, NotFound, ResyncRequired
from peersync.postgres.log.members import decode_vector, encode_vector, read_replica, read_vector
from peersync.postgres.sqlfiles import queries
from peersync.wire.feed import FeedHead, FeedRequest, FeedWriter, ShapeInfo, TransactionHead

_SQL: Final = queries("feed")
_PIECE_BYTES: Final = 256 * 1024

Write = Callable[[bytes], Awaitable[None]]


class RunInThread(Protocol):
    """As `agent.workers.Workers.run`."""

    async def __call__(self, work: Callable[[bytes], bytes], data: bytes, /) -> bytes: ...


class OpenFeed:
    """A frame whose head is read and whose rows are not yet. `send` or `close` ends it.

    `own_position` is the highest position of this database that is in it, 0 for none.
    """

    def __init__(
        self,
        conn: asyncpg.Connection,
        transaction: Any,
        head: FeedHead,
        ranges: tuple[list[int], list[int], list[int]],
    ) -> None:
        self.head = head
        self.own_position = max(
            (t.position for t in head.transactions if t.origin == head.origin), default=0
        )
        self._conn = conn
        self._transaction = transaction
        self._ranges = ranges

    async def send(self, write: Write, *, in_thread: RunInThread | None = None) -> None:
        """Gives the whole answer to `write`, head first, in pieces, and closes.

        Compresses by `in_thread`, where given, what is too large for the loop.
        """
        out = _Compressed(write, in_thread)
        try:
            await write(FeedWriter.head(self.head))
            if self.head.changes:
                await self._conn.copy_from_query(_SQL["rows"], *self._ranges, output=out.add)
            await out.end()
        finally:
            await self.close()

    async def close(self) -> None:
        """Ends the view; harmless when it has ended."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None and not self._conn.is_closed():
            await transaction.rollback()


async def open_feed(conn: asyncpg.Connection, wanted: FeedRequest) -> OpenFeed:
    """Reads the head of the next frame; the connection is the feed's until it is closed.

    Raises ResyncRequired where the asker lacks what has left the log, with the floors as
    `data["floors"]` {origin: position}; NotFound where there is no periodic sync.
    """
    transaction = conn.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await conn.execute(_SQL["plans"])
        return await _open(conn, transaction, wanted)
    except BaseException:
        if not conn.is_closed():
            await transaction.rollback()
        raise


async def _open(conn: asyncpg.Connection, transaction: Any, wanted: FeedRequest) -> OpenFeed:
    replica = await read_replica(conn)
    if replica is None:
        raise NotFound("this database takes part in no periodic sync")
    unix_time = time.time()
    vector = await read_vector(conn)
    asked = encode_vector(wanted.vector)
    only = replica.origin if replica.direction == "give" else None
    await _refuse_gaps(conn, wanted.origin, asked, only)
    rows = await conn.fetch(
        _SQL["transactions"],
        wanted.origin,
        asked,
        wanted.max_changes,
        wanted.max_bytes,
        wanted.transactions,
        only,
    )
    fitting = next((i for i, row in enumerate(rows) if row["left_over"]), len(rows))
    transactions = tuple(_heads(rows[:fitting], rows_too=wanted.rows))
    ranges = _ranges(transactions if wanted.rows else ())
    head = FeedHead(
        group=replica.group_id,
        origin=replica.origin,
        unix_time=unix_time,
        vector=vector,
        transactions=transactions,
        shapes=await _shapes(conn, ranges),
        more=fitting < len(rows),
    )
    return OpenFeed(conn, transaction, head, ranges)


async def _refuse_gaps(conn: asyncpg.Connection, asker: int, vector: str, only: int | None) -> None:
    gaps = await conn.fetch(_SQL["gaps"], asker, vector, only)
    if gaps:
        raise ResyncRequired(
            "the peer lacks changes that have left the log here",
            hint="on the peer: peersync rebaseline PEER --database NAME",
            floors={str(row["origin"]): row["floor"] for row in gaps},
        )


def _heads(rows: Sequence[Mapping[str, Any]], *, rows_too: bool) -> Iterator[TransactionHead]:
    last: dict[int, str] = {}
    for row in rows:
        origin, seen = row["origin"], row["seen"]
        yield TransactionHead(
            origin=origin,
            position=row["position"],
            hlc=row["hlc"],
            kind=row["kind"],
            changes=row["changes"] if rows_too else 0,
            at=row["at"],
            seen=None if last.get(origin) == seen else decode_vector(seen),
            info=None if row["info"] is None else msgspec.json.decode(row["info"], type=dict),
        )
        last[origin] = seen


def _ranges(transactions: Sequence[TransactionHead]) -> tuple[list[int], list[int], list[int]]:
    """Origins, the position before the first of each, and the last: there is no gap between."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for t in transactions:
        first.setdefault(t.origin, t.position - 1)
        last[t.origin] = t.position
    return list(first), list(first.values()), [last[origin] for origin in first]


async def _shapes(
    conn: asyncpg.Connection, ranges: tuple[list[int], list[int], list[int]]
) -> tuple[ShapeInfo, ...]:
    found = []
    for row in await conn.fetch(_SQL["shapes"], *ranges):
        if row["columns"] is None:
            raise DatabaseError(
                f"the log has changes of shape {row['shape']}, and nobody knows its columns",
                hint="peersync.shape has lost a row: report this",
            )
        found.append(
            ShapeInfo(
                shape=row["shape"],
                schema=row["schema_name"],
                table=row["table_name"],
                columns=tuple(row["columns"]),
                types=tuple(row["types"]),
                key=tuple(row["key"]),
            )
        )
    return tuple(found)


class _Compressed:
    """Collects small pieces, cuts large ones, and writes what zstd makes of them."""

    def __init__(self, write: Write, in_thread: RunInThread | None) -> None:
        self._write = write
        self._in_thread = in_thread
        self._writer = FeedWriter()
        self._kept: list[bytes] = []
        self._size = 0

    async def add(self, data: bytes) -> None:
        if len(data) < _PIECE_BYTES:
            self._kept.append(data)
            self._size += len(data)
            if self._size >= _PIECE_BYTES:
                await self._flush()
            return
        await self._flush()
        view = memoryview(data)  # a single row may be as large as a row can be
        for start in range(0, len(data), _PIECE_BYTES):
            await self._compress(bytes(view[start : start + _PIECE_BYTES]))

    async def end(self) -> None:
        await self._flush()
        await self._write(self._writer.end())

    async def _flush(self) -> None:
        if self._kept:
            data = b"".join(self._kept)
            self._kept, self._size = [], 0
            await self._compress(data)

    async def _compress(self, data: bytes) -> None:
        if self._in_thread is None or len(data) < _PIECE_BYTES:
            packed = self._writer.add(data)
        else:
            packed = await self._in_thread(self._writer.add, data)
        if packed:
            await self._write(packed)
