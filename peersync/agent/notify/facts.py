"""What a look at the node says, as facts: which link fails, is behind, waits for a person.

Pure apart from the zone of the server's clock. It says also what it could not see, so that
nobody is told of an end that is not one: a link that failed and can't be reached now has not
recovered. Of what makes changes late only the first reason counts: a peer that is silent is not
said to be behind as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from peersync.agent.notify.text import clock
from peersync.agent.periodic.answers import LinkView
from peersync.agent.status_view import DatabaseStatus, LinkStatus, Status
from peersync.config.orchestration import Notify
from peersync.core.incidents import Fact
from peersync.core.words import counted

NODE = "node"
_NOT_KNOWN = frozenset({"unknown", "paused"})
_UNDER_WAY = frozenset({"syncing", "giving"})  # a full sync: how it ends is not known yet
_NO_NEWS = frozenset({"unknown", "paused", "expired", "never synced"})


@dataclass
class Looked:
    """`heard`, `unheard`: peers. `scopes`: all that there are. `over`: of links that ended."""

    facts: list[Fact] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    scopes: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)
    unheard: dict[str, list[LinkStatus]] = field(default_factory=dict)


def look_at(
    status: Status, contacts: Mapping[tuple[str, str], float], limits: Notify, now: float
) -> Looked:
    """`contacts`: when the puller of a (database, peer) last had an answer."""
    looked = Looked(scopes={NODE})
    for database in status.databases:
        _database(database, looked, now)
    for link in status.links:
        _link(link, looked, now)
        _differing(link, looked)
        if link.periodic is not None:
            _waiting(link.periodic, looked, now)
            _late(link, link.periodic, contacts, looked, limits, now)
        _hear(link, looked)
    return looked


def silent(looked: Looked, heard: Mapping[str, float], limits: Notify, now: float) -> None:
    """Adds the peers of which nothing was heard for too long; `heard`: when each last was."""
    for peer, links in looked.unheard.items():
        scope = f"peer/{peer}"
        since = heard.get(peer, now)
        if peer in looked.heard or now - since < limits.silent_s:
            continue
        names = ", ".join(sorted({link.database for link in links}))
        worst = next((link for link in links if link.problem), links[0])
        looked.facts.append(
            Fact(
                key=f"{scope}/silent",
                event="silent",
                title=f"nothing is heard of {peer}",
                impact=f"changes of {peer} since {clock(since)} do not arrive here, and ours do "
                f"not arrive there: {names}",
                since=since,
                scope=scope,
                peer=peer,
                database=names,
                problem=worst.problem,
                hint=worst.hint or f"on {peer}: systemctl status peersync-agent",
            )
        )


def disk(place: str, path: str, free_bytes: int, limit_mib: int, now: float) -> Fact | None:
    """`place`: node.spool_dir or node.state_dir."""
    if free_bytes >= limit_mib << 20:
        return None
    return Fact(
        key=f"disk/{place}",
        event="disk",
        title=f"the disk of {place} is almost full",
        impact="syncs will stop when it is full",
        since=now,
        scope=NODE,
        problem=f"{free_bytes >> 20} MiB free in {path}, below {limit_mib} MiB",
        hint=f"free some space, or set node.{place} to a larger disk",
    )


def retention(database: str, problem: str, hint: str | None, now: float) -> Fact:
    return Fact(
        key=f"db/{database}/retention",
        event="retention",
        title=f"changes of {database} are kept for somebody who is away for long",
        impact="the log grows; after [periodic] retention_d nothing more is kept for them",
        since=now,
        scope=f"db/{database}",
        database=database,
        problem=problem,
        hint=hint,
    )


def pairing(joiner: str, name: str, short_id: str, came_from: str, since: float) -> Fact:
    """Somebody waits to be accepted as a peer; `joiner` is its certificate's fingerprint."""
    return Fact(
        key=f"pairing/{joiner}",
        event="pairing",
        title=f"{name} asks to be a peer of this server",
        impact="it is none until an admin has compared its fingerprint here",
        since=since,
        scope=NODE,
        problem=f"its fingerprint is {short_id}; it asked from {came_from}",
        hint="peersync peer pending",
        once=True,
    )


def _database(database: DatabaseStatus, looked: Looked, now: float) -> None:
    scope = f"db/{database.name}"
    looked.scopes.add(scope)
    if not database.reachable:
        looked.unsure.add(scope)
        looked.facts.append(
            Fact(
                key=f"{scope}/down",
                event="failed",
                title=f"database {database.name} can't be reached",
                impact=f"nothing of {database.name} is synced with any peer",
                since=now,
                scope=NODE,
                database=database.name,
                problem=database.problem,
                hint=database.hint or "peersync check",
            )
        )
    elif database.warnings:
        looked.facts.append(
            Fact(
                key=f"{scope}/warnings",
                event="partial",
                title=f"not everything of {database.name} is in step, or will stay so",
                impact="the peers and this node may come to differ",
                since=now,
                scope=scope,
                database=database.name,
                problem="; ".join(database.warnings),
                hint="peersync check",
            )
        )


def _link(link: LinkStatus, looked: Looked, now: float) -> None:
    scope = f"link/{link.database}/{link.peer}"
    looked.scopes |= {scope, f"peer/{link.peer}"}
    state = link.periodic.state if link.periodic else link.state
    if state in ("unreachable", "failed") or state in _not_known(link):
        looked.unsure.add(scope)
    if state == "expired":
        looked.over.add(scope)
        looked.facts.append(_of(link, "expired", "retention", now, once=True))
    elif state == "failed":
        looked.facts.append(_of(link, "failed", "failed", now))
    elif state == "partly":
        looked.facts.append(_of(link, "partly", "partial", now))


