"""The state of each link in words, and only what positions prove.

A link is asked, not remembered: this database's vector is read, the peer publishes and tells
its own, and "in sync" is said when neither side has a change that the other has not applied.
Owns the order in which reasons count. It decides nothing about what is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import asyncpg
import msgspec

from peersync.agent.periodic.answers import STATES, LinkView
from peersync.agent.periodic.hub import NOTHING, Backlog, Hub, Link, read_backlog
from peersync.agent.periodic.messages import PositionReply
from peersync.core.errors import PeersyncError, PeerUnreachable
from peersync.core.words import counted
from peersync.postgres.log.capture import BY_OPERATOR
from peersync.postgres.log.members import (
    Member,
    Replica,
    Vector,
    read_members,
    read_replica,
    read_vector,
)
from peersync.postgres.sqlfiles import queries
from peersync.transport.peers import Peer

_SQL: Final = queries("links")
_QUARANTINED: Final = ("change", "in quarantine")
ASK_S: Final = 5.0
ASK_EXPIRED_S: Final = 1.5
START_S: Final = 10.0  # for so long periodic sync may need to begin after a join or a start


@dataclass(frozen=True)
class Local:
    """What a database says of its own part. `waiting`: (quarantined, open conflicts) by origin."""

    replica: Replica
    members: list[Member]
    vector: Vector
    paused: dict[str, str | None]
    waiting: dict[int, tuple[int, int]]
    parked: int
    uncaptured: int
    running: bool
    left_out: int = 0  # tables, by a person
    taking: bool = False  # a full sync writes here


@dataclass(frozen=True)
class Facts:
    """What is known of one link at one moment; `answer` is the peer's, or why there is none."""

    peer: Peer
    member: Member
    local: Local
    answer: PositionReply | PeersyncError | None
    backlog: Backlog = NOTHING
    link: Link | None = None
    quarantined: int = 0
    conflicts: int = 0
    failure: PeersyncError | None = None
    late_s: float | None = None
    patience_s: float = 30.0
    idle_at: float = 0.0  # when this database was last seen to take no part
    now: float = field(default_factory=time.time)


Ask = Callable[[Peer, Local], Awaitable[PositionReply]]


async def read_local(conn: asyncpg.Connection) -> Local | None:
    """None where the database takes part in no periodic sync."""
    replica = await read_replica(conn)
    if replica is None:
        return None
    row = await conn.fetchrow(_SQL["waiting"], BY_OPERATOR)
    return Local(
        replica=replica,
        members=await read_members(conn),
        vector=await read_vector(conn),
        paused={r["node_id"]: r["paused_by"] for r in await conn.fetch(_SQL["paused"])},
        waiting={
            r["origin"]: (r["quarantined"], r["open"])
            for r in await conn.fetch(_SQL["waiting_by_origin"])
        },
        parked=row["parked"],
        uncaptured=row["uncaptured"],
        running=row["running"],
        left_out=row["left_out"],
        taking=row["taking"],
    )


def linked(local: Local, peers: Sequence[Peer]) -> list[tuple[Peer, Member]]:
    """The peers that are members of the group of this database, with what they are there."""
    mine = local.replica.origin
    by_node = {m.node_id: m for m in local.members if m.counts and m.origin != mine}
    gone = {m.node_id: m for m in local.members if m.state == "expired" and m.origin != mine}
    found = {**gone, **by_node}
    return [(p, found[p.node_id]) for p in peers if p.node_id in found]


async def read_links(
    hub: Hub, peers: Sequence[Peer], ask: Ask, *, patience_s: float
) -> list[LinkView]:
    """Every link of a database, the worst first; the peers are asked side by side."""
    async with hub.database.acquire(f"reading the links of {hub.name}") as conn:
        local = await read_local(conn)
    if local is None:
        return []
    pairs = linked(local, peers)
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(_asked(ask, peer, member, local), name=f"position-{peer.name}")
            for peer, member in pairs
            if peer.node_id not in local.paused
        ]
    answers = dict(task.result() for task in asked)
    views = []
    async with hub.database.acquire(f"reading the links of {hub.name}") as conn:
        for peer, member in pairs:
            answer = answers.get(peer.node_id)
            theirs = answer.vector if isinstance(answer, PositionReply) else None
            known = theirs if theirs is not None else hub.proved.get(member.origin)
            backlog = NOTHING if known is None else await _to_give(conn, local, member, known)
            if isinstance(answer, PositionReply) and local.replica.direction == "give":
                answer = nothing_to_take(answer)
            quarantined, conflicts = _of_link(local, pairs, member)
            views.append(
                view(
                    hub.name,
                    Facts(
                        peer,
                        member,
                        local,
                        answer,
                        backlog,
                        hub.links.get(peer.node_id),
                        quarantined,
                        conflicts,
                        hub.failure,
                        hub.late.get(member.origin),
                        patience_s,
                        hub.idle_at,
                    ),
                )
            )
    return sorted(views, key=lambda v: (STATES.index(v.state), v.database, v.peer))


