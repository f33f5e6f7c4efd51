"""The whole node on one page: how each peer is, the worst first, and what it rests on.

Pure: facts in, one value out. Owns what a peer is when its databases differ, which links are
shown, and what makes two overviews the same, so that a page is told of changes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from peersync.agent.status_view import LinkStatus
from peersync.core.progress import Progress
from peersync.core.words import counted

PEERS: Final = 100
MOST_PEERS: Final = 1000
DATABASES: Final = 50
LINKS: Final = 1000  # in one answer, so that it stays small: peers × databases of each
HISTORY: Final = 30
LATE_S: Final = 1.0  # less is a change on its way


class PeerOverview(msgspec.Struct, frozen=True, kw_only=True):
    """One peer, in the state of its worst database. null is not known.

    rows_waiting: changes that one side has and the other has not; bytes_waiting: an estimate of
    what they hold. history: seconds of lag, a value a minute, the newest last. databases: the worst
    first, the first of databases_total. paused: each of them whose changes travel is, by a person.
    """

    peer: str
    state: str
    problem: str | None
    hint: str | None
    last_sync: str | None
    lag_s: float | None
    rows_waiting: int | None
    bytes_waiting: int | None
    next_at: str | None
    databases: list[LinkStatus]
    databases_total: int
    history: list[float]
    paused: bool
    paused_databases: int


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole node, whatever was filtered. quarantined: single rows, parked: tables.

    requests: nodes that wait to be accepted as peers.
    """

    peers: int
    links: int
    conflicts: int
    quarantined: int
    parked: int
    running: int
    requests: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """`peers` is one page of them, the worst first; `peers_total` how many match the filter."""

    node: str
    version: str
    sentence: str
    fine: bool
    generated_at: str
    counts: Counts
    peers: list[PeerOverview]
    peers_total: int
    running: list[Progress]
    giving: list[Progress]
    warnings: list[str]


@dataclass(frozen=True)
class Waiting:
    """What waits for a person in one database."""

    conflicts: int = 0
    quarantined: int = 0
    parked: int = 0


@dataclass(frozen=True)
class Facts:
    """What an overview is made of. `links` has every link, by peer, each the worst first.

    `rank` is how bad a state is; `history` and `next_at` tell it of one peer, by name.
    """

    node: str
    version: str
    sentence: str
    fine: bool
    at: str
    links: Mapping[str, Sequence[LinkStatus]]
    rank: Mapping[str, int]
    waiting: Waiting
    running: Sequence[Progress]
    giving: Sequence[Progress]
    history: Callable[[str], list[float]]
    next_at: Callable[[str], str | None]
    warnings: Sequence[str] = ()
    requests: int = 0


