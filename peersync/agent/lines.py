"""Keeps lines open to the peers that can't connect to this node.

For each peer that this node can dial one task asks it, now and then, whether it could connect
back. While it could not, that task keeps as many lines open as the peer wants: on them the
peer asks, and this node answers. What a line is, and what is allowed on it, is in `transport`.

One dial at a time for each peer, and a failed one holds the others back: a peer that is down
costs one attempt a pause, however many lines it should have.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from peersync.config.model import Config
from peersync.core.backoff import Backoff
from peersync.core.errors import NotFound, PeersyncError, PeerUnreachable
from peersync.transport.client import PeerClient
from peersync.transport.identity import Identity
from peersync.transport.line_routes import REACH_PATH, ReachReply
from peersync.transport.linedial import OpenLine, open_line
from peersync.transport.listener import ProtocolFactory
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.renewal import Renewal
from peersync.transport.tls import client_context
from peersync.transport.ways import Ways

log = logging.getLogger("peersync.lines")

ASK_EVERY_S = 60.0
LOOK_EVERY_S = 5.0  # into the configuration, which can be reloaded
ASK_OLD_PEER_S = 900.0
REPLY_S = 30.0  # the peer tries to connect meanwhile
MAX_LINES = 72  # to one peer, whatever it wants
SHORT_S = 1.0  # a line that ends sooner was no success
_random = random.SystemRandom()


class LineKeeper:
    """The lines of this node to all its peers. `run` ends when it is cancelled."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        book: PeerBook,
        ways: Ways,
        make_server: ProtocolFactory,
    ) -> None:
        """`make_server` gives a protocol that answers the requests of one line."""
        self._config = config
        self._identity = identity
        self._book = book
        self._ways = ways
        self._make_server = make_server
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        book.watch(stored=self._begin, removed=self._end)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                for peer in self._book.peers():
                    self._begin(peer)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def _begin(self, peer: Peer) -> None:
        self._end(peer)
        if self._group is not None and peer.address is not None:
            work = self._keep(peer)
            self._tasks[peer.node_id] = self._group.create_task(work, name=f"lines {peer.name}")

    def _end(self, peer: Peer) -> None:
        self._ways.forget(peer)
        if (task := self._tasks.pop(peer.node_id, None)) is not None:
            task.cancel()

    async def _keep(self, peer: Peer) -> None:
        while True:
            try:
                await PeerLines(
                    self._config,
                    self._identity,
                    peer,
                    self._ways,
                    self._make_server,
                    Renewal(self._identity, self._book),
                ).run()
            except Exception:
                log.exception("internal error: the lines to %s are begun anew later", peer.name)
            await asyncio.sleep(_around(ASK_EVERY_S))


class PeerLines:
    """The lines to one peer."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        peer: Peer,
        ways: Ways,
        make_server: ProtocolFactory,
        renewal: Renewal | None = None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._peer = peer
        self._renewal = renewal
        self._ways = ways
        self._make_server = make_server
        self._context = client_context(identity, peer)
        self._wanted = 0
        self._running: dict[int, asyncio.Task[None]] = {}
        self._dialing = asyncio.Lock()
        self._short = False
        self._dial_pauses = self._new_pauses()
        self._ask_pauses = _pauses(ASK_EVERY_S)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                if self._config.network.reverse_lines:
                    pause = await self._ask()
                else:
                    pause = self._close_all()
                for number in range(self._wanted):
                    task = self._running.get(number)
                    if task is None or task.done():
                        name = f"line {number} to {self._peer.name}"
                        task = group.create_task(self._keep_line(number), name=name)
                        self._running[number] = task
                await asyncio.sleep(_around(pause))

    def _close_all(self) -> float:
        """The owner wants no lines (any more); the time until that is looked up again."""
        self._want(0)
        for task in self._running.values():
            task.cancel()
        return LOOK_EVERY_S

    async def _ask(self) -> float:
        """Asks whether the peer could connect to us; the time until the next question."""
        network = self._config.network
        client = PeerClient(
            self._peer,
            self._identity,
            connect_timeout_s=network.connect_timeout_s,
            read_timeout_s=REPLY_S,
            connections=1,
            renewal=self._renewal,
        )
        try:
            async with client:
                reply = await client.call("POST", REACH_PATH, None, ReachReply)
        except NotFound:  # it is older than lines are
            self._wanted = 0
            return ASK_OLD_PEER_S
        except PeersyncError as error:
            if isinstance(error, PeerUnreachable):
                self._ways.note(self._peer, direct=False)
            log.debug("asking %s whether it reaches this server: %s", self._peer.name, error)
            return self._ask_pauses.next_pause(time.monotonic()) or ASK_EVERY_S
        self._ways.note(self._peer, direct=True)
        self._ask_pauses = _pauses(ASK_EVERY_S)
        self._want(0 if reply.reachable else min(reply.lines, MAX_LINES))
        return ASK_EVERY_S

    def _want(self, count: int) -> None:
        if count and not self._wanted:
            name = self._peer.name
            log.info("%s cannot connect to this server: keeping %d lines to it", name, count)
        elif self._wanted and not count:
            log.info("lines to %s are not needed any more", self._peer.name)
        self._wanted = count

    async def _keep_line(self, number: int) -> None:
        """One line, opened again whenever it ends, while so many are wanted."""
        while True:
            async with self._dialing:
                line = await self._open() if number < self._wanted else None
            if line is None:
                return
            async with line:
                await self._last(line)

    async def _last(self, line: OpenLine) -> None:
        try:
            async with asyncio.timeout(SHORT_S):
                await line.wait_ended()
        except TimeoutError:
            self._dial_pauses = self._new_pauses()
            await line.wait_ended()
        else:
            self._short = True

    async def _open(self) -> OpenLine | None:
        """A new line, however many attempts that takes; None when none is wanted any more."""
        if self._short:  # one pause, however many lines ended together
            self._short = False
            await self._pause()
        while self._wanted:
            try:
                line = await open_line(
                    self._peer,
                    self._context,
                    self._make_server,
                    timeout_s=self._config.network.connect_timeout_s,
                )
            except PeersyncError as error:
                log.debug("%s%s", error, f": {error.detail}" if error.detail else "")
                await self._pause()
            else:
                return line
        return None

    async def _pause(self) -> None:
        await asyncio.sleep(_around(self._dial_pauses.next_pause(time.monotonic()) or ASK_EVERY_S))

    def _new_pauses(self) -> Backoff:
        return _pauses(self._config.network.retry_max_s)


def _pauses(maximum_s: float) -> Backoff:
    return Backoff(maximum_s=maximum_s, total_s=float("inf"))


def _around(seconds: float) -> float:
    return seconds * _random.uniform(0.8, 1.2)
