"""Looks at the node every 15 seconds, and tells the channels what has changed.

Owns the pace, the persisted memory and the tasks of the channels. It reads what others know and
changes nothing of theirs; no sync waits for it. Without a channel it does nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from peersync.agent.notify.channels import make_tries
from peersync.agent.notify.ended import Ended
from peersync.agent.notify.facts import NODE, Looked, disk, look_at, retention, silent
from peersync.agent.notify.sender import Beater, Pauses, Sender
from peersync.agent.notify.store import Store, encoded
from peersync.agent.status_view import Status
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.incidents import Fact, Incidents, Memory, Message, Notice, Rules
from peersync.wire.spool import free_bytes

log = logging.getLogger("peersync.notify")

LOOK_S: Final = 15.0
LOOK_LIMIT_S: Final = 60.0
SLOW_LOOK_S: Final = 60.0  # of what costs more to look at
START_S: Final = 60.0  # after a start for so long nobody is silent: peers may start too
SAVE_S: Final = 60.0
HOUR_S: Final = 3600.0
ENOUGH: Final = 1.1  # a disk has recovered with so much more than the limit


@dataclass(frozen=True)
class Sources:
    """Where facts come from. `kept`: databases whose log is kept for somebody for too long.

    `contacts`: when the puller of each (database, peer) last had an answer, of time.time().
    `pending`: who waits to be accepted as a peer.
    """

    status: Callable[[], Awaitable[Status]]
    contacts: Callable[[], Mapping[tuple[str, str], float]] = dict
    kept: Callable[[], Awaitable[Mapping[str, tuple[str, str | None]]]] | None = None
    pending: Callable[[], list[Fact]] = list


@dataclass(frozen=True)
class Pace:
    """Seconds. Tests have a faster one."""

    look_s: float = LOOK_S
    pauses: Pauses = field(default_factory=Pauses)


class Watcher:
    """`run` until cancelled. Before it has begun, nothing is known and nothing is said."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        sources: Sources,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        node = config.node
        self._limits = config.notify
        self._sets = config.table_set
        self._sources = sources
        self._pace = pace or Pace()
        self._clock = clock
        self._places = {"spool_dir": Path(node.spool_dir), "state_dir": Path(node.state_dir)}
        self._workers = Workers(pumps=1)  # its own: what hangs here must not hold up a sync
        self._store = Store(Path(node.state_dir))
        self.tries = {
            channel.name: make_tries(channel, node.name, environ) for channel in config.channel
        }
        self._started = clock()
        self.incidents = self._of(Memory())
        self._poked = asyncio.Event()
        self._look_soon = False
        self._saved, self._saved_at = b"", 0.0
        self._slow_at = 0.0
        self._slow: list[Fact] = []
        self._members: set[tuple[str, str]] = set()
        self._senders: dict[str, Sender] = {}
        self._beaters: dict[str, Beater] = {}

    def _of(self, memory: Memory) -> Incidents:
        limits = self._limits
        rules = Rules(limits.repeat_h * HOUR_S, limits.group_s, limits.per_hour)
        routes = {
            name: frozenset(t.settings.events)
            for name, t in self.tries.items()
            if t.settings.kind != "heartbeat"
        }
        return Incidents(rules, routes, memory)

    # --- its life -----------------------------------------------------------------------
    async def run(self) -> None:
        try:
            if self.tries:
                await self.begin()
                async with asyncio.TaskGroup() as group:
                    for name, sender in self._senders.items():
                        group.create_task(sender.run(), name=f"channel-{name}")
                    for name, beater in self._beaters.items():
                        group.create_task(beater.run(), name=f"channel-{name}")
                    group.create_task(self._turn(), name="notify-looks")
        finally:
            self._workers.close()

    async def begin(self) -> None:
        """Reads what was said before the restart, and makes the senders."""
        before = self.incidents.memory  # what ended runs have told meanwhile
        self.incidents = self._of(await self._workers.run(self._store.load))
        for fact in [i.fact for i in before.incidents.values()]:
            self.incidents.add(fact, self._clock())
        self.incidents.memory.happened += before.happened
        for name, tries in self.tries.items():
            if tries.settings.kind == "heartbeat":
                self._beaters[name] = Beater(tries)
            else:
                self._senders[name] = Sender(
                    tries, self.incidents, self._poked.set, self._pace.pauses
                )

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        look_at_s = loop.time()
        while True:
            now = self._clock()
            if loop.time() >= look_at_s:
                look_at_s = loop.time() + self._pace.look_s
                await self.look(now)
                now = self._clock()
            await self.say(now)
            pause_s = look_at_s - loop.time()
            due = self.incidents.due_in(now)
            if due is not None:
                pause_s = min(pause_s, due + 0.01)
            if await self._is_poked(max(pause_s, 0.0)) and self._look_soon:
                self._look_soon, look_at_s = False, loop.time()

    async def _is_poked(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await self._poked.wait()
        except TimeoutError:
            return False
        self._poked.clear()
        return True

    # --- what others tell ---------------------------------------------------------------
    def ended(self, run: Ended) -> None:
        """A run has ended: its end is said, or it lasts, or one that lasted is over."""
        if not self.tries:
            return
        now = self._clock()
        fact = run.fact(now)
        if run.outcome == "good":
            self.incidents.settle(run.key, now)
        if fact is not None and fact.sticky:
            self.incidents.add(fact, now)
        elif fact is not None:
            self.incidents.happened(fact)
        self._look_soon = True  # the status shows it, too
        self._poked.set()

    def is_member(self, database: str, peer: str) -> bool:
        """Whether the status shows periodic sync there, and hides how a full sync ended."""
        return (database, peer) in self._members

    # --- one round ----------------------------------------------------------------------
    async def look(self, now: float) -> None:
        """Facts of this moment go to the incidents. What can't be seen is one of them."""
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                await self._look(now)
        except TimeoutError:
            self.incidents.add(_blind(f"no answer within {LOOK_LIMIT_S:g} s", now), now)
        except PeersyncError as error:
            self.incidents.add(_blind(error.message, now), now)
        except Exception as error:  # who watches must outlive the bugs of what is watched
            log.exception("internal error in a look at this node")
            self.incidents.add(_blind(f"internal error: {type(error).__name__}", now), now)

    async def _look(self, now: float) -> None:
        status = await self._sources.status()
        looked = look_at(status, self._sources.contacts(), self._limits, now)
        self._members = {(v.database, v.peer) for v in status.links if v.periodic is not None}
        self._hear(looked, now)
        if now - self._started >= START_S:
            silent(looked, self.incidents.memory.heard, self._limits, now)
        else:
            looked.unsure |= {f"peer/{peer}" for peer in looked.unheard}
        if not 0 <= now - self._slow_at < SLOW_LOOK_S:
            self._slow_at, self._slow = now, await self._look_slowly(now)
        facts = [*looked.facts, *self._slow, *self._sources.pending()]
        keys = {fact.key for fact in facts}
        stale = {
            i.fact.scope
            for key, i in self.incidents.memory.incidents.items()
            if not i.fact.sticky and key not in keys and i.fact.scope not in looked.scopes
        }
        self.incidents.forget(stale | looked.over, keep=keys)
        self._forget_what_is_gone(status)
        self.incidents.look(facts, now, frozenset(looked.unsure))

    def _forget_what_is_gone(self, status: Status) -> None:
        """Runs of databases, peers and sets that this node has no more will never go well."""
        databases = {database.name for database in status.databases}
        peers, sets = {link.peer for link in status.links}, {s.name for s in self._sets}
        for key, incident in list(self.incidents.memory.incidents.items()):
            kind, _, rest = key.partition("/")
            fact = incident.fact
            gone = fact.database not in {None, *databases} or fact.peer not in {None, *peers}
            gone = gone or (kind == "set" and rest.split("/")[0] not in sets)
            if fact.sticky and gone:
                self.incidents.dismiss(key)

    def _hear(self, looked: Looked, now: float) -> None:
        heard = self.incidents.memory.heard
        for peer in looked.heard:
            heard[peer] = now
        for peer in looked.unheard.keys() - looked.heard:
            heard[peer] = min(heard.get(peer, now), now)
        for peer in [p for p in heard if f"peer/{p}" not in looked.scopes]:
            del heard[peer]
        known = looked.heard | looked.unheard.keys()
        looked.unsure |= {f"peer/{p}" for p in heard if p not in known}

    async def _look_slowly(self, now: float) -> list[Fact]:
        limit_mib = self._limits.disk_free_mib
        facts = []
        free_in = await self._workers.run(_free, self._places)
        for place, free in free_in.items():
            path = self._places[place]
            full = f"disk/{place}" in self.incidents.memory.incidents
            wanted_mib = int(limit_mib * ENOUGH) if full else limit_mib
            if (fact := disk(place, str(path), free, wanted_mib, now)) is not None:
                facts.append(fact)
        if self._sources.kept is not None:
            kept = await self._sources.kept()
            facts += [retention(name, *words, now) for name, words in kept.items()]
        return facts

    async def say(self, now: float) -> None:
        """Messages that are due go to their channels, and into the file first."""
        self.incidents.say(now)
        await self.save()
        for sender in self._senders.values():
            sender.wake()
        quiet = now < self.incidents.memory.quiet_until
        for name, beater in self._beaters.items():
            events = frozenset(self.tries[name].settings.events)
            failing = self.incidents.lasting(events, now) and not quiet
            beater.beat(failing=failing, now=time.monotonic())

    async def save(self) -> None:
        """When peers were last heard of always changes: that alone is kept now and then."""
        memory, now = self.incidents.memory, self._clock()
        essence = encoded(msgspec.structs.replace(memory, heard={}))
        if essence == self._saved and 0 <= now - self._saved_at < SAVE_S:
            return
        self._saved, self._saved_at = essence, now
        await self._workers.run(self._store.save, encoded(memory))

    # --- what people ask ----------------------------------------------------------------
    async def quiet(self, until: float) -> None:
        self.incidents.quiet(until)
        self._poked.set()
        await self.save()

    async def dismiss(self, key: str) -> bool:
        """Somebody says that this is over; False where there is no such incident."""
        found = self.incidents.dismiss(key)
        await self.save()
        return found

    async def test(self, name: str) -> None:
        """One message to one channel, now; raises what went wrong."""
        now = self._clock()
        notice = Notice(
            kind="test",
            event="test",
            key="test",
            title="this is a test",
            impact="none: somebody has typed peersync notify test",
            since=now,
            lasted_s=0.0,
            hint="peersync notify list",
        )
        await self.tries[name].send(
            Message(id=f"{int(now * 1000)}-test", at=now, notices=(notice,))
        )

    def troubles(self) -> tuple[str, ...]:
        """Sentences for `peersync status`: the channels that fail."""
        return tuple(
            f"channel {name} fails: {tries.health.error.message}"
            for name, tries in self.tries.items()
            if tries.health.error is not None
        )


def _free(places: Mapping[str, Path]) -> dict[str, int]:
    """Bytes; each disk under the first of its names. Blocks."""
    disks: dict[int, str] = {}
    for name, path in places.items():
        place = path
        while not place.exists():
            place = place.parent
        disks.setdefault(place.stat().st_dev, name)
    return {name: free_bytes(places[name]) for name in disks.values()}


def _blind(words: str, now: float) -> Fact:
    return Fact(
        key="node/blind",
        event="failed",
        title="the state of this node can't be read",
        impact="whether its databases are in step is not known",
        since=now,
        scope=NODE,
        problem=words,
        hint="peersync check",
    )
