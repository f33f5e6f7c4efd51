"""What is known of every link, kept for a short while, so that a page costs next to nothing.

Owns how old a fact may be. A database is read again when something has happened in it, and every
few seconds in any case, but not until ten times as long has gone by as the look has taken: a node
with thousands of links has other work. A peer that its link can't reach is not asked again for
the page: the link itself tries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from peersync import __version__
from peersync.agent.orchestration.entries import ScheduleView
from peersync.agent.people.overview import HISTORY, Facts, Waiting
from peersync.agent.periodic.answers import LinkView
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.links import Local, read_links
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.messages import PositionReply
from peersync.agent.periodic.news import News
from peersync.agent.periodic.positions import Positions
from peersync.agent.proof.view import ProofSummary
from peersync.agent.status import Look, StatusReport, links_of, look_at, probed
from peersync.agent.status_sentence import RANK, is_fine, sentence, worst_first
from peersync.agent.status_view import DatabaseStatus, LinkStatus
from peersync.config.model import Config
from peersync.core.errors import PeersyncError, PeerUnreachable
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.pool import Database
from peersync.postgres.samples import read_lags
from peersync.postgres.sqlfiles import queries
from peersync.transport.peers import Peer

READ_S: Final = 10.0
STALE_S: Final = 30.0  # what a database said longer ago is not shown as how it is
HISTORY_S: Final = 60.0
SCHEDULES_S: Final = 15.0
PROBE_S: Final = 15.0
PROBES_S: Final = 1.0  # how often it is looked who is due
PROBES: Final = 32
READS: Final = 4
ASK_S: Final = 2.0  # a peer, for its position
AGAIN_S: Final = 2.0  # after a look that could not tell of the links
PAUSE: Final = 10.0  # times what a look has taken
SHORTEST_PAUSE_S: Final = 0.1  # after a look, where something has happened
LONGEST_PAUSE_S: Final = 5.0
HEARD_S: Final = 60.0  # so long a link that was heard needs no probe
_SQL: Final = queries("links")

Mark = tuple[object, ...]


@dataclass
class _Known:
    """What one database has said last. `links` are None where they have to be made anew."""

    look: Look
    views: dict[str, LinkView]
    waiting: Waiting
    mark: Mark
    at: float
    cost_s: float
    links: list[LinkStatus] | None = None
    partly: bool = False  # it has not told of the links


@dataclass
class _Lags:
    """Seconds of lag by peer's id and minute, of one database."""

    at: float = -HISTORY_S
    lags: dict[str, dict[datetime, float]] = field(default_factory=dict)


@dataclass
class _Probe:
    at: float
    problem: PeersyncError | None


