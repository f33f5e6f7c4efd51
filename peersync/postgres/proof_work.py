"""Brings a list of kept digests up to date: a piece of one table, in one transaction.

What changed since is marked first, then marked blocks are read, then blocks that were not read for
long are read again whatever the log says. Blocks are cut where the hash of a key says so, not
by counting: lists of two servers, made at different times, have the same blocks without talking
to each other. Later a block keeps its bounds, unless it has grown much.

One session of a database does this at a time, whoever it is: the caller holds `try_work`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.digestform import SETTINGS, Key, both, key_of, number_of, parameters
from peersync.postgres.keyorder import Order
from peersync.postgres.proof_blocks import hash_ranges
from peersync.postgres.proof_lists import (
    SQL,
    Subject,
    mark_changed,
    prepare_fields,
    read_changed,
    read_subject,
    shape_of,
)

_CUT: Final = 63  # a block has 64 rows on average
_LARGE: Final = 1024  # rows of a block that is cut
_AT_ONCE: Final = 500  # blocks
_EXACT: Final = Context(prec=2000)
_LONG: Final = 1500  # digits of a place: where a table grows in its middle, each cut adds some
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True)
class Worked:
    """rows: that were read. more: there is more to read. gone: no list can be kept of it.

    unseen: rows had changed that nobody has told of; the list was begun anew.
    """

    table: TableName | None = None
    rows: int = 0
    more: bool = False
    gone: bool = False
    unseen: bool = False


async def work(
    conn: asyncpg.Connection, number: int, *, rows: int, scrub_days: float | None = None
) -> Worked:
    """One piece of one list, of about so many rows.

    `scrub_days`: blocks that were not read for so long are read again; None: none is.
    """
    async with conn.transaction(isolation="repeatable_read"):
        row = await conn.fetchrow(SQL["get"], number)
        if row is None:
            return Worked(gone=True)
        shape = shape_of(TableName(row["table_schema"], row["table_name"]), row["shape"])
        subject = await read_subject(conn, shape, row)
        if subject is None:
            await conn.execute(SQL["forget"], number)
            return Worked(shape.table, gone=True)
        await conn.execute(SETTINGS + "off")
        await _bring_up(conn, subject)
        read, more = await _read_marked(conn, subject, rows)
        if more or scrub_days is None:
            return Worked(shape.table, read, more=more)
        again, unseen = await _scrub(conn, subject, scrub_days)
        if unseen:
            await _begin(conn, subject)
        return Worked(shape.table, read + again, more=unseen, unseen=unseen)


async def _bring_up(conn: asyncpg.Connection, subject: Subject) -> None:
    """The list is of this view afterwards."""
    changed = await read_changed(conn, subject)
    whole = changed.whole
    if not whole and changed.any:
        await prepare_fields(conn, len(subject.log_key))
        whole = not await mark_changed(conn, subject)
    if whole:
        await _begin(conn, subject)
    else:
        await _advance(conn, subject)


async def _begin(conn: asyncpg.Connection, subject: Subject) -> None:
    await prepare_fields(conn, len(subject.log_key))
    await conn.execute(SQL["clear"], subject.number)
    await conn.execute(SQL["begin"], subject.number)
    await _advance(conn, subject)


async def _advance(conn: asyncpg.Connection, subject: Subject) -> None:
    await conn.execute(
        SQL["advance"],
        subject.number,
        subject.home_stamp,
        subject.origin,
        subject.position,
        subject.snapshot,
        subject.tbl,
    )


# --- what has changed -----------------------------------------------------------------------
async def _read_marked(conn: asyncpg.Connection, subject: Subject, limit: int) -> tuple[int, bool]:
    """How many rows were read, and whether marked blocks are left."""
    read = 0
    while read < limit:
        marked = await conn.fetch(SQL["marked"], subject.number, _AT_ONCE, True)
        if not marked:
            break
        read += await _read_again(conn, subject, marked)
    while read < limit:
        marked = await conn.fetch(SQL["marked"], subject.number, 1, False)
        if not marked:
            return read, False
        if _is_long(marked[0]["place"]) or _is_long(marked[0]["next"]):
            await conn.execute(SQL["renumber"], subject.number)
            await conn.execute(SQL["renumbered"], subject.number)
            continue
        pieces = await _pieces(conn, subject, marked[0], max(limit - read, limit // 2))
        read += pieces.rows
        await _replace(conn, subject, marked[0], pieces)
    return read, True


async def _read_again(conn: asyncpg.Connection, subject: Subject, rows: Sequence[Any]) -> int:
    """The blocks as they are now, between the same keys; how many rows they have."""
    now = await hash_ranges(conn, subject.shape, subject.order, [_bounds(row) for row in rows])
    await conn.execute(
        SQL["blocks_read"],
        subject.number,
        [row["place"] for row in rows],
        [count for count, _ in now],
        [_stored(digest) for _, digest in now],
        _LARGE,
    )
    return sum(count for count, _ in now)


def _bounds(row: Any) -> tuple[Key | None, Key | None]:
    low, high = row["low"], row["high"]
    return None if low is None else tuple(low), None if high is None else tuple(high)


@dataclass(frozen=True)
class _Pieces:
    """Blocks of a range: what comes before the first cut, those that begin at one, and the rest."""

    rows: int
    leading: tuple[int, int]
    blocks: tuple[tuple[Key, int, int], ...]
    rest: Key | None  # where it goes on; None: all of it was read


async def _pieces(conn: asyncpg.Connection, subject: Subject, row: Any, limit: int) -> _Pieces:
    low, high = _bounds(row)
    while True:
        sql = _pieces_sql(subject.order, low, high, limit)
        found = await conn.fetch(sql, *both(low, high))
        pieces = _cut(found, subject, limit)
        if pieces is not None:
            return pieces
        limit *= 4  # not one cut in all these rows


def _cut(found: Sequence[Any], subject: Subject, limit: int) -> _Pieces | None:
    leading, blocks = (0, 0), list[tuple[Key, int, int]]()
    key: Key | None = None
    start = digest = total = 0

    def end(rows: int, upto: int) -> None:
        nonlocal leading
        if key is None:
            leading = (rows, upto ^ digest)
        else:
            blocks.append((key, rows, upto ^ digest))

    for row in found:
        total = row["total"]
        if row["begins"]:
            before = number_of(subject.shape, row["before"])
            if total > 1:
                end(total - 1 - start, before)
            key, start, digest = key_of(row, subject.order), total - 1, before
        if row["last"]:
            end(total - start, number_of(subject.shape, row["x"]))
    if total < limit:
        return _Pieces(total, leading, tuple(blocks), None)
    if not blocks or blocks[0][1] == total:
        return None
    return _Pieces(total, leading, tuple(blocks[:-1]), blocks[-1][0])


def _pieces_sql(order: Order, low: Key | None, high: Key | None, limit: int) -> str:
    texts = ", ".join(f"{text} AS t{n}" for n, text in enumerate(order.texts))
    keys = ", ".join(f"s.k{n}" for n in range(1, order.width + 1))
    whole = " || ' ' || ".join(order.texts)
    begins = f'pg_catalog.hashtextextended(({whole}) COLLATE pg_catalog."C", 0) & {_CUT} = 0'
    return (
        f"SELECT s.x, s.x # s.h AS before, s.total, s.begins, s.last, {texts} FROM ("
        f"SELECT {keys}, s.h, bit_xor(s.h) OVER w AS x, row_number() OVER w AS total, "
        f"{begins} AS begins, lead(false, 1, true) OVER w AS last FROM ("
        f"SELECT {keys}, s.h FROM ({order.source}) AS s "
        f"WHERE {order.within(*parameters(low, high))} ORDER BY {order.by} LIMIT {limit}) AS s "
        f"WINDOW w AS (ORDER BY {order.by} ROWS UNBOUNDED PRECEDING)) AS s "
        "WHERE s.begins OR s.last ORDER BY s.total"
    )


async def _replace(conn: asyncpg.Connection, subject: Subject, row: Any, pieces: _Pieces) -> None:
    """Puts the pieces where the block was."""
    number, place = subject.number, row["place"]
    blocks: list[tuple[Key, int | None, int | None]] = [
        (key, rows, _stored(digest)) for key, rows, digest in pieces.blocks
    ]
    if pieces.rest is not None:
        blocks.append((pieces.rest, None, None))
    rows, digest = pieces.leading[0], _stored(pieces.leading[1])
    if row["low"] is None:
        await conn.execute(SQL["block_read"], number, place, rows, digest)
        places = _between(place, row["next"], len(blocks))
    else:
        await conn.execute(SQL["block_gone"], number, place)
        if rows:
            await conn.execute(SQL["block_joined"], number, place, rows, digest)
        places = [place, *_between(place, row["next"], len(blocks) - 1)][: len(blocks)]
    values = [(number, at, list(b[0]), *b[1:]) for at, b in zip(places, blocks, strict=True)]
    await conn.executemany(SQL["block_new"], values)


def _is_long(place: Decimal | None) -> bool:
    return place is not None and len(place.as_tuple().digits) > _LONG


def _stored(digest: int) -> int:
    return digest - (1 << 64) if digest >> 63 else digest


def _between(first: Decimal, then: Decimal | None, count: int) -> list[Decimal]:
    """So many places after `first` and before `then`, in order; exact whatever was put between."""
    if then is None:
        return [_EXACT.add(first, Decimal(n)) for n in range(1, count + 1)]
    step = _EXACT.multiply(
        _EXACT.subtract(then, first), _EXACT.power(Decimal(2), -count.bit_length())
    )
    return [_EXACT.add(first, _EXACT.multiply(step, Decimal(n))) for n in range(1, count + 1)]


# --- what should not have -------------------------------------------------------------------
async def _scrub(conn: asyncpg.Connection, subject: Subject, days: float) -> tuple[int, bool]:
    """Reads old blocks again: how many rows, and whether one is not what is kept of it."""
    rows = await conn.fetch(SQL["oldest"], subject.number, days, _AT_ONCE)
    now = await hash_ranges(conn, subject.shape, subject.order, [_bounds(row) for row in rows])
    read = sum(count for count, _ in now)
    if any(own != (row["rows"], row["digest"] & _MASK) for row, own in zip(rows, now, strict=True)):
        return read, True
    await conn.execute(SQL["read_again"], subject.number, [row["place"] for row in rows])
    return read, False
