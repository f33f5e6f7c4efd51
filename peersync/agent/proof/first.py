"""The first look at a table: blocks of both sides, then the rows of the blocks that differ.

Only of the ranges in which a coarse look, or kept digests, left it open whether they are the same.
Both sides are read while they are written to, each in views of its own, so what differs here is
a question and no answer: `matched` asks it again. Nothing grows with the table but the list of
ranges that differ, and both it and the keys that are kept have a bound.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from peersync.agent.proof.coarse import look_coarsely
from peersync.agent.proof.kept import look_at_kept
from peersync.agent.proof.remote import Remote
from peersync.postgres.digest import (
    ROWS_IN_BLOCK,
    Block,
    Key,
    Range,
    RowHash,
    Shape,
    Tally,
    blocks,
    compare_blocks,
    row_hashes,
)
from peersync.postgres.digestform import PAGE_CHARACTERS, key_characters
from peersync.wire.digests import MAX_RANGES

KEPT_KEYS: Final = 10_000  # of one table
KEPT_CHARACTERS: Final = 8_000_000  # of those keys
_RANGES: Final = 5_000  # that differ, before their rows are looked at
_RANGES_CHARACTERS: Final = 8_000_000  # of their bounds
_WIDE_RANGE: Final = 50_000  # rows here: it is cut by our own blocks
_OPEN_RANGE: Final = 1_000  # rows here, where one end has no key that tells how long keys are
_CUT_BLOCKS: Final = 256

Seen = tuple[int, int]  # digest, copies


@dataclass
class FirstLook:
    """What was found. `kept`: keys that differ, as they are there and here; None: no such row."""

    rows_there: int = 0
    rows_here: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    kept: dict[Key, tuple[Seen | None, Seen | None]] = field(default_factory=dict)
    more: bool = False  # more keys differ than are kept
    kept_characters: int = 0
    kept_at: str | None = None  # the oldest reading that it rests on; None: all was read now

    @property
    def differing(self) -> int:
        return self.missing + self.extra + self.different


Report = Callable[[int], None]


async def look_at_table(
    conn: asyncpg.Connection, remote: Remote, shape: Shape, report: Report, *, fresh: bool = True
) -> FirstLook:
    """Compares the whole table; `report` is told how many rows of the peer were covered.

    fresh: every row is read; else kept digests may stand for what has not changed.
    """
    kept = None if fresh else await look_at_kept(conn, remote, shape, report)
    coarse = kept or await look_coarsely(conn, remote, shape, report)
    found = FirstLook(rows_there=coarse.rows, rows_here=coarse.rows)
    found.kept_at = kept.at if kept is not None else None
    for low, high in coarse.differing:
        lower = low
        while True:
            stream = _Stream(remote, shape, lower, high)
            await _ranges(conn, shape, stream, found, report)
            for some in await _bounded(conn, shape, stream.ranges):
                await _look_at_rows(conn, remote, shape, some, found)
            if stream.next is None:
                break
            lower = stream.next
    return found


class _Stream:
    """The peer's blocks in [lower, upper), for as long as not too many differ."""

    def __init__(self, remote: Remote, shape: Shape, lower: Key | None, upper: Key | None) -> None:
        self._remote = remote
        self._shape = shape
        self._lower = lower
        self._upper = upper
        self.ranges: list[Range] = []
        self.next: Key | None = None
        self._characters = 0

    def add(self, some: Sequence[Range]) -> None:
        self.ranges += some
        self._characters += sum(key_characters(b) for one in some for b in (one.low, one.high))

    @property
    def is_full(self) -> bool:
        """So many ranges differ that their rows come first."""
        return len(self.ranges) > _RANGES or self._characters > _RANGES_CHARACTERS

    @property
    def end(self) -> Key | None:
        """Where the last block ends, once the blocks have."""
        return self.next if self.next is not None else self._upper

    async def blocks(self) -> AsyncGenerator[list[Block], None]:
        kept: Block | None = None
        async with aclosing(self._remote.blocks(self._lower, self._upper)) as lists:
            async for some in lists:
                made = [kept, *some] if kept is not None else some
                told, kept = made[:-1], made[-1]
                if told:
                    yield told
                if self._shape.key and told and self.is_full:
                    self.next = kept.low
                    return
        if kept is not None:
            yield [kept]
        self.next = self._remote.next


