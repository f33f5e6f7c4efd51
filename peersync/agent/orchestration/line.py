"""Who copies into a database next, and how long the others wait for it.

Owns the line of each database: of all that this node does with table sets and complete syncs one
copies at a time, the lowest rank first. Whoever else is at work there, a pull that somebody
typed or another agent, is waited for, too (`Patience`). It starts nothing and records nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from peersync.core.errors import Locked, PeersyncError

log = logging.getLogger("peersync.schedule")

TOGETHER_S: Final = 2.0  # what is due at the same time comes within this
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
Rank = tuple[bool, int, str]  # incremental comes first; then by priority and name
MIDDLE: Final[Rank] = (True, 100, "")
Said = Callable[[str], Awaitable[None]]


class Patience:
    """Time to wait for others. `said` is told for whom, each time that it is somebody else."""

    def __init__(self, seconds: float, what: str, said: Said | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._what = what
        self._said = said
        self._words = ""
        self._pause_s = FIRST_PAUSE_S

    @property
    def left_s(self) -> float:
        return max(self._until - self._loop.time(), 0.0)

    async def wait(self, why: Locked) -> None:
        """A moment, ever longer. Raises `why` when the time is over."""
        if not self.left_s:
            raise why
        await self.say(why.message)
        await asyncio.sleep(min(self._pause_s, self.left_s))
        self._pause_s = min(self._pause_s * 1.5, LONGEST_PAUSE_S)

    async def say(self, words: str) -> None:
        if words == self._words:
            return
        self._words = words
        log.info("%s waits: %s", self._what, words)
        if self._said is None:
            return
        try:
            await self._said(f"it waits: {words}")
        except PeersyncError as error:
            log.debug("%s: %s", self._what, error)


@dataclass(order=True)
class _Ticket:
    rank: Rank
    number: int
    who: str = field(compare=False)
    news: asyncio.Event = field(compare=False, default_factory=asyncio.Event)


@dataclass
class _Place:
    """A database: who copies into it, since when, and who waits."""

    holder: _Ticket | None = None
    since: str = ""
    waiting: list[_Ticket] = field(default_factory=list)

    def next(self) -> None:
        if self.holder is not None or not self.waiting:
            return
        self.holder = heapq.heappop(self.waiting)
        self.since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        for one in (self.holder, *self.waiting):
            one.news.set()

    def leave(self, ticket: _Ticket) -> None:
        if self.holder is ticket:
            self.holder = None
            self.next()
        elif ticket in self.waiting:
            self.waiting.remove(ticket)
            heapq.heapify(self.waiting)


class Line:
    """One for the node."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(
        self,
        database: str,
        who: str,
        patience: Patience,
        *,
        rank: Rank = MIDDLE,
        together: bool = False,
    ) -> AsyncIterator[None]:
        """Nobody else of this node copies into the database meanwhile.

        `together`: others that are due at the same moment are let come before one is chosen.
        Raises Locked, naming who has it, when the patience is over.
        """
        place = self._places.setdefault(database, _Place())
        ticket = _Ticket(rank, next(self._numbers), who)
        heapq.heappush(place.waiting, ticket)
        try:
            if together and place.holder is None:
                delay_s = min(TOGETHER_S, patience.left_s / 2)
                asyncio.get_running_loop().call_later(delay_s, place.next)
            else:
                place.next()
            await _come(place, ticket, database, patience)
            yield
        finally:
            place.leave(ticket)


async def _come(place: _Place, ticket: _Ticket, database: str, patience: Patience) -> None:
    while place.holder is not ticket:
        ticket.news.clear()
        busy = _busy(place, database)
        if place.holder is not None:
            await patience.say(busy.message)
        if place.holder is ticket:  # while that was said
            return
        try:
            async with asyncio.timeout(patience.left_s):
                await ticket.news.wait()
        except TimeoutError:
            if place.holder is not ticket:
                raise _busy(place, database) from None


def _busy(place: _Place, database: str) -> Locked:
    if place.holder is None:
        return Locked(f"{database} is busy", hint="peersync schedule list")
    who, since = place.holder.who, place.since
    return Locked(
        f"{database} is busy: {who} is running (since {since})",
        hint="its end: peersync run --history, peersync complete-sync history",
        holder={"what": who, "since": since},
    )