async def _asked(
    ask: Ask, peer: Peer, member: Member, local: Local
) -> tuple[str, PositionReply | PeersyncError | None]:
    """Of an expired peer only a refusal counts: it may have expired this database, too."""
    patience_s = ASK_S if member.counts else ASK_EXPIRED_S
    try:
        async with asyncio.timeout(patience_s):
            reply = await ask(peer, local)
            return peer.node_id, reply if member.counts else None
    except TimeoutError:
        return peer.node_id, PeerUnreachable(f"{peer.name} did not answer within {patience_s:g} s")
    except PeersyncError as error:
        return peer.node_id, error


async def _to_give(
    conn: asyncpg.Connection, local: Local, member: Member, theirs: Vector
) -> Backlog:
    if member.direction == "give":  # it takes no rows
        return Backlog()
    return await read_backlog(conn, to_give(local, member.origin), theirs)


def nothing_to_take(answer: PositionReply) -> PositionReply:
    """The same for a database that only gives: nothing of the peer's is waited for."""
    return msgspec.structs.replace(
        answer, pending_transactions=0, pending_changes=0, oldest=None, pending_bytes=0
    )


def to_give(local: Local, asker: int) -> Vector:
    """How far that is which this database has for another: all, or its own alone."""
    own = local.replica.origin
    if local.replica.direction == "give":
        return {own: local.vector.get(own, 0)}
    return {o: p for o, p in local.vector.items() if o != asker}


def direction_of(local: Local, member: Member) -> str:
    """Which way rows go on a link, as this side sees it: both, receive, give or none."""
    mine, theirs = local.replica.direction, member.direction
    takes = mine != "give" and theirs != "receive"
    gives = mine != "receive" and theirs != "give"
    if takes and gives:
        return "both"
    return "receive" if takes else "give" if gives else "none"


def _of_link(local: Local, pairs: list[tuple[Peer, Member]], member: Member) -> tuple[int, int]:
    """What waits of this peer's own changes, and of those that no peer here has made."""
    direct = {m.origin for _, m in pairs}
    mine = [w for o, w in local.waiting.items() if o == member.origin or o not in direct]
    return sum(q for q, _ in mine), sum(c for _, c in mine)


def view(database: str, facts: Facts) -> LinkView:
    """One link as it is shown."""
    state, problem, hint = judge(database, facts)
    answer = facts.answer if isinstance(facts.answer, PositionReply) else None
    link = facts.link
    known = answer is not None or facts.backlog is not NOTHING
    now = facts.now
    return LinkView(
        database=database,
        peer=facts.peer.name,
        state=state,
        problem=problem,
        hint=hint,
        to_take=answer.pending_changes if answer else None,
        to_give=facts.backlog.changes if known else None,
        lag_s=_age(answer.oldest, now) if answer else None,
        peer_lag_s=_age(facts.backlog.oldest, now) if known else None,
        last_contact=_iso(now if answer else link.contact_at if link else None),
        last_error=link.trouble.error.message if link and link.trouble.error else None,
        failures=link.trouble.count if link else 0,
        clock_offset_s=_offset(facts),
        quarantined=facts.quarantined,
        peer_quarantined=answer.quarantined if answer else 0,
        parked_tables=facts.local.parked,
        conflicts=facts.conflicts,
        paused_by=facts.local.paused.get(facts.peer.node_id),
        direction=direction_of(facts.local, facts.member),
        paused=facts.peer.node_id in facts.local.paused,
        bytes_to_take=answer.pending_bytes if answer else None,
        bytes_to_give=facts.backlog.size_bytes if known else None,
    )


Verdict = tuple[str, str | None, str | None]


def judge(database: str, facts: Facts) -> Verdict:
    """(state, problem, hint): of the worst reason; the problem also says what waits beside it."""
    state, problem, hint = _worst(database, facts)
    waits = _waits_here(facts) if state in ("failed", "unreachable", "paused") else ""
    return state, "; ".join(filter(None, (problem, waits))) or None, hint


