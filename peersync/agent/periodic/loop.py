"""Periodic sync of a whole node: one publisher and one keeper a database, one puller a link.

Owns when they run: while the database is an active member of a group, this process holds its
lease, and the link's peer is known and not paused. Members, pauses and states are read from the
database again and again, so whatever changes them needs to tell nobody (`refresh` is only
quicker). What fails is begun again by `restart`, alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from peersync.agent.databases import Databases
from peersync.agent.periodic.feeds import Feeds
from peersync.agent.periodic.hub import Counts, Hub, Link
from peersync.agent.periodic.keeper import Keeper
from peersync.agent.periodic.links import Local, linked, read_local
from peersync.agent.periodic.marks import Marks
from peersync.agent.periodic.publisher import Publisher
from peersync.agent.periodic.puller import Puller
from peersync.agent.periodic.restart import Failures, explained, keep
from peersync.agent.systemd import Pulse, links_line
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import Locked, PeerUnreachable, root_error
from peersync.postgres.locks import Holder, lease
from peersync.postgres.log.members import Member, read_home, set_state
from peersync.postgres.pool import Database
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook

log = logging.getLogger("peersync.periodic")

LEASE: Final = "periodic"
LOOK_S: Final = 2.0
CONNECTIONS: Final = 8


class Periodic:
    """`run` until cancelled. `strict`: end with Locked where another process does the same.

    `serves`: whether this process answers the peers itself; otherwise it wakes the one that does.
    """

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        node_id: str,
        state_dir: Path,
        workers: Workers,
        *,
        strict: bool = False,
        serves: bool = True,
    ) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._client_for = client_for
        self._node_id = node_id
        self._strict = strict
        self.marks = Marks(state_dir, workers)
        self.job = secrets.token_hex(16)
        self.hubs = {d.name: self._hub_of(d, serves=serves) for d in databases}
        self.feeds = {n: Feeds(h, self.marks, workers) for n, h in self.hubs.items()}

    @property
    def patience_s(self) -> float:
        """For so long a change may be under way before a link counts as behind."""
        return self._config.periodic.interval_s

    def pulses(self) -> list[Pulse]:
        """Of the loop of each database, for the watchdog."""
        return [hub.pulse for hub in self.hubs.values()]

    def words(self) -> str:
        """How many links there are, for systemd's status line; "" for none."""
        links = [link for hub in self.hubs.values() for link in hub.links.values()]
        return links_line([link.trouble.count > 0 for link in links])

    def _hub_of(self, database: Database, *, serves: bool) -> Hub:
        patterns = self._databases.patterns(database.name)
        return Hub(database.name, self._pool(database), announces=not serves, patterns=patterns)

    def refresh(self, database: str) -> None:
        """Members, pauses or the state of a database have just changed."""
        hub = self.hub(database)
        hub.heard.clear()
        hub.recheck.tell()
        hub.news.tell()

    def poke(self, database: str, node_id: str | None = None) -> None:
        """Links that wait after a failure try again now."""
        for link in self.hub(database).links.values():
            if node_id in (None, link.node_id):
                link.poke.tell()

    def hub(self, database: str) -> Hub:
        """NotFound names the databases that there are."""
        self._databases.get(database)
        return self.hubs[database]

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for name in self.hubs:
                    group.create_task(self._keep(name), name=f"periodic-{name}")
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors
        finally:
            await self.close()

    async def close(self) -> None:
        for feeds in self.feeds.values():
            feeds.stop()
        for hub in self.hubs.values():
            hub.pulse.waits()
            await hub.database.close()

    def _pool(self, database: Database) -> Database:
        return Database(
            database.name,
            database.resolved,
            max_size=CONNECTIONS,
            connect_timeout_s=self._config.network.connect_timeout_s,
        )

    async def _keep(self, name: str) -> None:
        """One database, for ever; its failures are its own."""
        hub = self.hubs[name]
        failures = Failures(f"periodic sync of {name}", self._config)
        hub.troubles.append(failures)
        told = ""
        while True:
            seen = hub.recheck.count
            try:
                await self._once(hub, failures)
            except Locked as error:
                if self._strict:
                    raise
                if told != error.message:
                    log.warning("%s", error.message)
                    told = error.message
                failures.over()
                await self._listen(hub)
            except Exception as error:
                pause = failures.note(explained(error, failures.what))
                hub.pulse.waits()
                await hub.recheck.wait(seen, pause)

    async def _once(self, hub: Hub, failures: Failures) -> None:
        """Waits until the database is a member that may go on, then runs its parts."""
        hub.pulse.waits()
        await self._databases.ready(hub.name)
        while True:
            seen = hub.recheck.count
            local = await self._admit(hub)
            failures.over()
            if local is None:
                hub.idle_at = time.time()
            else:
                if not (self._config.periodic.enabled or self._strict):
                    await self._listen(hub)
                    continue
                await self._lead(hub)
            await hub.recheck.wait(seen, LOOK_S)

    async def _admit(self, hub: Hub) -> Local | None:
        """The database as an active member; one that may not go on is held (R13)."""
        hub.pulse.waits()
        async with hub.database.acquire(f"reading the members of {hub.name}") as conn:
            hub.pulse.turn()
            mark = await self.marks.current(hub.name)
            hub.pulse.waits()
            local = await read_local(conn)
            hub.pulse.turn()
            if local is None or local.replica.state != "active":
                return None
            home = await read_home(conn)
            reason = await self.marks.objection(hub.name, local.replica, self._node_id, home, mark)
            if reason is not None:
                log.error("%s is held: %s", hub.name, reason)
                hub.pulse.waits()
                await set_state(conn, "held", reason)
                return None
        await self.marks.note(hub.name, local.replica.origin, local.replica.position, home)
        return local

    async def _lead(self, hub: Hub) -> None:
        """Holds the lease and runs the parts, until the database is no active member any more."""
        holder = Holder(self._config.node.name, os.getpid(), self.job, "its periodic sync")
        hub.pulse.waits()
        try:
            async with lease(hub.database, LEASE, holder):
                log.info("%s: periodic sync runs", hub.name)
                try:
                    await self._run_parts(hub)
                finally:
                    hub.links.clear()
        except Locked as error:
            raise _busy(hub.name, error) from error

    async def _run_parts(self, hub: Hub) -> None:
        settings = self._config.periodic
        publisher = Publisher(hub, settings)
        keeper = Keeper(hub, settings)
        shared = [
            Failures(f"publishing the changes of {hub.name}", self._config),
            Failures(f"keeping the log of {hub.name}", self._config),
        ]
        hub.troubles += shared
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(keep(work, trouble, hub.recheck), name=trouble.what)
                    for work, trouble in zip(
                        (lambda: publisher.run(shared[0].over), lambda: keeper.run(shared[1].over)),
                        shared,
                        strict=True,
                    )
                ]
                pullers = _Pullers(
                    hub,
                    self._config,
                    self._book,
                    self._client_for,
                    group,
                )
                try:
                    while (local := await self._admit(hub)) is not None:
                        seen = hub.recheck.count
                        pullers.fit(linked(local, self._book.peers()), local)
                        await hub.recheck.wait(seen, LOOK_S)
                finally:
                    hub.pulse.waits()  # the parts may need their database to end
                for task in [*tasks, *pullers.tasks.values()]:
                    task.cancel()
        finally:
            hub.troubles[:] = [t for t in hub.troubles if t not in shared]

    async def _listen(self, hub: Hub) -> None:
        """Another process publishes and applies: what it tells wakes those who wait here."""
        what = f"listening to the periodic sync of {hub.name}"
        hub.pulse.waits()
        async with hub.database.connect("listen", what=what) as conn:
            await conn.add_listener("peersync_news", lambda *_: hub.news.tell())
            hub.news.tell()  # something may have come before this listened
            seen = hub.recheck.count
            await hub.recheck.wait(seen, 5 * LOOK_S)


