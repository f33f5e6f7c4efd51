"""The coarse look at a table: totals of large ranges of both sides, taken at the same time.

Tables are the same, as a rule, and then nothing but these totals was read and sent. Where a
range differs it is cut into blocks, by `first`. Each range is read in views of its own: what
differs here because it was written to in between is found to be the same later.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from peersync.agent.proof.remote import Remote
from peersync.core.errors import PeerFailed, root_error
from peersync.postgres.digest import Shape
from peersync.postgres.digestform import Bounds
from peersync.postgres.keylook import in_order
from peersync.postgres.rangetotals import Cuts, Total, cuts, totals

WHOLE: Final[Bounds] = (None, None)
Report = Callable[[int], None]
_Told = asyncio.Queue[Cuts | Total | None]
_TRIED: Final = 4  # ranges, before the others are given up because most of them differ


@dataclass
class CoarseLook:
    """Rows of the ranges that are the same, and the other ranges, in order and put together."""

    rows: int = 0
    differing: list[Bounds] = field(default_factory=list)

    def add(self, one: Bounds) -> None:
        if self.differing and self.differing[-1][1] == one[0] is not None:
            one = (self.differing.pop()[0], one[1])
        self.differing.append(one)


async def look_coarsely(
    conn: asyncpg.Connection, remote: Remote, shape: Shape, report: Report
) -> CoarseLook:
    """The whole table; `report` is told how many rows were found to be the same."""
    async with _answers(remote.coarsely()) as told:
        theirs = await told.get()
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            ours = await cuts(conn, shape)
        if not isinstance(theirs, Cuts):
            raise PeerFailed(f"{remote.peer} did not say how it reads {shape.table}")
        by_range = theirs.ordered and ours.ordered
        if not by_range and (theirs.large or ours.large):
            return CoarseLook(differing=[WHOLE])
        if theirs.at_once:
            found = await _compare(conn, shape, [WHOLE], told, report)
            if not found.differing or not by_range or not theirs.bounds:
                return found
    ranges = await _ranges(conn, remote, shape, theirs) if by_range else [WHOLE]
    async with _answers(remote.coarsely(ranges)) as told:
        return await _compare(conn, shape, ranges, told, report)


@asynccontextmanager
async def _answers(stream: AsyncGenerator[Cuts | Total, None]) -> AsyncIterator[_Told]:
    """What the peer tells, as it comes, while this side reads its own; then None."""
    told: _Told = asyncio.Queue()

    async def take() -> None:
        async with aclosing(stream):
            async for one in stream:
                told.put_nowait(one)
        told.put_nowait(None)

    try:
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take(), name="totals-there")
            yield told
            taking.cancel()
    except BaseExceptionGroup as errors:
        raise root_error(errors) from errors


async def _ranges(
    conn: asyncpg.Connection, remote: Remote, shape: Shape, theirs: Cuts
) -> list[Bounds]:
    """From the peer's bounds: of our own rows it may not know."""
    if not await in_order(conn, shape, theirs.bounds):
        raise PeerFailed(f"{remote.peer} cut {shape.table} into ranges that overlap")
    return list(itertools.pairwise([None, *theirs.bounds, None]))


async def _compare(
    conn: asyncpg.Connection, shape: Shape, ranges: Sequence[Bounds], told: _Told, report: Report
) -> CoarseLook:
    found, differing = CoarseLook(), 0
    async with aclosing(totals(conn, shape, ranges)) as ours:
        for place, one in enumerate(ranges):
            if place >= _TRIED and differing * 2 > place:
                found.add((one[0], None))
                break
            here, there = await anext(ours), await told.get()
            if there is None:
                raise PeerFailed(f"{shape.table} was not read to its end by the peer")
            if there == here:
                found.rows += here.rows
                report(found.rows)
            else:
                differing += 1
                found.add(one)
    return found
