"""One number for all rows of a range of keys, and where to cut a table into such ranges.

What two sides ask each other first: a plain aggregate over one scan, without an order, which
PostgreSQL may share out among processes. Only ranges whose totals differ are cut into blocks.
The number is a sum and no xor, so that rows of a table without a key count as often as they are
there. Where the rows lie on disk in the order of the key, ranges are scans of the index; else
the table is one range, read as it lies.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from peersync.postgres.digestform import SETTINGS, Bounds, Key, both, key_of, parameters
from peersync.postgres.keyorder import Order, read_order
from peersync.postgres.rowform import Shape, row_hash
from peersync.postgres.sqlfiles import queries

VIEW_S: Final = 1.0  # of several ranges; a range that takes longer is one view
SMALL_BYTES: Final = 8 * 1024 * 1024  # one range
BRIEF_BYTES: Final = 1024 * 1024 * 1024
LARGE_BYTES: Final = 16 * 1024 * 1024 * 1024  # too much for one view
_RANGE_BYTES: Final = 64 * 1024 * 1024
_RANGE_ROWS: Final = 131_072
_MOST_RANGES: Final = 1024
_BOUND_CHARACTERS: Final = 512 * 1024  # of all bounds together
_SAMPLED_PAGES: Final = 256
_PAGE_BYTES: Final = 8192
_IN_ORDER: Final = 0.9  # correlation of the order of the key and that on disk


@dataclass(frozen=True, slots=True)
class Total:
    """Of all rows of a range. Equal digests of equally many rows: the same rows."""

    rows: int
    digest: str


@dataclass(frozen=True)
class Cuts:
    """`bounds`: where ranges of about 131,072 rows begin, but for the first; in order.

    ordered: a range of keys is a part of the table that lies together. large: it is not, and one
    scan of all rows lasts too long for one view. brief: one scan of all rows is so short that it
    comes before the ranges: it costs less than they do, and mostly there is nothing to find.
    """

    bounds: tuple[Key, ...] = ()
    ordered: bool = False
    large: bool = False
    brief: bool = False

    @property
    def at_once(self) -> bool:
        """Whether the first thing to read is the whole table."""
        return self.brief or not (self.ordered or self.large)


async def share_out(conn: asyncpg.Connection, processes: int) -> None:
    """At most so many processes of the server read for this session, for as long as it lasts."""
    await conn.fetchval(queries("digest")["share_out"], processes - 1)


async def totals(
    conn: asyncpg.Connection, shape: Shape, ranges: Iterable[Bounds]
) -> AsyncGenerator[Total, None]:
    """Of each range in turn. In transactions of its own, none of which is open while it yields."""
    waiting = deque(ranges)
    while waiting:
        found: list[Total] = []
        until = time.monotonic() + VIEW_S
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            order = await read_order(conn, shape)
            while waiting and time.monotonic() < until:
                found.append(await _total(conn, order, shape, waiting.popleft()))
        for one in found:
            yield one


async def _total(conn: asyncpg.Connection, order: Order, shape: Shape, one: Bounds) -> Total:
    by_index = order.indexed and one != (None, None)
    await conn.execute(SETTINGS + ("off" if by_index else "on"))
    rows = await conn.fetch(_total_sql(order, shape, *one), *both(*one))
    return Total(rows[0]["rows"], rows[0]["digest"])


def _total_sql(order: Order, shape: Shape, lower: Key | None, upper: Key | None) -> str:
    # a table without a key is ordered by copies of its rows: here each counts for itself
    source = order.source if shape.key else f"SELECT {row_hash(shape)} AS h FROM {shape.rows_sql}"
    parts = ["s.h"]
    if shape.wide:
        halves = (f"pg_catalog.substring(s.h, {first}, 64)" for first in (1, 65))
        parts = [f"{half}::bit(64)::bigint" for half in halves]
    sums = ", ".join(f"pg_catalog.sum({part})" for part in parts)
    return (
        f"SELECT pg_catalog.count(*) AS rows, pg_catalog.concat_ws(' ', {sums}) AS digest "
        f"FROM ({source}) AS s WHERE {order.within(*parameters(lower, upper))}"
    )


async def cuts(conn: asyncpg.Connection, shape: Shape) -> Cuts:
    """How this side's rows can be read. In a transaction of the caller."""
    order = await read_order(conn, shape)
    name = shape.table
    size = await conn.fetchval(queries("digest")["size"], name.schema, name.name)
    if size <= SMALL_BYTES:
        return Cuts(ordered=True, brief=True)
    if not shape.key or not order.indexed:
        return Cuts()  # in order it would have to be sorted
    if not shape.only:
        return Cuts(large=size > LARGE_BYTES)
    rows = await conn.fetch(_sample_sql(order, shape, 100 * _SAMPLED_PAGES * _PAGE_BYTES / size))
    if not rows or (rows[0]["correlation"] or 0) ** 2 < _IN_ORDER**2:
        return Cuts(large=size > LARGE_BYTES)
    return Cuts(bounds=_bounds(rows, order, size), ordered=True, brief=size <= BRIEF_BYTES)


async def spread_keys(conn: asyncpg.Connection, shape: Shape, most: int) -> tuple[Key, ...]:
    """Some keys, in order and about as far from each other; none where no index has them so."""
    order = await read_order(conn, shape)
    if not shape.key or not order.indexed or not shape.only:
        return ()
    size = await conn.fetchval(queries("digest")["size"], shape.table.schema, shape.table.name)
    percent = 100 * _SAMPLED_PAGES * _PAGE_BYTES / max(size, 1)
    keys = [key_of(row, order) for row in await conn.fetch(_sample_sql(order, shape, percent))]
    picked = (keys[(2 * n + 1) * len(keys) // (2 * most)] for n in range(most) if keys)
    return tuple(dict.fromkeys(picked))


def _sample_sql(order: Order, shape: Shape, percent: float) -> str:
    """Keys of some pages, in order, each with the correlation of all of them."""
    keys = ", ".join(f"s.k{n}" for n in range(1, order.width + 1))
    texts = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    where = f"WHERE (\n{shape.where}\n)" if shape.where is not None else ""
    sample = (
        f"(SELECT *, ctid FROM ONLY {shape.table.sql} "
        f"TABLESAMPLE SYSTEM ({min(percent, 100.0):.6f}) {where}) AS t"
    )
    source = replace(order, source=order.source.replace(shape.rows_sql, sample, 1)).source
    source = source.replace("SELECT ", "SELECT t.ctid AS at, ", 1)
    return (
        f"WITH s AS MATERIALIZED (SELECT {keys}, row_number() OVER (ORDER BY {order.by}) AS place,"
        f" row_number() OVER (ORDER BY s.at) AS lies FROM ({source}) AS s) "
        f"SELECT {texts}, (SELECT pg_catalog.corr(o.place, o.lies) FROM s AS o) AS correlation "
        "FROM s ORDER BY s.place"
    )


def _bounds(rows: list[Any], order: Order, size: int) -> tuple[Key, ...]:
    pages = min(size / _PAGE_BYTES, _SAMPLED_PAGES)
    expected = len(rows) * (size / _PAGE_BYTES) / pages
    ranges = int(max(expected / _RANGE_ROWS, size / _RANGE_BYTES))
    longest = max(sum(len(part) for part in key_of(row, order)) for row in rows)
    ranges = min(ranges, _MOST_RANGES, len(rows) // 2, _BOUND_CHARACTERS // max(longest, 1))
    picked = [rows[n * len(rows) // ranges] for n in range(1, ranges)]
    return tuple(dict.fromkeys(key_of(row, order) for row in picked))