class _Pullers:
    """The pullers of one database, kept to the links that there are."""

    def __init__(
        self,
        hub: Hub,
        config: Config,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        group: asyncio.TaskGroup,
    ) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._hub = hub
        self._config = config
        self._book = book
        self._client_for = client_for
        self._group = group

    def fit(self, pairs: list[tuple[Peer, Member]], local: Local) -> None:
        """Begins, ends and replaces pullers; a paused link has none."""
        wanted = {p.node_id: (p, m) for p, m in pairs if m.counts and p.node_id not in local.paused}
        rows = local.replica.direction != "give"
        for node_id, task in list(self.tasks.items()):
            link = self._hub.links[node_id]
            known = wanted.get(node_id)
            other = known is None or known[1].origin != link.origin or link.rows != rows
            if other or task.done():
                task.cancel()
                del self.tasks[node_id], self._hub.links[node_id]
        for node_id, (peer, member) in wanted.items():
            if node_id not in self.tasks:
                self.tasks[node_id] = self._begin(peer, member, rows=rows)

    def _begin(self, peer: Peer, member: Member, *, rows: bool) -> asyncio.Task[None]:
        hub = self._hub
        trouble = Failures(f"{hub.name} from {peer.name}", self._config)
        counts = hub.counts.setdefault(peer.node_id, Counts())
        counts.peer = peer.name
        link = Link(peer.name, peer.node_id, member.origin, trouble, rows=rows, counts=counts)
        hub.links[peer.node_id] = link
        puller = Puller(hub, link, self._config, lambda: self._client(peer))
        return self._group.create_task(
            keep(puller.run, trouble, link.poke), name=f"pull-{hub.name}-{peer.name}"
        )

    def _client(self, peer: Peer) -> PeerClient:
        known = self._book.find(peer.node_id)
        if known is None:
            raise PeerUnreachable(f"{peer.name} is no peer any more", hint="peersync peer list")
        return self._client_for(known)


def _busy(database: str, error: Locked) -> Locked:
    """Who has the lease, in words about periodic sync."""
    holder = error.data.get("holder")
    if holder is None:
        return Locked(f"another process took over the periodic sync of {database}")
    return Locked(
        f"the periodic sync of {database} runs already: node {holder['node']},"
        f" pid {holder['pid']}, since {holder['since']}",
        hint="let one do it: periodic.enabled = false makes the agent leave it to others",
        holder=holder,
    )
