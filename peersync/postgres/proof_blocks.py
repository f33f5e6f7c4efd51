"""Kept digests in place of reading a table: told, or compared with a peer's.

In the caller's view of the database, which has to be REPEATABLE READ: the list, the log and the
rows are all of that view. Blocks that have changed since they were read are read in it now, the
others are taken as they are kept, and the result is what reading the table would have given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import asyncpg

from peersync.postgres.digest import with_ends
from peersync.postgres.digestform import (
    SETTINGS,
    Block,
    Bounds,
    Key,
    Range,
    Tally,
    both,
    bound_columns,
    bound_names,
    digest_sql,
    number_of,
    parameters,
    prefixed,
)
from peersync.postgres.keyorder import Order
from peersync.postgres.proof_lists import (
    SQL,
    Subject,
    changed_places,
    form_of,
    keepable,
    read_changed,
    read_subject,
)
from peersync.postgres.rowform import Shape

_BATCH: Final = 4096
_AHEAD: Final = 8192  # kept blocks among which one of the peer's is looked for
_RANGES_AT_ONCE: Final = 512
_WORTH: Final = 0.25  # of the blocks changed: then the table is read instead
_MASK: Final = (1 << 64) - 1

Upper = Callable[[], Key | None] | None


@dataclass
class Kept:
    """A list that counts in this view.

    used: how many blocks were not read because of it. oldest: when the first of them was read.
    """

    subject: Subject
    changed: frozenset[Decimal]
    oldest: datetime | None = None
    used: int = 0
    first: Decimal = field(default_factory=Decimal)

    def use(self, row: Any) -> None:
        self.used += 1
        if self.oldest is None or row["read_at"] < self.oldest:
            self.oldest = row["read_at"]


async def open_kept(
    conn: asyncpg.Connection, shape: Shape, lower: Key | None = None
) -> Kept | None:
    """The list of a table, from `lower` on; None where the table has to be read."""
    if not keepable(shape):
        return None
    name = shape.table
    row = await conn.fetchrow(SQL["find"], name.schema, name.name, form_of(shape))
    subject = await read_subject(conn, shape, row) if row is not None else None
    if subject is None:
        return None
    changed = await read_changed(conn, subject)
    if changed.whole:
        return None
    first = Decimal(0)
    if lower is not None:
        first = await conn.fetchval(SQL["place_of"], subject.number, list(lower))
    state = await conn.fetchrow(SQL["state"], subject.number)
    if first is None or state["unread"] or not state["blocks"]:
        return None
    places = await changed_places(conn, subject) if changed.any else set()
    if places is None or len(places) + state["marked"] > 8 + _WORTH * state["blocks"]:
        return None
    return Kept(subject, frozenset(places), first=first)


async def kept_total(conn: asyncpg.Connection, kept: Kept) -> tuple[int, int]:
    """Rows and digest of the whole table."""
    subject, changed = kept.subject, list(kept.changed)
    await conn.execute(SETTINGS + "off")
    row = await conn.fetchrow(SQL["total"], subject.number, changed)
    stale = await conn.fetch(SQL["stale"], subject.number, changed)
    if row["blocks"]:
        kept.used, kept.oldest = row["blocks"], row["read_at"]
    rows, digest = row["rows"], row["digest"] & _MASK
    ranges = [(_key(one["low"]), _key(one["high"])) for one in stale]
    for count, own in await hash_ranges(conn, subject.shape, subject.order, ranges):
        rows, digest = rows + count, digest ^ own
    return rows, digest


# --- the side that tells --------------------------------------------------------------------
async def kept_blocks(conn: asyncpg.Connection, kept: Kept) -> AsyncGenerator[list[Block], None]:
    """All blocks in order, those that have changed as they are now."""
    subject = kept.subject
    await conn.execute(SETTINGS + "off")
    cursor = await conn.cursor(SQL["kept"], subject.number, kept.first)
    while rows := await cursor.fetch(_BATCH):
        stale = [row for row in rows if _is_stale(row, kept)]
        now = await hash_ranges(
            conn, subject.shape, subject.order, [(_key(r["low"]), _key(r["high"])) for r in stale]
        )
        fresh = dict(zip((row["place"] for row in stale), now, strict=True))
        made: list[Block] = []
        for row in rows:
            if row["place"] in fresh:
                count, digest = fresh[row["place"]]
            else:
                kept.use(row)
                count, digest = row["rows"], row["digest"] & _MASK
            made.append(Block(_key(row["low"]), count, digest))
        yield made


def _is_stale(row: Any, kept: Kept) -> bool:
    return row["digest"] is None or row["place"] in kept.changed


def _key(texts: list[str] | None) -> Key | None:
    return None if texts is None else tuple(texts)


# --- the side that compares -----------------------------------------------------------------
async def compare_kept(
    conn: asyncpg.Connection,
    kept: Kept,
    there: AsyncIterator[list[Block]],
    upper: Upper = None,
    tally: Tally | None = None,
) -> AsyncGenerator[list[Range], None]:
    """As `digest.compare_blocks`; blocks that are kept between the same keys are not read."""
    subject = kept.subject
    tally = tally if tally is not None else Tally()
    await conn.execute(SETTINGS + "off")
    window = _Window(conn, kept)
    async for pairs in with_ends(there, upper):
        known = [await window.find(block.low, high) for block, high in pairs]
        unknown = [(b.low, h) for (b, h), own in zip(pairs, known, strict=True) if own is None]
        read = iter(await hash_ranges(conn, subject.shape, subject.order, unknown))
        found: list[Range] = []
        for (block, high), own in zip(pairs, known, strict=True):
            rows, digest = own or next(read)
            tally.blocks += 1
            tally.rows_there += block.rows
            tally.rows_here += rows
            if (rows, digest) != (block.rows, block.digest):
                tally.differing += 1
                found.append(Range(block.low, high, block.rows, rows))
        if found:
            yield found


class _Window:
    """The kept blocks from where the peer's are, as many as may be needed to find its next one."""

    def __init__(self, conn: asyncpg.Connection, kept: Kept) -> None:
        self._conn = conn
        self._kept = kept
        self._cursor: Any = None
        self._ended = False
        self._ahead: deque[Any] = deque()
        self._lows: set[Key | None] = set()

    async def find(self, low: Key | None, high: Key | None) -> tuple[int, int] | None:
        """Rows and digest of [low, high); None where the list does not say."""
        await self._fill()
        if low not in self._lows:
            return None
        while _key(self._ahead[0]["low"]) != low:
            self._lows.discard(_key(self._ahead.popleft()["low"]))
        rows = digest = 0
        for n, row in enumerate(self._ahead):
            if _is_stale(row, self._kept):
                return None
            rows, digest = rows + row["rows"], digest ^ (row["digest"] & _MASK)
            if row["last"] or _key(row["high"]) == high:
                if row["last"] and high is not None:
                    return None
                for used in range(n + 1):
                    self._kept.use(self._ahead[used])
                return rows, digest
        return None

    async def _fill(self) -> None:
        if self._cursor is None:
            self._cursor = await self._conn.cursor(
                SQL["kept"], self._kept.subject.number, self._kept.first
            )
        while not self._ended and len(self._ahead) < _AHEAD // 2:
            rows = await self._cursor.fetch(_AHEAD // 2)
            self._ended = len(rows) < _AHEAD // 2
            self._ahead += rows
            self._lows.update(_key(row["low"]) for row in rows)


# --- reading --------------------------------------------------------------------------------
async def hash_ranges(
    conn: asyncpg.Connection, shape: Shape, order: Order, ranges: Sequence[Bounds]
) -> list[tuple[int, int]]:
    """Rows and digest of each of these ranges of keys, by its index."""
    found: dict[int, tuple[int, int]] = {}
    closed = [n for n, one in enumerate(ranges) if None not in one]
    for at in range(0, len(closed), _RANGES_AT_ONCE):
        places = closed[at : at + _RANGES_AT_ONCE]
        rows = await _closed(conn, shape, order, [ranges[n] for n in places])
        found |= zip(places, rows, strict=True)
    for n, (low, high) in enumerate(ranges):
        if n not in found:
            sql = (
                f"SELECT count(*) AS rows, {digest_sql(shape)} AS digest FROM ({order.source}) "
                f"AS s WHERE {order.within(*parameters(low, high))}"
            )
            row = await conn.fetchrow(sql, *both(low, high))
            found[n] = row["rows"], number_of(shape, row["digest"])
    return [found[n] for n in range(len(ranges))]


async def _closed(
    conn: asyncpg.Connection, shape: Shape, order: Order, ranges: Sequence[Bounds]
) -> list[tuple[int, int]]:
    names = bound_names(order.width)
    lists = ", ".join(f"${n}::text[]" for n in range(1, 2 * order.width + 1))
    sql = (
        f"SELECT x.rows, x.digest FROM unnest({lists}) WITH ORDINALITY "
        f"AS b ({', '.join((*names[0], *names[1]))}, place) "
        f"CROSS JOIN LATERAL (SELECT count(*) AS rows, {digest_sql(shape)} AS digest "
        f"FROM ({order.source}) AS s WHERE {order.within(*prefixed(names))}) AS x ORDER BY b.place"
    )
    rows = await conn.fetch(sql, *bound_columns(ranges, order.width))
    return [(row["rows"], number_of(shape, row["digest"])) for row in rows]
