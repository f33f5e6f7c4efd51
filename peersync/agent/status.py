"""The status of a node: what its databases and peers say, read at one moment, worst first.

All are asked at once, and none is waited for because of another: what does not answer is a line
of the answer. How a link is judged is in `link_status`, and the words for all of it in
`status_sentence`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs, JobView, view_entry
from peersync.agent.link_status import LOOKED_AT, link_status, with_changes, with_proof
from peersync.agent.member_checks import read_alarms
from peersync.agent.periodic.answers import LinkView
from peersync.agent.proof.view import KeptView, ProofSummary
from peersync.agent.status_sentence import is_fine, sentence, worst_first
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.history import History
from peersync.postgres.log.members import read_replica
from peersync.postgres.pool import Database
from peersync.transport.peers import Peer, PeerBook


@dataclass(frozen=True)
class StatusReport:
    """Where the status is read from. `probe` raises when a peer can't be reached."""

    node: str
    databases: Databases
    book: PeerBook
    jobs: Jobs
    backups: Backups
    probe: Callable[[Peer], Awaitable[None]]
    periodic: Callable[[], Coroutine[Any, Any, list[LinkView]]]
    troubles: Callable[[], tuple[str, ...]] = tuple
    proofs: Mapping[tuple[str, str], ProofSummary] = field(default_factory=dict)
    kept: Mapping[str, KeptView] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What one database has said: its newest syncs, by peer; or why it said nothing."""

    name: str
    read: int
    by_peer: Mapping[str, list[JobView]]
    problem: PeersyncError | None
    warnings: tuple[str, ...]

    @property
    def status(self) -> DatabaseStatus:
        return _database(self.name, self.problem, self.warnings)


async def look_at(database: Database) -> Look:
    """Reads the history and the alarms of a database; never raises what it refuses with."""
    async with asyncio.TaskGroup() as group:
        read = group.create_task(_entries(History(database)), name=f"history-{database.name}")
        alarms = group.create_task(_alarms(database), name=f"alarms-{database.name}")
    entries, problem = read.result()
    by_peer: dict[str, list[JobView]] = {}
    for entry in entries:
        by_peer.setdefault(entry.peer, []).append(entry)
    return Look(database.name, len(entries), by_peer, problem, alarms.result())


async def make_status(report: StatusReport) -> Status:
    peers = report.book.peers()
    async with asyncio.TaskGroup() as group:
        probes = {
            p.name: group.create_task(probed(report.probe(p)), name=f"probe-{p.name}")
            for p in peers
        }
        looks = [group.create_task(look_at(d), name=f"status-{d.name}") for d in report.databases]
        periodic = group.create_task(report.periodic(), name="periodic-links")
    unreachable = {name: probe.result() for name, probe in probes.items()}
    views: dict[str, dict[str, LinkView]] = {}
    for view in periodic.result():
        views.setdefault(view.database, {})[view.peer] = view
    databases, links = [], []
    for task in looks:
        look = task.result()
        databases.append(msgspec.structs.replace(look.status, kept=report.kept.get(look.name)))
        links += links_of(report, look, peers, unreachable, views.get(look.name, {}))
    links.sort(key=worst_first)
    return Status(
        node=report.node,
        version=__version__,
        sentence=sentence(databases, links),
        fine=is_fine(databases, links),
        databases=databases,
        warnings=report.troubles(),
        links=links,
        running=report.jobs.views.running(),
        giving=report.backups.running(),
    )


def links_of(
    report: StatusReport,
    look: Look,
    peers: Sequence[Peer],
    unreachable: Mapping[str, PeersyncError | None],
    views: Mapping[str, LinkView],
) -> list[LinkStatus]:
    """One database with each peer. `unreachable` and `views` are by the peer's name."""
    name, links = look.name, []
    syncing = {p.source for p in report.jobs.views.running() if p.database == name}
    giving = [p for p in report.backups.running() if p.database == name]
    for peer in peers:
        entries = look.by_peer.get(peer.name, [])
        now: str | None = None
        if peer.name in syncing:
            now = "syncing"
        elif _is_giving(report, name, peer, entries, giving):
            now = "giving"
        if look.problem is not None and now is None:
            links.append(LinkStatus(database=name, peer=peer.name, state="unknown"))
            continue
        away = unreachable.get(peer.name)
        link = link_status(report.node, name, peer, away, entries, now, read=look.read)
        proof = report.proofs.get((name, peer.name))
        link = with_changes(link, views.get(peer.name), now, proof)
        links.append(with_proof(link, proof))
    return links


def _is_giving(
    report: StatusReport, database: str, peer: Peer, entries: list[JobView], giving: list[Progress]
) -> bool:
    """Also before the peer has told how far it is."""
    return any(p.database == database and p.target == peer.name for p in giving) or any(
        e.role == "source"
        and e.peer == peer.name
        and e.completed_at is None
        and e.id in report.backups
        for e in entries
    )


async def probed(probe: Awaitable[None]) -> PeersyncError | None:
    """Why a peer can't be reached; None for one that can."""
    try:
        await probe
    except PeersyncError as exc:
        return exc
    return None


async def _entries(history: History) -> tuple[list[JobView], PeersyncError | None]:
    try:
        return [view_entry(e) for e in await history.newest(LOOKED_AT)], None
    except PeersyncError as exc:
        return [], exc


async def _alarms(database: Database) -> tuple[str, ...]:
    """None where the database can't be asked: that is said elsewhere."""
    try:
        async with database.acquire(f"looking for what may go wrong in {database.name}") as conn:
            replica = await read_replica(conn)
            return tuple(await read_alarms(conn)) if replica else ()
    except (PeersyncError, *TRANSLATED):
        return ()


def _database(
    name: str, problem: PeersyncError | None, warnings: tuple[str, ...]
) -> DatabaseStatus:
    return DatabaseStatus(
        name=name,
        reachable=problem is None,
        warnings=warnings,
        problem=problem.message if problem else None,
        hint=problem.hint if problem else None,
    )
