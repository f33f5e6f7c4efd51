"""The rows of some ranges of keys, each as its key and the number that it hashes to.

For what blocks could not prove equal. Same order, same hashes, and the same transaction of the
caller as in `digest`; nothing is whole in memory but the list of ranges.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import asyncpg

from peersync.postgres.digestform import (
    SETTINGS,
    Bounds,
    Pace,
    Range,
    RowHash,
    both,
    bound_columns,
    bound_names,
    key_of,
    number_of,
    parameters,
    plain_sql,
    prefixed,
)
from peersync.postgres.keyorder import Order, read_order
from peersync.postgres.rowform import Shape

_RANGES_AT_ONCE: Final = 512
_ROWS_AT_ONCE: Final = 1024


async def row_hashes(
    conn: asyncpg.Connection, shape: Shape, ranges: Iterable[Range]
) -> AsyncGenerator[list[RowHash], None]:
    """Key and hash of the rows in some ranges, in lists of up to 1,024.

    The ranges are in order and do not overlap; so are their rows, those of one range in any order.
    """
    order = await read_order(conn, shape)
    waiting = iter(ranges)
    size = _RANGES_AT_ONCE if order.indexed else None
    await conn.execute(SETTINGS + ("off" if order.indexed else "on"))
    first = 0
    while some := list(islice(waiting, size)):
        for sql, values, offset in _rows_sql(order, shape, [(one.low, one.high) for one in some]):
            cursor, pace = await conn.cursor(sql, *values), Pace(_ROWS_AT_ONCE)
            while rows := await cursor.fetch(pace.next):
                made = [_row_hash(row, order, shape, first + offset) for row in rows]
                pace.saw(row.key for row in made)
                yield made
        first += len(some)


def _row_hash(row: Any, order: Order, shape: Shape, first: int) -> RowHash:
    return RowHash(key_of(row, order), number_of(shape, row["h"]), row["n"], first + row["place"])


_Statement = tuple[str, list[Any], int]  # with the place of its first range


def _rows_sql(order: Order, shape: Shape, ranges: Sequence[Bounds]) -> list[_Statement]:
    texts = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    shown = f"{texts}, {plain_sql(shape, 's.h')} AS h, s.n"
    if not order.indexed:
        return [_sorted_rows(order, shown, ranges)]
    found: list[_Statement] = []
    closed = [place for place, one in enumerate(ranges) if None not in one]
    for place, one in enumerate(ranges):
        if None in one:
            found.append(_one_range(order, shown, one, place))
        elif place == closed[0]:
            found.append(_closed_ranges(order, shown, [ranges[n] for n in closed], place))
    return found


def _one_range(order: Order, shown: str, one: Bounds, place: int) -> _Statement:
    sql = (
        f"SELECT {shown}, 0 AS place FROM ({order.source}) AS s "
        f"WHERE {order.within(*parameters(*one))}"
    )
    return sql, both(*one), place


def _closed_ranges(order: Order, shown: str, ranges: Sequence[Bounds], place: int) -> _Statement:
    names = bound_names(order.width)
    lists = ", ".join(f"${n}::text[]" for n in range(1, 2 * order.width + 1))
    sql = (
        f"SELECT {shown}, s.place FROM unnest({lists}) WITH ORDINALITY "
        f"AS b ({', '.join((*names[0], *names[1]))}, place) "
        f"CROSS JOIN LATERAL (SELECT s.*, (b.place - 1)::int AS place FROM ({order.source}) AS s "
        f"WHERE {order.within(*prefixed(names))} OFFSET 0) AS s ORDER BY b.place"
    )
    return sql, bound_columns(ranges, order.width), place


def _sorted_rows(order: Order, shown: str, ranges: Sequence[Bounds]) -> _Statement:
    """All rows in order, together with a +1 where a range begins and a -1 where one ends."""
    lows = [low for low, _ in ranges if low is not None]
    highs = [high for _, high in ranges if high is not None]
    width = order.width
    listed = ", ".join(f"s.k{n}" for n in range(1, width + 1))

    def marks(first: int, step: int) -> str:
        lists = ", ".join(f"${n}::text[]" for n in range(first, first + width))
        keys = ", ".join(f"m.l{n + 1}::{cast} AS k{n + 1}" for n, cast in enumerate(order.casts))
        names = ", ".join(f"l{n}" for n in range(1, width + 1))
        return f"SELECT {keys}, NULL, 0, {step} FROM unnest({lists}) AS m ({names})"

    opened = len(ranges) - len(lows)
    sql = (
        f"SELECT {shown}, (s.begun + {opened} - 1)::int AS place FROM ("
        f"SELECT s.*, sum(greatest(s.mark, 0)) OVER w AS begun, sum(s.mark) OVER w AS inside FROM ("
        f"SELECT {listed}, s.h, s.n, 0 AS mark FROM ({order.source}) AS s "
        f"UNION ALL {marks(1, 1)} UNION ALL {marks(1 + width, -1)}) AS s "
        f"WINDOW w AS (ORDER BY {order.by}, s.mark = 0 ROWS UNBOUNDED PRECEDING)) AS s "
        f"WHERE s.mark = 0 AND s.inside + {opened} > 0"
    )
    values = [[key[n] for key in keys] for keys in (lows, highs) for n in range(width)]
    return sql, values, 0