class Lookout:
    """`begin` starts what is due; `facts` says what is known by then. `news` of that."""

    def __init__(
        self,
        config: Config,
        report: StatusReport,
        periodic: Periodic,
        positions: Positions,
        schedules: Callable[[], Awaitable[list[ScheduleView]]],
        spawn: Callable[..., asyncio.Task[None]],
        requests: Callable[[], int] = lambda: 0,
    ) -> None:
        """`requests`: how many nodes wait to be accepted as peers."""
        self._config = config
        self._requests = requests
        self._requested = 0
        self._report = report
        self._periodic = periodic
        self._positions = positions
        self._schedules = schedules
        self._spawn = spawn
        self._known: dict[str, _Known] = {}
        self._lags: dict[str, _Lags] = {}
        self._probes: dict[str, _Probe] = {}
        self._asked: dict[str, float] = {}  # when a database was to be read for the first time
        self._failed: dict[str, float] = {}  # when a look began that has not ended well
        self._next: dict[str, str] = {}  # by database
        self._proved: dict[str, str] = {}  # by database: when it was verified last
        self._next_at = -SCHEDULES_S
        self._probed_at = -PROBES_S
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._reading = asyncio.Semaphore(READS)
        self._probing = asyncio.Semaphore(PROBES)
        self.news = News()

    # --- looking ------------------------------------------------------------------------------
    def begin(self, *, max_age_s: float = READ_S) -> list[asyncio.Task[None]]:
        """Starts to read what is too old, or has changed; gives all that is under way."""
        now = time.monotonic()
        self._proved = _newest(self._report.proofs)
        if (requested := self._requests()) != self._requested:
            self._requested = requested
            self.news.tell()
        for database in self._report.databases:
            known = self._known.get(database.name)
            self._asked.setdefault(database.name, now)
            if now - self._failed.get(database.name, -READ_S) < READ_S:
                continue
            if known is None or self._is_due(known, now, max_age_s):
                self._start(f"look-{database.name}", partial(self._read, database))
        if now - self._next_at > SCHEDULES_S:
            self._next_at = now
            self._start("look-schedules", self._read_schedules)
        if now - self._probed_at > PROBES_S:
            self._probed_at = now
            for peer in self._to_probe(now):
                self._start(f"look-peer-{peer.name}", partial(self._probe, peer))
        return [*self._under_way.values()]

    async def refresh(self, *, max_age_s: float, wait_s: float) -> None:
        """Waits for what is due, but no longer than `wait_s`; the rest is known a little later."""
        tasks = self.begin(max_age_s=max_age_s)
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)

    def _is_due(self, known: _Known, now: float, max_age_s: float) -> bool:
        age_s = now - known.at
        pause_s = min(known.cost_s, LONGEST_PAUSE_S)  # much of that may be waiting for a peer
        if age_s < max(pause_s, SHORTEST_PAUSE_S):
            return False
        too_old = age_s > (AGAIN_S if known.partly else max(max_age_s, PAUSE * known.cost_s))
        return too_old or self._mark(known.look.name) != known.mark

    def _start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name in self._under_way:
            return
        task = self._spawn(work(), name=name)
        self._under_way[name] = task
        task.add_done_callback(lambda _task: self._under_way.pop(name, None))

    def _mark(self, name: str) -> Mark:
        """What differs when something has happened in a database, from memory alone."""
        report, hub = self._report, self._periodic.hubs[name]
        return (
            hub.news.count,
            hub.recheck.count,
            hub.failure,
            len(hub.links),
            sum(link.trouble.count > 0 for link in hub.links.values()),
            len(report.book.peers()),
            self._proved.get(name),
            *(p.session for p in report.jobs.views.running() if p.database == name),
            *(p.session for p in report.backups.running() if p.database == name),
        )

    async def _read(self, database: Database) -> None:
        name = database.name
        async with self._reading:
            began, mark = time.monotonic(), self._mark(name)
            self._failed[name] = began
            async with asyncio.TaskGroup() as group:
                look = group.create_task(look_at(database), name=f"status-{name}")
                views = group.create_task(self._views(self._periodic.hubs[name]))
                waiting = group.create_task(self._read_waiting(database))
            told = views.result()
            by_peer = {view.peer: view for view in told or ()}
            ended = time.monotonic()
            del self._failed[name]
            known = _Known(look.result(), by_peer, waiting.result(), mark, ended, ended - began)
            known.partly = told is None
            self._known[name] = known
            self.news.tell()

    async def _views(self, hub: Hub) -> list[LinkView] | None:
        async def ask(peer: Peer, local: Local) -> PositionReply:
            link = hub.links.get(peer.node_id)
            if link is not None and isinstance(link.trouble.error, PeerUnreachable):
                raise link.trouble.error
            try:
                async with asyncio.timeout(ASK_S):
                    return await self._positions.ask(hub, peer, local)
            except TimeoutError as error:
                words = f"{peer.name} did not answer within {ASK_S:g} s"
                raise PeerUnreachable(words) from error

        try:
            peers = self._report.book.peers()
            return await read_links(hub, peers, ask, patience_s=self._periodic.patience_s)
        except (PeersyncError, *TRANSLATED):
            return None  # what is wrong with the database is said by the look at it

    async def _read_waiting(self, database: Database) -> Waiting:
        kept = self._lags.setdefault(database.name, _Lags())
        try:
            async with database.acquire(f"counting what waits in {database.name}") as conn:
                row = await conn.fetchrow(_SQL["for_a_person"])
                if time.monotonic() - kept.at >= HISTORY_S:
                    kept.lags = _by_peer(await read_lags(conn, HISTORY))
                    kept.at = time.monotonic()
        except (PeersyncError, *TRANSLATED):
            known = self._known.get(database.name)
            return known.waiting if known else Waiting()
        return Waiting(row["open"], row["quarantined"], len(row["parked"]))

    # --- peers and schedules ------------------------------------------------------------------
    def _to_probe(self, now: float) -> list[Peer]:
        heard = {
            link.node_id
            for hub in self._periodic.hubs.values()
            for link in hub.links.values()
            if link.contact_at is not None and time.time() - link.contact_at < HEARD_S
        }
        due = []
        for peer in self._report.book.peers():
            known = self._probes.get(peer.node_id)
            if peer.node_id not in heard and (known is None or now - known.at > PROBE_S):
                due.append(peer)
        return due

    async def _probe(self, peer: Peer) -> None:
        async with self._probing:
            problem = await probed(self._report.probe(peer))
        known = self._probes.get(peer.node_id)
        self._probes[peer.node_id] = _Probe(time.monotonic(), problem)
        if known is None or str(known.problem) != str(problem):
            for one in self._known.values():
                one.links = None
            self.news.tell()

    async def _read_schedules(self) -> None:
        soonest: dict[str, str] = {}
        for view in await self._schedules():
            for database in self._databases_of(view.name) if view.next else ():
                soonest[database] = min(view.next or "", soonest.get(database) or "9")
        self._next = soonest

    def _databases_of(self, schedule: str) -> Iterable[str]:
        """Which databases a schedule brings up to date."""
        every = self._report.databases.names()
        for one in self._config.schedule:
            if one.name == schedule and one.run != "sets":
                return every if one.run == "bulk" else [one.database or next(iter(every), "")]
        return ()

    # --- what is known ------------------------------------------------------------------------
    def facts(self) -> Facts:
        """As far as was read by now; the links of a database that was not are "unknown"."""
        report = self._report
        peers = report.book.peers()
        links: dict[str, list[LinkStatus]] = {peer.name: [] for peer in peers}
        databases, reading = [], []
        for database in report.databases:
            known = self._of_late(database.name)
            if self._is_new(database.name):
                reading.append(database.name)
            else:
                databases.append(_status(database.name, known))
            for link in self._links(database.name, known, peers):
                if link.peer in links:  # it may have been removed since
                    links[link.peer].append(link)
        for of_peer in links.values():
            of_peer.sort(key=worst_first)
        every = sorted((link for of_peer in links.values() for link in of_peer), key=worst_first)
        waits = [known.waiting for known in self._known.values()]
        return Facts(
            node=report.node,
            version=__version__,
            sentence=_said(databases, every, reading),
            fine=not reading and is_fine(databases, every),
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            links=links,
            rank=RANK,
            waiting=Waiting(
                sum(w.conflicts for w in waits),
                sum(w.quarantined for w in waits),
                sum(w.parked for w in waits),
            ),
            running=report.jobs.views.running(),
            giving=report.backups.running(),
            history=self._history,
            next_at=lambda name: self._soonest(links[name]),
            warnings=[*report.troubles(), *(w for d in databases for w in d.warnings)],
            requests=self._requests(),
        )

    def _is_new(self, name: str) -> bool:
        """It has not answered yet, and has hardly been asked: nothing says that it can't."""
        asked_at = self._asked.get(name, time.monotonic())
        return name not in self._known and time.monotonic() - asked_at < READ_S

    def _of_late(self, name: str) -> _Known | None:
        """None where a database has not answered for so long that nothing is known of it."""
        known = self._known.get(name)
        limit_s = max(STALE_S, 2 * PAUSE * known.cost_s) if known else 0.0
        return known if known and time.monotonic() - known.at < limit_s else None

    def _links(
        self, name: str, known: _Known | None, peers: tuple[Peer, ...]
    ) -> Iterable[LinkStatus]:
        if known is None:
            return [LinkStatus(database=name, peer=p.name, state="unknown") for p in peers]
        if known.links is None:
            away = {p.name: one.problem for p in peers if (one := self._probes.get(p.node_id))}
            known.links = links_of(self._report, known.look, peers, away, known.views)
        return known.links

    def _history(self, peer: str) -> list[float]:
        """The worst lag of its databases in each of the last minutes."""
        node_id = self._report.book.get(peer).node_id
        found = [kept.lags[node_id] for kept in self._lags.values() if node_id in kept.lags]
        if not found:
            return []
        minute = datetime.now(UTC).replace(second=0, microsecond=0)
        minutes = [minute - timedelta(minutes=back) for back in range(HISTORY, 0, -1)]
        return [max(lags.get(at, 0.0) for lags in found) for at in minutes]

    def _soonest(self, links: list[LinkStatus]) -> str | None:
        found = (self._next.get(link.database) for link in links)
        return min(filter(None, found), default=None)


def _said(databases: list[DatabaseStatus], links: list[LinkStatus], reading: list[str]) -> str:
    if reading and all(database.reachable for database in databases):
        return f"Reading {', '.join(reading)} …"
    return sentence(databases, links)


def _status(name: str, known: _Known | None) -> DatabaseStatus:
    if known is None:
        return DatabaseStatus(name=name, reachable=False, problem=f"{name} has not answered lately")
    return known.look.status


def _newest(proofs: Mapping[tuple[str, str], ProofSummary]) -> dict[str, str]:
    found: dict[str, str] = {}
    for (database, _), proof in proofs.items():
        found[database] = max(proof.checked_at, found.get(database, ""))
    return found


def _by_peer(rows: Iterable[tuple[str, datetime, float]]) -> dict[str, dict[datetime, float]]:
    found: dict[str, dict[datetime, float]] = {}
    for peer_id, at, lag_s in rows:
        found.setdefault(peer_id, {})[at] = lag_s
    return found
