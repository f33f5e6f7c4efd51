"""Event streams: a ring of the last events, their readers over HTTP, and the parser.

Owns the numbering, the replay after `Last-Event-ID` and the rule that a reader never holds
up the writer: a reader is only a position in the ring. One that falls behind the ring's
oldest event gets a `lost` event with the number that it missed, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from peersync.core.errors import ProtocolError

RING_SIZE = 1000
PING_S = 15.0
SEND_TIMEOUT_S = 60.0
MAX_EVENT_BYTES = 1024 * 1024
LOST = "lost"


class Event(msgspec.Struct, frozen=True):
    """One event. `data` is JSON text without line breaks; `id` is "EPOCH-NUMBER"."""

    id: str
    event: str
    data: str


class EventRing:
    """The last events of one subject. All methods are called from the event loop."""

    def __init__(self, epoch: str, size: int = RING_SIZE) -> None:
        """`epoch` changes with each start of the agent, so that old ids are not mistaken."""
        self._epoch = epoch
        self._events: deque[tuple[int, Event]] = deque(maxlen=size)
        self._last = 0
        self._waiters: set[asyncio.Event] = set()
        self._closed = False
        self.lost_total = 0

    def publish(self, event: str, data: object) -> None:
        """Adds an event; never waits. `data` is anything that has a JSON form."""
        self._last += 1
        text = msgspec.json.encode(data).decode()
        self._events.append((self._last, Event(f"{self._epoch}-{self._last}", event, text)))
        self._wake()

    def close(self) -> None:
        """Ends all readers once they have read what there is."""
        self._closed = True
        self._wake()

    async def read(
        self,
        after: str | None = None,
        *,
        alive: Callable[[], bool] = lambda: True,
        tick_s: float = PING_S,
    ) -> AsyncIterator[Event]:
        """The events after the one with this id, and then those to come, until `close`.

        Without an id, or with one of another epoch, reading begins at the oldest event.
        `alive` is asked every `tick_s` seconds in which nothing came.
        """
        position = position_of(after, self._epoch, self._last)
        woken = asyncio.Event()
        self._waiters.add(woken)
        try:
            while True:
                woken.clear()
                found = self._first_after(position)
                if found is not None:
                    number, event = found
                    if 0 <= position < number - 1:
                        yield self._lost_event(number - position - 1, number - 1)
                    position = number
                    yield event
                elif self._closed or not await wait_for_news(woken, tick_s, alive):
                    return
        finally:
            self._waiters.discard(woken)

    def _first_after(self, position: int) -> tuple[int, Event] | None:
        if not self._events or position >= self._last:
            return None
        oldest = self._events[0][0]
        return self._events[max(position + 1 - oldest, 0)]

    def _lost_event(self, count: int, number: int) -> Event:
        self.lost_total += count
        data = msgspec.json.encode({"lost": count}).decode()
        return Event(f"{self._epoch}-{number}", LOST, data)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.set()


def position_of(after: str | None, epoch: str, last: int) -> int:
    """Where a reader with this Last-Event-ID is; -1: it was promised nothing and loses nothing."""
    its, _, number = (after or "").rpartition("-")
    if its != epoch or not (number.isascii() and number.isdigit()):
        return -1
    return min(int(number[:18]), last)


async def wait_for_news(woken: asyncio.Event, tick_s: float, alive: Callable[[], bool]) -> bool:
    """True when woken; False when the reader is gone."""
    while True:
        try:
            async with asyncio.timeout(tick_s):
                await woken.wait()
        except TimeoutError:
            if not alive():
                return False
        else:
            return True


class NotStored(EventSourceResponse):
    """What streams says as much as other answers: no cache may keep it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.headers["Cache-Control"] = "no-store"  # the library's own is no-cache


async def serve_events(
    request: web.Request,
    ring: EventRing,
    *,
    wanted: Callable[[Event], bool] = lambda _event: True,
    ping_s: float = PING_S,
) -> web.StreamResponse:
    """Answers a GET with the ring's events until it closes or the reader goes away."""
    after = request.headers.get("Last-Event-ID") or request.query.get("after")
    stream = sse_response(
        request, ping_interval=ping_s, send_timeout=SEND_TIMEOUT_S, response_cls=NotStored
    )
    async with stream as response:
        async for event in ring.read(after, alive=response.is_connected, tick_s=ping_s):
            if event.event == LOST or wanted(event):
                await response.send(event.data, id=event.id, event=event.event)
        return response


class EventParser:
    """Turns the bytes of an event stream into events; bounded, for what comes from outside."""

    def __init__(self) -> None:
        self._buffer = b""
        self._id = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now; ProtocolError when one is too large."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise ProtocolError("an event is larger than 1 MiB")
        events = [self._line(line.rstrip(b"\r").decode("utf-8", "replace")) for line in lines]
        return [event for event in events if event is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            self._id = value
        elif field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
            if sum(map(len, self._data)) > MAX_EVENT_BYTES:
                raise ProtocolError("an event is larger than 1 MiB")
        return None

    def _dispatch(self) -> Event | None:
        data, name = "\n".join(self._data), self._event or "message"
        had_data = bool(self._data)
        self._event, self._data = "", []
        return Event(self._id, name, data) if had_data else None
