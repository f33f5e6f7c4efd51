"""One sentence that answers "is everything fine?", and what it rests on, worst first.

It never says more than is known: without a full sync from or to a peer the state is "never
synced", and a peer that does not answer is "unreachable", whatever the last sync said. A node
that only gives is fine when what it gave arrived; it is never told to take an older copy back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs, JobView, view_entry
from peersync.agent.member_checks import read_alarms
from peersync.agent.periodic.answers import LinkView
from peersync.agent.proof.view import ProofSummary
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress, seconds_between
from peersync.core.words import counted
from peersync.postgres.errors import TRANSLATED
from peersync.postgres.history import History
from peersync.postgres.log.members import read_replica
from peersync.postgres.pool import Database
from peersync.transport.peers import Peer, PeerBook

_LOOKED_AT = 200
_ORDER = (
    "failed", "partly", "undone", "unreachable", "conflict", "behind", "paused", "unknown",
    "never synced", "syncing", "giving", "synced", "given", "in sync", "expired",
)  # fmt: skip
RANK = {state: number for number, state in enumerate(_ORDER)}  # the worst is 0
_FINE = frozenset({"syncing", "giving", "synced", "given", "in sync", "expired"})


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
        databases.append(look.status)
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


def worst_first(link: LinkStatus) -> tuple[int, str, str]:
    """The key by which links are sorted."""
    return RANK[link.state], link.database, link.peer


def sentence(databases: list[DatabaseStatus], links: list[LinkStatus]) -> str:
    """How everything is; `links` are sorted, the worst first."""
    now = datetime.now(UTC).isoformat()
    if is_fine(databases, links, with_proofs=False) and not is_fine(databases, links):
        return _drift_sentence(links, now)
    return _sentence(databases, links, now)


def is_fine(
    databases: list[DatabaseStatus], links: list[LinkStatus], *, with_proofs: bool = True
) -> bool:
    """With `with_proofs`, what a verification has found to differ is not fine."""
    return (
        all(d.reachable for d in databases)
        and bool(links)
        and all(link.state in _FINE for link in links)
        and not (with_proofs and any(_differs(link) for link in links))
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
        link = _link(report.node, name, peer, away, entries, now, read=look.read)
        link = _with_changes(link, views.get(peer.name), now)
        links.append(_with_proof(link, report.proofs.get((name, peer.name))))
    return links


def _with_changes(link: LinkStatus, view: LinkView | None, now: str | None) -> LinkStatus:
    """The same where changes travel by themselves; a full sync that runs is shown all the same."""
    if view is None:
        return link
    if now is not None:
        return msgspec.structs.replace(link, periodic=view)
    return msgspec.structs.replace(
        link, state=view.state, problem=view.problem, hint=view.hint, periodic=view
    )


def _with_proof(link: LinkStatus, proof: ProofSummary | None) -> LinkStatus:
    """The same with what was proved; a difference is a problem where there is no other."""
    link = msgspec.structs.replace(link, proof=proof)
    if proof is None or not _differs(link) or link.problem is not None:
        return link
    return msgspec.structs.replace(
        link,
        problem=f"{counted(proof.differing, 'table')} differed when it was verified",
        hint=f"peersync verify {link.peer} --database {link.database} --rows",
    )


def _differs(link: LinkStatus) -> bool:
    return link.proof is not None and link.proof.differs_since is not None


def _drift_sentence(links: list[LinkStatus], now: str) -> str:
    found = [link for link in links if _differs(link)]
    since = found[0].proof.differs_since if found[0].proof else None
    what = f"{found[0].database} differs from {found[0].peer}, as was found {_age(since, now)}"
    return what + _more(len(found) - 1) + "."


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
        return [view_entry(e) for e in await history.newest(_LOOKED_AT)], None
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


@dataclass(frozen=True)
class _Way:
    """What went one way between a database and a peer, newest first. A cancel changes nothing."""

    ended: list[JobView]

    @property
    def last(self) -> JobView | None:
        """A sync of some tables that went well says nothing of what a whole one has left out."""
        found = [e for e in self.ended if e.state != "cancelled"]
        if found and found[0].chosen_tables and found[0].state == "done":
            return next((e for e in found if not e.chosen_tables), found[0])
        return found[0] if found else None

    @property
    def good(self) -> str | None:
        """When rows were last written, in whole or in part."""
        found = (e.completed_at for e in self.ended if e.state in ("done", "partly"))
        return next(found, None)

    @property
    def result(self) -> str | None:
        return self.ended[0].state if self.ended else None

    def state(self, well: str) -> str | None:
        if self.last is None:
            return None
        if self.last.undo == "undone":
            return "undone"
        return well if self.last.state == "done" else self.last.state

    @property
    def problem(self) -> str | None:
        if self.last is None or self.last.state == "done":
            return None
        return self.last.error.message if self.last.error else "some tables were left out"


def _way(entries: list[JobView], peer: Peer, role: str) -> _Way:
    return _Way([e for e in entries if e.peer == peer.name and e.role == role and e.completed_at])


def _link(
    node: str,
    database: str,
    peer: Peer,
    unreachable: PeersyncError | None,
    entries: list[JobView],
    now: str | None,
    *,
    read: int | None = None,
) -> LinkStatus:
    """`now` is what runs at this moment: syncing, giving or nothing.

    `read`: of how many syncs of the database `entries` are those of this peer.
    """
    taken, given = _way(entries, peer, "target"), _way(entries, peer, "source")
    took = now if now == "syncing" else taken.state("synced")
    gave = now if now == "giving" else given.state("given")
    state = min(filter(None, (took, gave)), key=_ORDER.index, default="never synced")
    away = unreachable is not None and (peer.address is not None or bool(took))
    problem, hint = None, None
    if state == "never synced" and (read or len(entries)) >= _LOOKED_AT:
        state, problem = "unknown", f"it is not among the newest {_LOOKED_AT} syncs of {database}"
    if state in ("failed", "partly") and state == took and taken.last:
        problem, hint = taken.problem, f"peersync jobs show {taken.last.id[:8]}"
    elif state in ("failed", "partly") and given.last:
        problem, hint = given.problem, f"on {peer.name}: peersync jobs show {given.last.id[:8]}"
    elif state == "undone" and taken.last:
        problem = "what the last sync had changed here was undone"
        hint = f"to have it again: peersync pull {peer.name} --database {database}"
    elif state in ("syncing", "giving"):
        hint = "peersync jobs list"
    elif unreachable is not None and away:
        state, problem, hint = "unreachable", unreachable.message, unreachable.hint
    elif state == "never synced":
        take = f"peersync pull {peer.name} --database {database}"
        there = f"peersync pull {node} --database {database}"
        both = f"peersync join {peer.name} --database {database}"
        hint = f"to keep both in step: {both}; to take it once: {take}; on {peer.name}: {there}"
        hint = hint if peer.address is not None else f"on {peer.name}: {there}"
    return LinkStatus(
        database=database,
        peer=peer.name,
        state=state,
        last_sync=taken.good,
        last_result=taken.result,
        last_job=taken.ended[0].id if taken.ended else None,
        last_given=given.good,
        last_given_result=given.last.state if given.last else None,
        problem=problem,
        hint=hint,
        away=away,
    )


def _sentence(databases: list[DatabaseStatus], links: list[LinkStatus], now: str) -> str:
    """The worst comes first; `now` is in ISO 8601."""
    down = [d.name for d in databases if not d.reachable]
    if down:
        return f"Database {down[0]} can't be reached" + _more(len(down) - 1) + "."
    if not databases:
        return "No database is configured."
    if not links:
        return "No peer is known yet."
    gone = [link for link in links if link.state == "expired"]
    if len(gone) == len(links):
        what = f"{gone[0].database} syncs with nobody now: {gone[0].peer} was expired"
        return what + _more(len(gone) - 1) + "."
    links = [link for link in links if link not in gone]
    for state, words in (
        ("failed", "failed"),
        ("partly", "left tables out"),
        ("undone", "was undone"),
    ):
        found = [link for link in links if link.state == state]
        if found and found[0].periodic and found[0].state == "failed":
            what = f"{found[0].database} does not sync with {found[0].peer}"
            return f"{what}: {found[0].problem}" + _more(len(found) - 1) + "."
        if found:
            what = f"{found[0].database} {_side(found[0])} {found[0].peer}"
            return f"The last sync of {what} {words}" + _more(len(found) - 1) + "."
    away = sorted({link.peer for link in links if link.state == "unreachable"})
    if away:
        return f"{away[0]} can't be reached" + _more(len(away) - 1) + "."
    for state, words in (
        ("conflict", "needs a decision with"),
        ("behind", "is behind with"),
        ("paused", "is paused with"),
    ):
        found = [link for link in links if link.state == state]
        if found:
            why = f": {found[0].problem}" if found[0].problem else ""
            what = f"{found[0].database} {words} {found[0].peer}{why}"
            return what + _more(len(found) - 1) + "."
    unknown = [link for link in links if link.state == "unknown"]
    if unknown:
        what = f"{unknown[0].database} was ever synced with {unknown[0].peer}"
        return f"Whether {what} is not known" + _more(len(unknown) - 1) + "."
    never = [link for link in links if link.state == "never synced"]
    if never and len(links) == 1:
        return f"{never[0].database} was never synced with {never[0].peer}."
    if never:
        return f"{len(never)} of {len(links)} links were never synced."
    return _fine_sentence(links, now)


def _fine_sentence(links: list[LinkStatus], now: str) -> str:
    if all(link.periodic for link in links):
        return _in_sync_sentence(links)
    running = [link for link in links if link.state in ("syncing", "giving")]
    if len(running) == 1 and running[0].state == "giving":
        return f"{running[0].peer} is taking {running[0].database} from here."
    if running:
        return f"{len(running)} full sync{'s' if len(running) > 1 else ''} running."
    if len(links) == 1:
        link = links[0]
        if link.state == "in sync":
            return f"{link.database} is in sync with {link.peer}."
        if link.state == "given":
            return f"{link.database} was given to {link.peer} {_age(link.last_given, now)}."
        return f"{link.database} was synced from {link.peer} {_age(link.last_sync, now)}."
    given = sum(link.state == "given" for link in links)
    if given == len(links):
        return f"All {len(links)} links were given; see below when."
    if given:
        return (
            f"All {len(links)} links are fine: {len(links) - given} synced from peers, "
            f"{given} given to peers; see below when."
        )
    return f"All {len(links)} links were synced; see below when."


def _in_sync_sentence(links: list[LinkStatus]) -> str:
    moving = [link for link in links if link.state != "in sync"]
    if moving:
        what = f"{moving[0].database} is syncing with {moving[0].peer}"
        return what + _more(len(moving) - 1) + "."
    if len(links) == 1:
        return f"{links[0].database} is in sync with {links[0].peer}."
    return f"All {len(links)} links are in sync."


def _side(link: LinkStatus) -> str:
    given = link.last_given_result == link.state != link.last_result
    return "to" if given else "from"


def _age(then: str | None, now: str) -> str:
    seconds = seconds_between(then or "", now)
    if seconds is None:
        return "at a time that is not known"
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return f"{int(seconds)} s ago" if seconds >= 1 else "just now"


def _more(count: int) -> str:
    return f", and {count} more" if count > 0 else ""
