"""One sentence that answers "is everything fine?", and what it rests on, worst first.

It never says more than is known: without a full sync from a peer the state is "never
synced", and a peer that does not answer is "unreachable", whatever the last sync said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs, JobView, view_entry
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.postgres.history import History
from peersync.transport.peers import Peer, PeerBook

_LOOKED_AT = 200
_ORDER = ("failed", "partly", "unreachable", "unknown", "syncing", "never synced", "synced")


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One database with one peer. "unknown": the database, which has the history, is down."""

    database: str
    peer: str
    state: str
    last_sync: str | None = None
    last_result: str | None = None
    last_job: str | None = None
    problem: str | None = None
    hint: str | None = None


class DatabaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    reachable: bool
    problem: str | None = None
    hint: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    version: str
    sentence: str
    fine: bool
    databases: list[DatabaseStatus]
    links: list[LinkStatus]
    running: list[Progress]
    giving: list[Progress]


@dataclass(frozen=True)
class StatusReport:
    """Where the status is read from. `probe` raises when a peer can't be reached."""

    node: str
    databases: Databases
    book: PeerBook
    jobs: Jobs
    backups: Backups
    probe: Callable[[Peer], Awaitable[None]]


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
    databases, links = [], []
    running = report.jobs.running()
    for name, read in reads.items():
        entries, problem = read.result()
        databases.append(_database(name, problem))
        for peer in peers:
            syncing = any(p.database == name and p.source == peer.name for p in running)
            unreachable = probes[peer.name].result()
            if problem is not None and not syncing:
                links.append(LinkStatus(database=name, peer=peer.name, state="unknown"))
            else:
                links.append(_link(name, peer, unreachable, entries, syncing=syncing))
    links.sort(key=lambda link: (_ORDER.index(link.state), link.database, link.peer))
    return Status(
        node=report.node,
        version=__version__,
        sentence=_sentence(databases, links, running),
        fine=all(d.reachable for d in databases)
        and bool(links)
        and all(link.state in ("synced", "syncing") for link in links),
        databases=databases,
        links=links,
        running=running,
        giving=report.backups.running(),
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


def _database(name: str, problem: PeersyncError | None) -> DatabaseStatus:
    return DatabaseStatus(
        name=name,
        reachable=problem is None,
        problem=problem.message if problem else None,
        hint=problem.hint if problem else None,
    )


def _link(
    database: str,
    peer: Peer,
    unreachable: PeersyncError | None,
    entries: list[JobView],
    *,
    syncing: bool,
) -> LinkStatus:
    mine = [e for e in entries if e.peer == peer.name and e.role == "target" and e.completed_at]
    last = mine[0] if mine else None
    good = next((e for e in mine if e.state in ("done", "partly")), None)
    common = {"database": database, "peer": peer.name}
    state, problem, hint = "never synced", None, f"peersync pull {peer.name} --database {database}"
    if syncing:
        state, hint = "syncing", "peersync jobs list"
    elif last is not None and last.state in ("failed", "partly"):
        words = last.error.message if last.error else "some tables were left out"
        state, problem, hint = last.state, words, f"peersync jobs show {last.id[:8]}"
    elif unreachable is not None:
        state, problem, hint = "unreachable", unreachable.message, unreachable.hint or ""
    elif good is not None:
        state, hint = "synced", ""
    return LinkStatus(
        **common,
        state=state,
        last_sync=good.completed_at if good else None,
        last_result=last.state if last else None,
        last_job=last.id if last else None,
        problem=problem,
        hint=hint or None,
    )


def _sentence(
    databases: list[DatabaseStatus], links: list[LinkStatus], running: list[Progress]
) -> str:
    down = [d.name for d in databases if not d.reachable]
    if down:
        return f"Database {down[0]} can't be reached" + _more(len(down) - 1) + "."
    if not databases:
        return "No database is configured."
    if not links:
        return "No peer is known yet."
    for state, words in (("failed", "failed"), ("partly", "left tables out")):
        found = [link for link in links if link.state == state]
        if found:
            what = f"{found[0].database} from {found[0].peer}"
            return f"The last sync of {what} {words}" + _more(len(found) - 1) + "."
    gone = sorted({link.peer for link in links if link.state == "unreachable"})
    if gone:
        return f"{gone[0]} can't be reached" + _more(len(gone) - 1) + "."
    if running:
        return f"{len(running)} full sync{'s' if len(running) > 1 else ''} running."
    never = [link for link in links if link.state == "never synced"]
    if never:
        if len(links) == 1:
            return f"{never[0].database} was never synced from {never[0].peer}."
        return f"{len(never)} of {len(links)} links were never synced."
    if len(links) == 1:
        return f"{links[0].database} was synced from {links[0].peer}; see below when."
    return f"All {len(links)} links were synced; see below when."


def _more(count: int) -> str:
    return f", and {count} more" if count > 0 else ""