def _worst(database: str, facts: Facts) -> Verdict:
    """The first of the reasons, in the order in which they count."""
    local, peer = facts.local, facts.peer
    trouble = facts.link.trouble.error if facts.link else None
    if local.replica.state in ("held", "expired"):
        reason = local.replica.reason or "this database may not take part any more"
        return "failed", reason, f"peersync rebaseline {peer.name} --database {database}"
    if local.replica.state == "joining" and local.taking:
        return "syncing", "the rows of this database are being taken anew", None
    if local.replica.state == "joining":
        words = "the rows of this database were to be taken anew, and were not: its changes wait"
        return "failed", words, f"peersync rebaseline {peer.name} --database {database}"
    if facts.member.state == "expired" and _expired_us(facts.answer):
        words = f"{peer.name} has expired this server, too: what one writes never reaches the other"
        return "failed", words, f"peersync rebaseline {peer.name} --database {database}"
    if facts.member.state == "expired":
        words = f"{peer.name} was expired: nothing is kept for it until it is taken in again"
        return "expired", words, _again(database, facts)
    if peer.node_id in local.paused:
        return "paused", None, f"peersync sync resume {peer.name} --database {database}"
    if not local.running and facts.now - facts.idle_at < START_S:
        return "syncing", "periodic sync is about to begin", None
    if not local.running:
        words = f"no process runs the periodic sync of {database}"
        return "failed", words, "see the log of the agent, and: peersync config show periodic"
    if facts.failure is not None:
        return "failed", facts.failure.message, facts.failure.hint
    for error in (trouble, facts.answer):
        if isinstance(error, PeersyncError) and error.data.get("reason") == "paused":
            return "paused", error.message, error.hint
    if trouble is not None and not isinstance(trouble, PeerUnreachable):
        return "failed", trouble.message, trouble.hint
    if facts.late_s is not None and isinstance(facts.answer, PeersyncError):
        words = f"{peer.name} has been away for {facts.late_s / 86_400:.1f} d"
        hint = f"bring it back, or: peersync members expire {peer.name} --database {database}"
        return "unreachable", f"{words}: more is kept for it than [periodic] wants", hint
    if isinstance(facts.answer, PeersyncError):
        state = "unreachable" if isinstance(facts.answer, PeerUnreachable) else "failed"
        return state, facts.answer.message, facts.answer.hint
    return _how_far(database, facts)


def _how_far(database: str, facts: Facts) -> Verdict:
    """Between two sides that talk to each other."""
    assert isinstance(facts.answer, PositionReply)
    problem, hint = _waits(database, facts, facts.answer)
    missing, where = _not_synced(database, facts, facts.answer)
    if problem is not None:
        return "conflict", "; ".join(filter(None, (problem, missing))), hint
    to_take, to_give = facts.answer.pending_changes, facts.backlog.changes
    if not to_take and not to_give:
        return "in sync", missing, where
    ages = (_age(facts.answer.oldest, facts.now), _age(facts.backlog.oldest, facts.now))
    late = max(age for age in (*ages, 0.0) if age is not None)
    state = "behind" if late > facts.patience_s else "syncing"
    return state, f"{counted(to_take, 'change')} to take, {to_give} to give", None


def _waits(database: str, facts: Facts, answer: PositionReply) -> tuple[str | None, str | None]:
    """What has arrived on either side and waits: all of it, and what to type for the worst."""
    here, peer = _waits_here(facts), facts.peer.name
    there = _listed((answer.parked, "table", "parked"), (answer.quarantined, *_QUARANTINED))
    words = "; ".join(filter(None, (here, there and f"on {peer} {there}")))
    if not words:
        return None, None
    parked, quarantined = facts.local.parked, facts.quarantined
    if not here:
        parked, quarantined = answer.parked, answer.quarantined
    verb = "tables" if parked else "quarantine" if quarantined else "conflicts"
    hint = f"peersync {verb} list --database {database}"
    return words, hint if here else f"on {peer}: {hint}"


def _waits_here(facts: Facts) -> str:
    """What a person has to mend or to decide on this side, the worst first."""
    return _listed(
        (facts.local.parked, "table", "parked"),
        (facts.quarantined, *_QUARANTINED),
        (facts.conflicts, "conflict", "waits for you" if facts.conflicts == 1 else "wait for you"),
    )


def _listed(*found: tuple[int, str, str]) -> str:
    return ", ".join(f"{counted(number, noun)} {words}" for number, noun, words in found if number)


def _not_synced(
    database: str, facts: Facts, answer: PositionReply
) -> tuple[str | None, str | None]:
    """Tables whose changes do not travel; the others may be in sync all the same."""
    words = []
    direction = direction_of(facts.local, facts.member)
    for where, refused, left_out, silent in (
        ("here", facts.local.uncaptured, facts.local.left_out, "receive"),
        (f"on {facts.peer.name}", answer.uncaptured, answer.left_out, "give"),
    ):
        if refused and direction not in (silent, "none"):
            words.append(f"{where} the changes of {counted(refused, 'table')} can't be caught")
        if left_out:
            words.append(f"{where} {counted(left_out, 'table')} left out")
    if not words:
        return None, None
    here = facts.local.uncaptured or facts.local.left_out
    hint = f"peersync tables list --database {database}"
    return "; ".join(words), hint if here else f"on {facts.peer.name}: {hint}"


def _expired_us(answer: PositionReply | PeersyncError | None) -> bool:
    return isinstance(answer, PeersyncError) and answer.data.get("reason") == "expired"


def _again(database: str, facts: Facts) -> str:
    """What is typed on a peer that was expired here."""
    local = facts.local
    own = next((m.node_name for m in local.members if m.origin == local.replica.origin), "PEER")
    return f"on {facts.peer.name}: peersync rebaseline {own} --database {database}"


def _offset(facts: Facts) -> float | None:
    return facts.link.offset_s if facts.link else None


def _age(then: float | None, now: float) -> float | None:
    """0 for nothing that waits; a clock that is ahead makes no negative age."""
    return 0.0 if then is None else round(max(now - then, 0.0), 3)


def _iso(unix_time: float | None) -> str | None:
    if unix_time is None:
        return None
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds")
