"""The one notice board of all open pages: the newest of each kind, and what has ended.

A reader is a position on the board, and takes the newest when it comes: one that reads slowly
sees fewer overviews and holds nobody up. Owns numbering and replay after `Last-Event-ID`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from peersync.transport.sse import Event, position_of, wait_for_news

ENDED: Final = "ended"
KEPT_ENDED: Final = 100


class Board:
    """All methods are called from the event loop."""

    def __init__(self, epoch: str) -> None:
        """`epoch` changes with each start of the agent, so that old ids are not mistaken."""
        self._epoch = epoch
        self._last = 0
        self._newest: dict[str, tuple[int, Event]] = {}
        self._ended: deque[tuple[int, Event]] = deque(maxlen=KEPT_ENDED)
        self._waiters: set[asyncio.Event] = set()
        self._closed = False

    @property
    def readers(self) -> int:
        return len(self._waiters)

    def show(self, event: str, data: object) -> None:
        """Takes the place of the last of its kind."""
        self._newest[event] = self._event(event, data)
        self._wake()

    def drop(self, event: str) -> None:
        """What is there is too old to be shown to somebody new."""
        self._newest.pop(event, None)

    def ended(self, data: object) -> None:
        """Each of these is told, in order."""
        self._ended.append(self._event(ENDED, data))
        self._wake()

    def close(self) -> None:
        """Ends all readers."""
        self._closed = True
        self._wake()

    async def read(
        self, after: str | None, *, alive: Callable[[], bool], tick_s: float
    ) -> AsyncIterator[Event]:
        """What is shown now and from now on, until `close`.

        What ended is told to one that was here before, from the event `after` on; to a new one
        only from now on.
        """
        position, woken = position_of(after, self._epoch, self._last), asyncio.Event()
        ended = self._last if position < 0 else position
        self._waiters.add(woken)
        try:
            while not self._closed:
                woken.clear()
                for number, event in self._after(position, ended):
                    position, ended = max(position, number), max(ended, number)
                    yield event
                if not woken.is_set() and not await wait_for_news(woken, tick_s, alive):
                    return
        finally:
            self._waiters.discard(woken)

    def _after(self, position: int, ended: int) -> list[tuple[int, Event]]:
        found = [entry for entry in self._newest.values() if entry[0] > position]
        found += [entry for entry in self._ended if entry[0] > ended]
        return sorted(found, key=lambda entry: entry[0])

    def _event(self, event: str, data: object) -> tuple[int, Event]:
        self._last += 1
        text = msgspec.json.encode(data).decode()
        return self._last, Event(f"{self._epoch}-{self._last}", event, text)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()
