"""Each channel in a task of its own: what waits is sent in order, again and again until it arrives.

A channel that hangs, refuses or can't even be set up holds up nobody: neither a sync nor another
channel. It is shown as failing, and what waits for it is kept for a day. It is made anew after
each failure, so a mended file of a secret is taken up without a restart.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from peersync.agent.notify.heartbeat import Heartbeat
from peersync.agent.notify.outlet import Outlet
from peersync.agent.workers import apart
from peersync.config.orchestration import Channel
from peersync.core.errors import PeersyncError, Undelivered
from peersync.core.incidents import Incidents, Message

log = logging.getLogger("peersync.notify")

KEEP_S: Final = 86_400.0  # a message that is older helps nobody
REFUSED_TRIES: Final = 3
BEAT_S: Final = 60.0


@dataclass
class Health:
    """How a channel does. `error`: why the last try failed, or reached not everybody."""

    sent: int = 0
    failures: int = 0  # in a row
    dropped: int = 0
    last_sent: float | None = None
    error: PeersyncError | None = None


@dataclass(frozen=True)
class Pauses:
    """Between tries, doubling, in seconds."""

    first_s: float = 5.0
    longest_s: float = 300.0

    def after(self, failures: int) -> float:
        return min(self.first_s * 2.0 ** min(failures - 1, 20), self.longest_s)


class Tries:
    """One channel's outlet: made when needed, tried with a limit of time, and its health."""

    def __init__(self, settings: Channel, make: Callable[[], Outlet]) -> None:
        """`make` blocks, perhaps for ever, and raises ConfigError."""
        self.settings = settings
        self.health = Health()
        self._make = make
        self._making: asyncio.Future[Outlet] | None = None
        self._outlet: Outlet | None = None

    async def send(self, message: Message) -> None:
        """Raises PeersyncError. Anything that a library raises is this channel's own failure."""
        await self._guarded(lambda outlet: outlet.send(message))

    async def beat(self, *, failing: bool) -> None:
        async def beaten(outlet: Outlet) -> str | None:
            assert isinstance(outlet, Heartbeat)
            await outlet.beat(failing=failing)
            return None

        await self._guarded(beaten)

    async def _made(self) -> Outlet:
        """One that hangs is waited for again at the next try: no second thread hangs beside it."""
        if self._making is None or self._making.done():
            self._making = apart(self._make)
        return await asyncio.shield(self._making)

    async def _guarded(self, work: Callable[[Outlet], Awaitable[str | None]]) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                if self._outlet is None:
                    self._outlet = await self._made()
                lacking = await work(self._outlet)
        except PeersyncError as error:
            raise self._failed(error) from error
        except TimeoutError as error:
            words = f"no answer within {self.settings.timeout_s:g} s"
            raise self._failed(Undelivered(words)) from error
        except Exception as error:  # a bug in one channel must not end the others
            log.exception("internal error in channel %s", self.settings.name)
            kind = type(error).__name__
            raise self._failed(Undelivered(f"internal error: {kind}, see the log")) from error
        if self.health.failures:
            log.info(
                "channel %s works again after %d errors", self.settings.name, self.health.failures
            )
        if lacking is not None:
            log.warning("channel %s: %s", self.settings.name, lacking)
        self.health.sent += 1
        self.health.failures = 0
        self.health.error = Undelivered(lacking) if lacking is not None else None
        self.health.last_sent = time.time()

    def _failed(self, error: PeersyncError) -> PeersyncError:
        health = self.health
        if not health.failures or str(error) != str(health.error):
            words = f"{error.message}: {error.detail}" if error.detail else error.message
            log.warning("channel %s: %s", self.settings.name, words)
        health.failures += 1
        health.error = error
        self._outlet = None
        return error


class Sender:
    """Sends what waits in the memory of one channel. `changed`: the memory has to be kept."""

    def __init__(
        self,
        tries: Tries,
        incidents: Incidents,
        changed: Callable[[], None],
        pauses: Pauses | None = None,
    ) -> None:
        self._tries = tries
        self._incidents = incidents
        self._changed = changed
        self._pauses = pauses or Pauses()
        self._news = asyncio.Event()
        self._news.set()  # what waits since before a restart

    def wake(self) -> None:
        self._news.set()

    async def run(self) -> None:
        waiting = self._incidents.memory.channels[self._tries.settings.name].waiting
        while True:
            await self._news.wait()
            self._news.clear()
            while waiting:
                message = waiting[0]
                arrived = await self._deliver(message)
                if message in waiting:  # else it had to make room
                    waiting.remove(message)
                    if not arrived:
                        self._tries.health.dropped += 1
                        self._incidents.dropped(self._tries.settings.name, message)
                self._changed()

    async def _deliver(self, message: Message) -> bool:
        """Until it has arrived; False when it was given up."""
        refused = 0
        while time.time() - message.at < KEEP_S:
            try:
                await self._tries.send(message)
            except PeersyncError as error:
                pause_s = self._pauses.after(self._tries.health.failures)
                refused += bool(error.data.get("refused"))
                pause_s = max(pause_s, error.data.get("retry_after_s") or 0.0)
                if refused >= REFUSED_TRIES:
                    break
                await asyncio.sleep(pause_s)
            else:
                return True
        log.warning("channel %s: a message was given up", self._tries.settings.name)
        return False


class Beater:
    """The same for a heartbeat: the newest word counts, once a minute or when it changes."""

    def __init__(self, tries: Tries) -> None:
        self._tries = tries
        self._news = asyncio.Event()
        self._failing = False
        self._said: tuple[bool, float] | None = None

    def beat(self, *, failing: bool, now: float) -> None:
        """`now` is of a monotonic clock."""
        if self._said is None or self._said[0] != failing or now - self._said[1] >= BEAT_S:
            self._failing, self._said = failing, (failing, now)
            self._news.set()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._tries.beat(failing=self._failing)
            except PeersyncError:
                if self._said is not None:  # said at the next look
                    self._said = (self._said[0], self._said[1] - BEAT_S)
