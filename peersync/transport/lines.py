"""Reverse lines: connections that a peer opened, on which this node is the one that asks.

A peer that this node can't connect to (it is behind a firewall, or NAT) connects to us and
turns the connection round: from then on we send the requests. Owns the lines that wait to
be used, proves now and then that each still works, and bounds how many a peer may hold.
It opens no connection, and knows nothing of HTTP beyond its own ping.

A line is held by the handler of the request that turned it round (`Lines.hold`): that runs
as long as the line, so stopping the listener ends the lines as it ends requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from peersync.core.errors import Denied, Locked, ProtocolError
from peersync.transport.answer import Answer
from peersync.transport.identity import fingerprint
from peersync.transport.listener import peer_certificate
from peersync.transport.relay import Relay, watch_closely

MAX_HELD = 96
SPARE_LINES = 6  # beside the chunks in flight: manifest, progress, status, a ping
_PING = b"GET /api/sync/ping HTTP/1.1\r\nHost: peersync\r\nAccept-Encoding: identity\r\n\r\n"
_random = random.SystemRandom()


@dataclass(frozen=True)
class Times:
    """In seconds. `silence_s` is how long the other end waits for our ping.

    `answer_s` allows for a link that other lines fill.
    """

    ping_s: float = 15.0
    answer_s: float = 5.0
    fresh_s: float = 1.0
    silence_s: float = 45.0


DEFAULT_TIMES = Times()


class Line(asyncio.Protocol):
    """One line while it waits: it answers to a ping, and says nothing unasked."""

    def __init__(self, node_id: str, relay: Relay, times: Times = DEFAULT_TIMES) -> None:
        self.node_id = node_id
        self.taken = False
        self.ended = asyncio.Event()
        self.wake = asyncio.Event()
        self._relay = relay
        self._times = times
        self._heard_at = time.monotonic()
        self._lock = asyncio.Lock()
        self._answer: Answer | None = None
        self._reply: asyncio.Future[int] | None = None

    def give(self, user: asyncio.Protocol, certificate_id: str) -> None:
        """The line is `user`'s from now on. Denied when it has not the node's certificate."""
        transport = self._relay.transport
        certificate = peer_certificate(transport) if transport else None
        if certificate is None or fingerprint(certificate) != certificate_id:
            self.abort()
            raise Denied("the certificate on this line is another node's")
        self._relay.hand_over(user)

    def abort(self) -> None:
        if self._relay.transport is not None:
            self._relay.transport.abort()

    async def answers(self, *, fresh_s: float = 0.0) -> bool:
        """Whether the other end is there; not asked when it was, `fresh_s` ago."""
        async with self._lock:
            if self.ended.is_set() or self._relay.transport is None:
                return False
            if time.monotonic() - self._heard_at < fresh_s:
                return True
            self._answer, self._reply = Answer(), asyncio.get_running_loop().create_future()
            self._relay.transport.write(_PING)
            try:
                async with asyncio.timeout(self._times.answer_s):
                    return await self._reply == 200
            except (TimeoutError, ConnectionError, ProtocolError):
                return False
            finally:
                self._answer = self._reply = None

    # --- as the user of the connection ----------------------------------------------------
    def data_received(self, data: bytes) -> None:
        answer, reply = self._answer, self._reply
        if answer is None or reply is None or reply.done():
            self.abort()  # it speaks unasked
            return
        try:
            if not answer.feed(data):
                return
        except ProtocolError as error:
            reply.set_exception(error)
            return
        self._heard_at = time.monotonic()
        reply.set_result(0 if answer.rest else answer.status)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("the line is gone"))
        self.ended.set()
        self.wake.set()


class Lines:
    """All lines of this node, by the peer that opened them."""

    def __init__(
        self, *, wanted: Callable[[], int] = lambda: 10, times: Times = DEFAULT_TIMES
    ) -> None:
        """`wanted`: how many a peer should hold that can't be reached otherwise."""
        self._wanted = wanted
        self.times = times
        self._held: defaultdict[str, set[Line]] = defaultdict(set)
        self._waiting: defaultdict[str, list[Line]] = defaultdict(list)
        self._came: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._closed = False

    @property
    def wanted(self) -> int:
        return min(self._wanted(), MAX_HELD)

    def count(self, node_id: str) -> int:
        """How many lines a peer holds, in use or waiting."""
        return len(self._held.get(node_id, ()))

    def waiting(self, node_id: str) -> int:
        return len(self._waiting.get(node_id, ()))

    def refuse_more(self, node_id: str, name: str) -> None:
        """Locked when a peer holds as many as it may; those that are dead are then found."""
        # Twice as many as are wanted: after a break the old ones may look alive for a while.
        limit = min(2 * self.wanted, MAX_HELD)
        if self._closed or self.count(node_id) >= limit:
            self._prove_all(node_id)
            raise Locked(f"{name} holds {self.count(node_id)} lines, {limit} are allowed")

    async def hold(self, line: Line, *, useful: Callable[[], bool] = lambda: True) -> None:
        """Keeps a line until it ends. One that waits is let go when it is not `useful`."""
        node_id = line.node_id
        self._held[node_id].add(line)
        self._waiting[node_id].append(line)
        self._came[node_id].set()
        try:
            while not line.ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_around(self.times.ping_s)):
                        await line.wake.wait()
                line.wake.clear()
                if line.taken:
                    await line.ended.wait()
                elif not (useful() and await line.answers(fresh_s=self.times.fresh_s)):
                    break
        finally:
            line.abort()
            self._forget(line)

    async def take(self, node_id: str, wait_s: float) -> Line | None:
        """A line that has just proved that it works; None when none comes in `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                while True:
                    line = await self._next(node_id)
                    if await self._works(line):
                        return line
                    self._prove_all(node_id)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Ends all lines, and lets none in any more."""
        self._closed = True
        for lines in list(self._held.values()):
            for line in list(lines):
                line.abort()

    async def _next(self, node_id: str) -> Line:
        waiting = self._waiting[node_id]
        while not waiting:
            self._came[node_id].clear()
            await self._came[node_id].wait()
        line = waiting.pop()  # the newest: most probably alive
        line.taken = True
        line.wake.set()
        return line

    async def _works(self, line: Line) -> bool:
        works = False
        try:
            works = await line.answers(fresh_s=self.times.fresh_s)
        finally:
            if not works:  # cancelled in the middle of a ping, too: its answer is still to come
                line.abort()
        return works

    def _prove_all(self, node_id: str) -> None:
        """What is dead shall go now, all at once, and not one by one."""
        for line in self._waiting.get(node_id, ()):
            line.wake.set()

    def _forget(self, line: Line) -> None:
        if line in self._waiting[line.node_id]:
            self._waiting[line.node_id].remove(line)
        held = self._held[line.node_id]
        held.discard(line)
        if not held:
            del self._held[line.node_id]


def make_line(node_id: str, transport: asyncio.Transport, times: Times) -> Line:
    """The line on an accepted connection. ProtocolError when it can't be turned round."""
    relay = transport.get_protocol()
    if not isinstance(relay, Relay):
        raise ProtocolError("this connection cannot be turned round")
    line = Line(node_id, relay, times)
    watch_closely(transport)
    relay.hand_over(line)
    return line


def _around(seconds: float) -> float:
    return seconds * _random.uniform(0.8, 1.0)