def make_overview(
    facts: Facts, *, limit: int = PEERS, offset: int = 0, wanted: str = ""
) -> Overview:
    """One page. `wanted`: a part of a peer's or a database's name, or a state."""
    order = sorted(facts.links, key=lambda name: (facts.rank[_state(facts, name)], name))
    if wanted:
        order = [name for name in order if _fits(facts, name, wanted.casefold())]
    shown = order[offset : offset + limit]
    each = max(1, min(DATABASES, LINKS // len(shown))) if shown else DATABASES
    return Overview(
        node=facts.node,
        version=facts.version,
        sentence=full_sentence(facts),
        fine=facts.fine,
        generated_at=facts.at,
        counts=Counts(
            peers=len(facts.links),
            links=sum(map(len, facts.links.values())),
            conflicts=facts.waiting.conflicts,
            quarantined=facts.waiting.quarantined,
            parked=facts.waiting.parked,
            running=len(facts.running) + len(facts.giving),
            requests=facts.requests,
        ),
        peers=[_peer(facts, name, each) for name in shown],
        peers_total=len(order),
        running=[*facts.running],
        giving=[*facts.giving],
        warnings=[*facts.warnings],
    )


def full_sentence(facts: Facts) -> str:
    """The sentence of `peersync status`, and what a person should know beside it."""
    words = [facts.sentence]
    lags = (lag for links in facts.links.values() for lag in map(lag_of, links))
    worst = max((lag for lag in lags if lag is not None), default=0.0)
    if worst >= LATE_S:
        words.append(f"Worst lag {_seconds(worst)}.")
    if (count := facts.waiting.conflicts) and "conflict" not in facts.sentence:
        words.append(f"{counted(count, 'conflict')} {'waits' if count == 1 else 'wait'} for you.")
    return " ".join(words)


def sameness(overview: Overview) -> Overview:
    """What has to differ for a page to be told: not when it was looked, nor how a job goes."""
    peers = [
        msgspec.structs.replace(peer, last_sync=None, databases=[*map(_still, peer.databases)])
        for peer in overview.peers
    ]
    return msgspec.structs.replace(
        overview,
        generated_at="",
        peers=peers,
        running=[*map(_begun, overview.running)],
        giving=[*map(_begun, overview.giving)],
    )


def lag_of(link: LinkStatus) -> float | None:
    """The age of the oldest change that waits on either side, in seconds."""
    if link.periodic is None:
        return None
    ages = (link.periodic.lag_s, link.periodic.peer_lag_s)
    return max((age for age in ages if age is not None), default=None)


def _peer(facts: Facts, name: str, databases: int) -> PeerOverview:
    links = facts.links[name]
    worst = links[0] if links else None
    lags = [lag for lag in map(lag_of, links) if lag is not None]
    paused = sum(link.periodic is not None and link.periodic.paused for link in links)
    return PeerOverview(
        peer=name,
        state=_state(facts, name),
        problem=worst.problem if worst else None,
        hint=worst.hint if worst else None,
        last_sync=max(filter(None, map(_last, links)), default=None),
        lag_s=max(lags, default=None),
        rows_waiting=_waiting(links),
        bytes_waiting=_bytes(links),
        next_at=facts.next_at(name),
        databases=[*links[:databases]],
        databases_total=len(links),
        history=facts.history(name),
        paused=0 < paused == sum(link.periodic is not None for link in links),
        paused_databases=paused,
    )


def _state(facts: Facts, name: str) -> str:
    links = facts.links[name]
    return links[0].state if links else "never synced"


def _fits(facts: Facts, name: str, wanted: str) -> bool:
    links = facts.links[name]
    return wanted in name.casefold() or any(
        wanted in link.database or wanted == link.state for link in links
    )


def _waiting(links: Iterable[LinkStatus]) -> int | None:
    counts = [
        count
        for link in links
        if link.periodic is not None
        for count in (link.periodic.to_take, link.periodic.to_give)
        if count is not None
    ]
    return sum(counts) if counts else None


def _bytes(links: Iterable[LinkStatus]) -> int | None:
    sizes = [
        size
        for link in links
        if link.periodic is not None
        for size in (link.periodic.bytes_to_take, link.periodic.bytes_to_give)
        if size is not None
    ]
    return sum(sizes) if sizes else None


def _last(link: LinkStatus) -> str | None:
    """When both were last seen to agree, or rows last went over."""
    heard = link.periodic.last_contact if link.periodic and link.state == "in sync" else None
    return max(filter(None, (link.last_sync, link.last_given, heard)), default=None)


def _still(link: LinkStatus) -> LinkStatus:
    """Without what moves while nothing happens."""
    if link.periodic is None:
        return link
    quiet = msgspec.structs.replace(link.periodic, last_contact=None, clock_offset_s=None)
    return msgspec.structs.replace(link, periodic=quiet)


def _begun(progress: Progress) -> Progress:
    return Progress(
        session=progress.session,
        action=progress.action,
        database=progress.database,
        source=progress.source,
        target=progress.target,
        state=progress.state,
    )


def _seconds(seconds: float) -> str:
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit}"
    return f"{int(seconds)} s"
