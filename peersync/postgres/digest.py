"""Digests of a table by ranges of its key, and where two servers' digests differ.

One side cuts its rows, in the order of the key, into blocks of 64 and tells of each where it
begins, how many rows it has and the xor of their hashes. The other side counts and hashes its own
rows of the same ranges. Ranges are half open, the first and the last one open, so no row of
either side is left out or counted twice. Neither list is ever whole in memory.

Everything here runs in a transaction of the caller, who decides of which view, and how long it
may last. `compare_blocks` of a key without an index in its order makes a temporary table, so that
transaction must not be read only. Connections have the settings of `pool.PINNED`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final

import asyncpg

from peersync.postgres.digestform import (
    BATCH,
    PAGE_CHARACTERS,
    SETTINGS,
    Block,
    Key,
    Pace,
    Range,
    RowHash,
    Tally,
    both,
    bound_columns,
    bound_names,
    digest_sql,
    key_characters,
    key_of,
    number_of,
    parameters,
    plain_sql,
    prefixed,
    stored_text,
    zero_sql,
)
from peersync.postgres.keyorder import Order, read_order
from peersync.postgres.rangerows import row_hashes
from peersync.postgres.rowform import Shape, row_hash
from peersync.postgres.sqlfiles import queries

__all__ = [
    "BATCH",
    "ROWS_IN_BLOCK",
    "Block",
    "Key",
    "Range",
    "RowHash",
    "Shape",
    "Tally",
    "blocks",
    "compare_blocks",
    "probe",
    "row_hash",
    "row_hashes",
]

ROWS_IN_BLOCK: Final = 64
BLOCKS_AT_ONCE: Final = 512  # the other side begins when it has these
JOINED_ROWS: Final = 16_384  # of both sides in ranges that were put together
_RECORDED_SINCE: Final = 14  # has hash_record_extended
_numbers: Final = itertools.count(1)  # of temporary tables: one may still be read from

Upper = Callable[[], Key | None] | None  # None: the last block is open


async def probe(conn: asyncpg.Connection) -> str:
    """What two sides must have in common to use shapes that are not portable."""
    if conn.get_server_version().major < _RECORDED_SINCE:
        return "portable"
    return str(await conn.fetchval(queries("digest")["probe"]))


# --- the side that makes the blocks ---------------------------------------------------------
async def blocks(
    conn: asyncpg.Connection, shape: Shape, lower: Key | None = None, upper: Key | None = None
) -> AsyncGenerator[list[Block], None]:
    """The blocks of the keys in [lower, upper), in order; at least one, if an empty one."""
    order = await read_order(conn, shape)
    await conn.execute(SETTINGS + "on")
    cursor = await conn.cursor(_blocks_sql(order, shape, lower, upper), *both(lower, upper))
    low, rows, digest, any_rows = lower, 0, 0, False
    pace = Pace(BLOCKS_AT_ONCE)
    while found := await cursor.fetch(pace.next):
        pace.saw(key_of(row, order) for row in found)
        made: list[Block] = []
        for row in found:
            upto, before = number_of(shape, row["x"]), number_of(shape, row["before"])
            total = int(row["total"])
            if row["begins"]:
                if any_rows:
                    made.append(Block(low, total - row["n"] - rows, before ^ digest))
                    low = key_of(row, order)
                rows, digest, any_rows = total - row["n"], before, True
            if row["last"]:
                made.append(Block(low, total - rows, upto ^ digest))
        yield made
    if not any_rows:
        yield [Block(lower, 0, 0)]


def _blocks_sql(order: Order, shape: Shape, lower: Key | None, upper: Key | None) -> str:
    """Running totals at the first row of each block and at the last row: one pass, in order.

    GROUP BY would keep all blocks until the end, and sort them by a number that is sorted.
    """
    texts = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    total = "row_number() OVER w" if shape.key else "sum(s.n) OVER w"
    keys = ", ".join(f"s.k{n}" for n in range(1, order.width + 1))
    within = order.within(*parameters(lower, upper))
    return (
        f"SELECT {plain_sql(shape, 's.x')} AS x, {plain_sql(shape, 's.x # s.h')} AS before, "
        f"s.total, s.n, s.place % {ROWS_IN_BLOCK} = 1 AS begins, s.last, {texts} FROM ("
        f"SELECT {keys}, s.h, s.n, bit_xor(s.h) OVER w AS x, row_number() OVER w AS place, "
        f"{total} AS total, lead(false, 1, true) OVER w AS last "
        f"FROM ({order.source}) AS s WHERE {within} "
        f"WINDOW w AS (ORDER BY {order.by} ROWS UNBOUNDED PRECEDING)) AS s "
        f"WHERE s.place % {ROWS_IN_BLOCK} = 1 OR s.last"
    )


# --- the other side -------------------------------------------------------------------------
async def compare_blocks(
    conn: asyncpg.Connection,
    shape: Shape,
    there: AsyncIterator[list[Block]],
    upper: Upper = None,
    tally: Tally | None = None,
) -> AsyncGenerator[list[Range], None]:
    """The ranges in which the rows here are not those of `there`, in order.

    `upper` is where the last of the blocks ends, asked for when they have ended. Adjacent
    ranges are put together while they stay below 16,384 rows. `tally` is kept up to date.
    """
    order = await read_order(conn, shape)
    tally = tally if tally is not None else Tally()
    joined: Range | None = None
    walk = _by_index if order.indexed else _by_sorting
    async for some in walk(conn, shape, order, there, upper, tally):
        ready: list[Range] = []
        for one in some:
            if joined is not None and (both := _joined(joined, one)) is not None:
                joined = both
                continue
            if joined is not None:
                ready.append(joined)
            joined = one
        if ready:
            yield ready
    if joined is not None:
        yield [joined]


def _joined(first: Range, then: Range) -> Range | None:
    there, here = first.rows_there + then.rows_there, first.rows_here + then.rows_here
    longest = max(map(key_characters, (first.low, first.high, then.high)))
    most = min(JOINED_ROWS, PAGE_CHARACTERS // max(longest, 1))
    if first.high is None or first.high != then.low or there + here > most:
        return None
    return Range(first.low, then.high, there, here)


async def _by_index(
    conn: asyncpg.Connection,
    shape: Shape,
    order: Order,
    there: AsyncIterator[list[Block]],
    upper: Upper,
    tally: Tally,
) -> AsyncIterator[list[Range]]:
    """A scan of the index for each block."""
    await conn.execute(SETTINGS + "off")
    async for some in with_ends(there, upper):
        closed = [pair for pair in some if pair[0].low is not None and pair[1] is not None]
        opened = [pair for pair in some if pair[0].low is None or pair[1] is None]
        found = []
        for block, high in opened:
            found += await _look_at_one(conn, shape, order, block, high)
        if closed:
            found += await _look_at(conn, shape, order, closed)
        _count(tally, [block for block, _ in some], found)
        lows = {block.low: n for n, (block, _) in enumerate(some)}
        yield sorted(found, key=lambda one: lows[one.low])


async def with_ends(
    there: AsyncIterator[list[Block]], upper: Upper
) -> AsyncIterator[list[tuple[Block, Key | None]]]:
    """Each block with its end, which is where the next one begins."""
    waiting: Block | None = None
    async for some in there:
        pairs: list[tuple[Block, Key | None]] = []
        for block in some:
            if waiting is not None:
                pairs.append((waiting, block.low))
            waiting = block
        if pairs:
            yield pairs
    if waiting is not None:
        yield [(waiting, upper() if upper is not None else None)]


async def _look_at_one(
    conn: asyncpg.Connection, shape: Shape, order: Order, block: Block, high: Key | None
) -> list[Range]:
    sql = (
        f"SELECT count(*) AS rows, {digest_sql(shape)} AS digest FROM ({order.source}) AS s "
        f"WHERE {order.within(*parameters(block.low, high))}"
    )
    row = await conn.fetchrow(sql, *both(block.low, high))
    if (row["rows"], number_of(shape, row["digest"])) == (block.rows, block.digest):
        return []
    return [Range(block.low, high, block.rows, row["rows"])]


async def _look_at(
    conn: asyncpg.Connection,
    shape: Shape,
    order: Order,
    pairs: Sequence[tuple[Block, Key | None]],
) -> list[Range]:
    width = order.width
    names = bound_names(width)
    lists = ", ".join(f"${n}::text[]" for n in range(1, 2 * width + 1))
    rows_at, digest_at = f"${2 * width + 1}::bigint[]", f"${2 * width + 2}::text[]"
    sql = (
        f"SELECT b.place, x.rows FROM unnest({lists}, {rows_at}, {digest_at}) "
        f"WITH ORDINALITY AS b ({', '.join((*names[0], *names[1]))}, rows, digest, place) "
        f"CROSS JOIN LATERAL (SELECT count(*) AS rows, {digest_sql(shape)}::text AS digest "
        f"FROM ({order.source}) AS s WHERE {order.within(*prefixed(names))}) AS x "
        "WHERE x.rows <> b.rows OR x.digest <> b.digest ORDER BY b.place"
    )
    found = await conn.fetch(
        sql,
        *bound_columns([(block.low, high) for block, high in pairs], width),
        [block.rows for block, _ in pairs],
        [stored_text(shape, block.digest) for block, _ in pairs],
    )
    differing = [(*pairs[row["place"] - 1], row["rows"]) for row in found]
    return [Range(block.low, high, block.rows, here) for block, high, here in differing]


async def _by_sorting(
    conn: asyncpg.Connection,
    shape: Shape,
    order: Order,
    there: AsyncIterator[list[Block]],
    upper: Upper,
    tally: Tally,
) -> AsyncIterator[list[Range]]:
    """All rows are sorted once, together with the bounds of the blocks."""
    lows = [f"l{n}" for n in range(1, order.width + 1)]
    columns = "".join(f", {low} text" for low in lows)
    marks = f"peersync_marks_{next(_numbers)}"
    await conn.execute(
        f"{SETTINGS}on; CREATE TEMP TABLE {marks} "
        f"(place bigint, rows bigint, digest text{columns}) ON COMMIT DROP"
    )
    lower: Key | None = None
    async for some in there:
        if tally.blocks == 0 and some:
            lower = some[0].low
        records = [
            (
                place,
                block.rows,
                stored_text(shape, block.digest),
                *(block.low or (None,) * order.width),
            )
            for place, block in enumerate(some, tally.blocks)
        ]
        await conn.copy_records_to_table(marks, schema_name="pg_temp", records=records)
        _count(tally, some, [])
    end = upper() if upper is not None else None
    cursor = await conn.cursor(_marked_sql(marks, order, shape, lower, end), *both(lower, end))
    pace = Pace(BATCH)
    while rows := await cursor.fetch(pace.next):
        ranges = [_range(row, order.width, end) for row in rows]
        pace.saw(bound for one in ranges for bound in (one.low, one.high))
        _count(tally, [], ranges)
        yield ranges


def _marked_sql(
    table: str, order: Order, shape: Shape, lower: Key | None, upper: Key | None
) -> str:
    """A row belongs to the block whose mark was the last one before it."""
    keys = [f"k{n}" for n in range(1, order.width + 1)]
    lows = [f"m.l{n}" for n in range(1, order.width + 1)]
    marks = ", ".join(
        f"{low}::{c} AS {k}" for low, c, k in zip(lows, order.casts, keys, strict=True)
    )
    listed = ", ".join(f"s.{key}" for key in keys)
    ends = ", ".join(f"lead({low}) OVER o AS u{n}" for n, low in enumerate(lows, 1))
    shown = ", ".join(f"b.l{n}, b.u{n}" for n in range(1, order.width + 1))
    within = order.within(*parameters(lower, upper))
    return (
        f"WITH here AS (SELECT v.place, sum(v.n)::bigint AS rows, {digest_sql(shape, 'v.h')}::text "
        f"AS digest FROM (SELECT s.n, s.h, sum(s.mark) OVER (ORDER BY {order.by}, s.mark DESC "
        "ROWS UNBOUNDED PRECEDING) AS place FROM ("
        f"SELECT {listed}, s.h, s.n, 0 AS mark FROM ({order.source}) AS s WHERE {within} "
        f"UNION ALL SELECT {marks}, NULL, 0, 1 FROM pg_temp.{table} AS m WHERE m.place > 0"
        ") AS s) AS v GROUP BY v.place) "
        f"SELECT {shown}, b.is_last, b.rows AS rows_there, coalesce(h.rows, 0) AS rows_here FROM ("
        f"SELECT m.*, {ends}, lead(false, 1, true) OVER o AS is_last FROM pg_temp.{table} AS m "
        "WINDOW o AS (ORDER BY m.place)) AS b LEFT JOIN here AS h ON h.place = b.place "
        "WHERE coalesce(h.rows, 0) <> b.rows "
        f"OR coalesce(h.digest, {zero_sql(shape)}) <> b.digest ORDER BY b.place"
    )


def _range(row: Any, width: int, upper: Key | None) -> Range:
    low = tuple(row[f"l{n}"] for n in range(1, width + 1))
    high = tuple(row[f"u{n}"] for n in range(1, width + 1))
    return Range(
        None if low[0] is None else low,
        upper if row["is_last"] else high,
        row["rows_there"],
        row["rows_here"],
    )


def _count(tally: Tally, some: Sequence[Block], found: Sequence[Range]) -> None:
    there = sum(block.rows for block in some)
    tally.blocks += len(some)
    tally.differing += len(found)
    tally.rows_there += there
    tally.rows_here += there + sum(one.rows_here - one.rows_there for one in found)
