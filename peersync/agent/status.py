"""One sentence that answers "is everything fine?", and what it rests on, worst first.

It never says more than is known: without a full sync from or to a peer the state is "never
synced", and a peer that does not answer is "unreachable", whatever the last sync said. A node
that only gives is fine when what it gave arrived; it is never told to take an older copy back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs, JobView, view_entry
from peersync.agent.member_checks import read_alarms
from peersync.agent.periodic.answers import LinkView
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress, seconds_between
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


async def make_status(report: StatusReport) -> Status:
    peers = report.book.peers()
    async with asyncio.TaskGroup() as group:
        probes = {
            p.name: group.create_task(_problem(report.probe(p)), name=f"probe-{p.name}")
            for p in peers
        }
        reads = {
            d.name: group.create_task(_entries(History(d)), name=f"history-{d.name}")
            for d in report.databases
        }
        alarms = {
            d.name: group.create_task(_alarms(d), name=f"alarms-{d.name}") for d in report.databases
        }
        periodic = group.create_task(report.periodic(), name="periodic-links")
    views = {(v.database, v.peer): v for v in periodic.result()}
    databases, links = [], []
    running, giving = report.jobs.views.running(), report.backups.running()
    for name, read in reads.items():
        entries, problem = read.result()
        databases.append(_database(name, problem, alarms[name].result()))
        for peer in peers:
            now: str | None = None
            if any(p.database == name and p.source == peer.name for p in running):
                now = "syncing"
            elif _is_giving(report, name, peer, entries, giving):
                now = "giving"
            unreachable = probes[peer.name].result()
            if problem is not None and now is None:
                links.append(LinkStatus(database=name, peer=peer.name, state="unknown"))
            else:
                link = _link(report.node, name, peer, unreachable, entries, now)
                links.append(_with_changes(link, views.get((name, peer.name)), now))
    links.sort(key=lambda link: (_ORDER.index(link.state), link.database, link.peer))
    return Status(
        node=report.node,
        version=__version__,
        sentence=_sentence(databases, links, datetime.now(UTC).isoformat()),
        fine=all(d.reachable for d in databases)
        and bool(links)
        and all(link.state in _FINE for link in links),
        databases=databases,
        warnings=report.troubles(),
        links=links,
        running=running,
        giving=giving,
    )


def _with_changes(link: LinkStatus, view: LinkView | None, now: str | None) -> LinkStatus:
    """The same where changes travel by themselves; a full sync that runs is shown all the same."""
    if view is None:
        return link
    if now is not None:
        return msgspec.structs.replace(link, periodic=view)
    return msgspec.structs.replace(
        link, state=view.state, problem=view.problem, hint=view.hint, periodic=view
    )


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


async def _problem(probe: Awaitable[None]) -> PeersyncError | None:
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
) -> LinkStatus:
    """`now` is what runs at this moment: syncing, giving or nothing."""
    taken, given = _way(entries, peer, "target"), _way(entries, peer, "source")
    took = now if now == "syncing" else taken.state("synced")
    gave = now if now == "giving" else given.state("given")
    state = min(filter(None, (took, gave)), key=_ORDER.index, default="never synced")
    problem, hint = None, None
    if state == "never synced" and len(entries) >= _LOOKED_AT:
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
    elif unreachable is not None and (peer.address is not None or took):
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