def _not_known(link: LinkStatus) -> frozenset[str]:
    return _NOT_KNOWN if link.periodic else _NOT_KNOWN | _UNDER_WAY


def _of(link: LinkStatus, what: str, event: str, now: float, *, once: bool = False) -> Fact:
    database, peer = link.database, link.peer
    if what == "expired":
        title = f"{database} does not sync with {peer} any more"
        impact = f"{peer} was away for too long: nothing is kept for it any more"
    elif link.periodic is not None:
        title = f"{database} does not sync with {peer}"
        impact = f"changes of {peer} from {clock(now)} on do not arrive here, or ours not there"
    else:
        words = "failed" if what == "failed" else "left tables or rows out"
        given = link.last_given_result == link.state != link.last_result
        title = f"the full sync of {database} {'to' if given else 'from'} {peer} {words}"
        here = f"{peer} lacks rows of here" if given else f"rows of {peer} are missing here"
        impact = f"{here}; what was there before is unchanged" if what == "failed" else here
    return Fact(
        key=f"link/{database}/{peer}/{what}",
        event=event,
        title=title,
        impact=impact,
        since=now,
        scope=f"link/{database}/{peer}",
        database=database,
        peer=peer,
        problem=(link.periodic.problem if link.periodic else None) or link.problem,
        hint=(link.periodic.hint if link.periodic else None) or link.hint or "peersync status",
        once=once,
    )


def _differing(link: LinkStatus, looked: Looked) -> None:
    """What a verification has found lasts until another one finds it gone."""
    proof = link.proof
    if proof is None or proof.differs_since is None:
        return
    database, peer = link.database, link.peer
    looked.facts.append(
        Fact(
            key=f"link/{database}/{peer}/difference",
            event="difference",
            title=f"{database} is not the same here and on {peer}",
            impact="rows differ although nothing of them is on its way",
            since=datetime.fromisoformat(proof.differs_since).timestamp(),
            scope=f"link/{database}/{peer}",
            database=database,
            peer=peer,
            problem=f"{counted(proof.differing, 'table')} differ",
            hint=f"peersync verify {peer} --database {database} --rows",
        )
    )


def _waiting(view: LinkView, looked: Looked, now: float) -> None:
    """What waits for a person here. What waits at the peer is said by the peer."""
    database, peer = view.database, view.peer
    scope = f"db/{database}"
    rows = (
        ("conflict", f"{scope}/{peer}/conflicts", peer, view.conflicts,
         f"conflicts with {peer} in {database} wait for a decision",
         "both sides keep what the rules chose, until somebody decides",
         f"peersync conflicts list --database {database}", "open conflict"),
        ("quarantine", f"{scope}/{peer}/quarantine", peer, view.quarantined,
         f"changes of {peer} can't be applied in {database}",
         f"rows of {peer} are missing or old here",
         f"peersync quarantine list --database {database}", "change"),
        ("quarantine", f"{scope}/parked", None, view.parked_tables,
         f"tables of {database} take no changes",
         "changes of the peers wait: the tables here do not fit",
         f"peersync tables list --database {database}", "table"),
    )  # fmt: skip
    for event, key, whose, number, title, impact, hint, noun in rows:
        if number:
            looked.facts.append(
                Fact(
                    key=key,
                    event=event,
                    title=title,
                    impact=impact,
                    since=now,
                    scope=scope,
                    database=database,
                    peer=whose,
                    problem=counted(number, noun),
                    hint=hint,
                )
            )


def _late(
    link: LinkStatus,
    view: LinkView,
    contacts: Mapping[tuple[str, str], float],
    looked: Looked,
    limits: Notify,
    now: float,
) -> None:
    """Behind, or a puller that had no answer for long though the peer is there."""
    scope = f"link/{link.database}/{link.peer}"
    if view.state in ("failed", "unreachable", "paused", "expired"):
        return
    contact = contacts.get((link.database, link.peer), now)
    take, give = view.lag_s or 0.0, view.peer_lag_s or 0.0
    late = max(take, give)
    if now - contact >= limits.silent_s:
        event, since = "silent", contact
        title = f"no changes of {link.peer} are fetched for {link.database}"
    elif late >= limits.behind_s:
        event, since = "behind", now - late
        title = f"{link.database} is behind with {link.peer}"
    else:
        return
    whose, where = (link.peer, "here") if take >= give else ("this node", "there")
    looked.facts.append(
        Fact(
            key=f"{scope}/{event}",
            event=event,
            title=title,
            impact=f"changes of {whose} since {clock(since)} have not arrived {where}",
            since=since,
            scope=scope,
            database=link.database,
            peer=link.peer,
            problem=view.problem or view.last_error,
            hint=view.hint or f"peersync lag --database {link.database}",
        )
    )


def _hear(link: LinkStatus, looked: Looked) -> None:
    state = link.periodic.state if link.periodic else link.state
    if state == "unreachable" or (link.away and link.periodic is None):
        synced = link.periodic or link.last_sync or link.last_given
        if synced:  # else nothing is expected of it
            looked.unheard.setdefault(link.peer, []).append(link)
    elif state not in _NO_NEWS:
        looked.heard.add(link.peer)