async def _ranges(
    conn: asyncpg.Connection, shape: Shape, stream: _Stream, found: FirstLook, report: Report
) -> None:
    """Fills in the ranges that differ; one view on each side."""
    tally = Tally()
    async with (
        conn.transaction(isolation="repeatable_read"),
        aclosing(stream.blocks()) as there,
        aclosing(
            compare_blocks(conn, shape, there, upper=lambda: stream.end, tally=tally)
        ) as differing,
    ):
        async for some in differing:
            stream.add(some)
            report(found.rows_there + tally.rows_there)
    found.rows_there += tally.rows_there
    found.rows_here += tally.rows_here
    report(found.rows_there)


async def _bounded(
    conn: asyncpg.Connection, shape: Shape, ranges: Sequence[Range]
) -> list[list[Range]]:
    """The ranges in lists for one question each, those with very many rows here cut up."""
    if not ranges:
        return []
    made: list[Range] = []
    for one in ranges:
        if not _is_wide(one):
            made.append(one)
            continue
        lows = await _cuts(conn, shape, one)
        highs = [*lows[1:], one.high]
        made += [Range(low, high, 0, 0) for low, high in zip(lows, highs, strict=True)]
    return [made[n : n + MAX_RANGES] for n in range(0, len(made), MAX_RANGES)]


def _is_wide(one: Range) -> bool:
    """Whether its keys may take much memory."""
    longest = max(key_characters(one.low), key_characters(one.high))
    most = min(_WIDE_RANGE, max(4 * ROWS_IN_BLOCK, 4 * PAGE_CHARACTERS // max(longest, 1)))
    return one.rows_here > (min(most, _OPEN_RANGE) if None in (one.low, one.high) else most)


async def _cuts(conn: asyncpg.Connection, shape: Shape, one: Range) -> list[Key | None]:
    """Where to cut a range, by our own rows: it is one block of the peer's."""
    lows, blocks_in, characters = [one.low], 0, 0
    async with (
        conn.transaction(isolation="repeatable_read", readonly=True),
        aclosing(blocks(conn, shape, one.low, one.high)) as lists,
    ):
        async for some in lists:
            for block in some:
                if blocks_in == _CUT_BLOCKS or characters > PAGE_CHARACTERS:
                    lows.append(block.low)
                    blocks_in = characters = 0
                blocks_in += 1
                characters += ROWS_IN_BLOCK * key_characters(block.low)
    return lows


async def _look_at_rows(
    conn: asyncpg.Connection,
    remote: Remote,
    shape: Shape,
    ranges: Sequence[Range],
    found: FirstLook,
) -> None:
    async with (
        conn.transaction(isolation="repeatable_read", readonly=True),
        aclosing(remote.rows(ranges)) as theirs,
        aclosing(row_hashes(conn, shape, ranges)) as ours,
    ):
        there, here = _ByRange(theirs), _ByRange(ours)
        for place in range(len(ranges)):
            _compare(await there.take(place), await here.take(place), found, keyed=bool(shape.key))


class _ByRange:
    """Takes the rows of one range after the other from a stream that has them in order."""

    def __init__(self, stream: AsyncGenerator[list[RowHash], None]) -> None:
        self._stream = stream
        self._waiting: list[RowHash] = []
        self._at = 0

    async def take(self, place: int) -> dict[Key, Seen]:
        rows: dict[Key, Seen] = {}
        while True:
            while self._at < len(self._waiting):
                row = self._waiting[self._at]
                if row.place > place:
                    return rows
                self._at += 1
                before = rows.get(row.key, (0, 0))  # two rows of one key are never one row
                rows[row.key] = (before[0] + row.digest, before[1] + row.copies)
            try:
                self._waiting, self._at = await anext(self._stream), 0
            except StopAsyncIteration:
                self._waiting, self._at = [], 0
                return rows


def _compare(
    there: dict[Key, Seen], here: dict[Key, Seen], found: FirstLook, *, keyed: bool
) -> None:
    for key in there.keys() | here.keys():
        theirs, ours = there.get(key), here.get(key)
        if theirs == ours:
            continue
        count(found, theirs, ours, keyed=keyed)
        if len(found.kept) < KEPT_KEYS and found.kept_characters < KEPT_CHARACTERS:
            found.kept[key] = (theirs, ours)
            found.kept_characters += key_characters(key)
        else:
            found.more = True


def count(
    found: FirstLook, theirs: Seen | None, ours: Seen | None, *, keyed: bool, by: int = 1
) -> None:
    """Counts a key that differs; with `by` -1, takes it back."""
    if keyed and theirs is not None and ours is not None:
        found.different += by
        return
    copies = (theirs[1] if theirs else 0) - (ours[1] if ours else 0)
    found.missing += by * max(copies, 0)
    found.extra += by * max(-copies, 0)
