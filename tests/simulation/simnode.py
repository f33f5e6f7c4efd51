"""A simulated member: the state that PostgreSQL would hold, and the real core deciding over it.

Every rule is one small method that calls the core, so that a subclass can switch it off
(`broken_nodes.py`) and a test can see that the checks notice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

from peersync.core.order import clock
from peersync.core.order.change import Change, Image, Kind, Op, Transaction, Version
from peersync.core.order.fold import Strategy, decide, rivals
from peersync.core.order.membership import (
    Start,
    Told,
    acknowledged,
    at_start,
    expiry_complete,
    join_is_void,
    known_of_joiner,
    may_be_expired,
    when_held,
)
from peersync.core.order.plan import Plan, plan_runs
from peersync.core.order.stability import (
    Known,
    Pruned,
    changes_needed,
    floors,
    heartbeat_due,
    learn_frame,
    prune_row,
    relay_needed,
    resync_needed,
)
from peersync.core.order.vector import merge

KEYS = ("k1", "k2", "k3", "k4")


@dataclass(frozen=True)
class Tx:
    """A published transaction. `uid` is the simulation's own name for it, not the protocol's."""

    head: Transaction
    changes: tuple[Change, ...]
    uid: int | None


@dataclass(frozen=True)
class Written:
    """A change as an application made it, not yet published."""

    op: Op
    key: str | None
    image: Image | None
    old: Image | None


@dataclass(frozen=True)
class Frame:
    sender: int
    vector: dict[int, int]
    transactions: tuple[Tx, ...]


@dataclass(frozen=True)
class ResyncRequired:
    sender: int
    floor: dict[int, int]


class Watch(Protocol):
    """Who looks on from outside the protocol."""

    def written(self, node: SimNode, uid: int, changes: Sequence[Written]) -> None: ...
    def published(self, node: SimNode, tx: Tx, wall: int) -> None: ...
    def decided(
        self, node: SimNode, tx: Tx, change: Change, key: str, seen: list[Change]
    ) -> None: ...
    def applied(self, node: SimNode, tx: Tx, source: int) -> None: ...
    def resync(self, node: SimNode, floor: dict[int, int]) -> None: ...


@dataclass
class SimNode:
    origin: int
    members: set[int]
    strategy: Strategy
    watch: Watch
    rows: dict[str, Image] = field(default_factory=dict)
    base: dict[str, Image | None] = field(default_factory=dict)
    kept: dict[str, list[Change]] = field(default_factory=lambda: {key: [] for key in KEYS})
    log: dict[int, dict[int, Tx]] = field(default_factory=lambda: defaultdict(dict))
    newest: dict[int, int] = field(default_factory=dict)
    vector: dict[int, int] = field(default_factory=dict)
    floor: dict[int, int] = field(default_factory=dict)
    known: dict[int, Known] = field(default_factory=dict)
    hlc: int = 0
    expiring: dict[int, tuple[int, int]] = field(default_factory=dict)  # who, and what said so
    record: dict[int, int] = field(default_factory=dict)  # what it told, kept outside the database
    join: tuple[int, int] | None = None  # the sponsor, and the position of its word
    joins: dict[int, tuple[int, int]] = field(default_factory=dict)  # the same of every joiner
    words: dict[int, set[int]] = field(default_factory=dict)  # of whom, by whom: it is missed
    pending: list[tuple[int, tuple[Written, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for member in self.members:
            self.known.setdefault(member, Known())

    # --- what an application does -----------------------------------------------------------
    def write(self, uid: int, changes: Sequence[Written]) -> None:
        """Commits; the capture saw it, the publisher not yet."""
        for change in changes:
            for key in keys_of(change.key):
                self._store(key, change.image)
        self.pending.append((uid, tuple(changes)))
        self.watch.written(self, uid, changes)

    def _store(self, key: str, image: Image | None) -> None:
        if image is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = image

    # --- publish ----------------------------------------------------------------------------
    def publish(self, wall: int) -> None:
        """Gives what is committed its positions."""
        while self.pending:
            self._publish(wall, "d", *self.pending.pop(0))

    def heartbeat(self, wall: int) -> bool:
        if not self.heartbeat_due():
            return False
        self._publish(wall, "b")
        return True

    def announce(self, wall: int, kind: Kind, subject: int) -> None:
        """Publishes a join, a leave or an expiry."""
        self.publish(wall)
        self._publish(wall, kind, subject=subject)

    def _publish(
        self,
        wall: int,
        kind: Kind,
        uid: int | None = None,
        written: Sequence[Written] = (),
        subject: int | None = None,
    ) -> None:
        position = self.vector.get(self.origin, 0) + 1
        self.hlc = self.next_hlc(wall)
        seen = {o: p for o, p in self.vector.items() if o != self.origin}
        changes = tuple(
            Change(
                Version(self.hlc, self.origin, position, ordinal), w.op, w.key, w.image, w.old, seen
            )
            for ordinal, w in enumerate(written)
        )
        head = Transaction(self.origin, position, self.hlc, kind, len(changes), seen, subject)
        tx = Tx(head, changes, uid)
        self._remember(tx)
        for change in changes:
            for key in keys_of(change.key):
                self.kept[key].append(change)
        self.known[self.origin] = Known(position, seen)
        self._membership(head)
        self.watch.published(self, tx, wall)

    def _remember(self, tx: Tx) -> None:
        origin, position = tx.head.origin, tx.head.position
        self.vector[origin] = position
        if tx.head.kind != "b":
            self.newest[origin] = position
        if origin == self.origin or relay_needed(origin, self.members, self.origin):
            self.log[origin][position] = tx

    # --- apply ------------------------------------------------------------------------------
    def accept(self, frame: Frame, wall: int) -> None:
        """Applies what may be applied of a frame, and learns from its vector."""
        by_place = {(tx.head.origin, tx.head.position): tx for tx in frame.transactions}
        for run in self.plan([tx.head for tx in frame.transactions]).runs:
            self.look(wall)
            for head in run.transactions:
                self.apply(by_place[head.origin, head.position], frame.sender)
        if frame.sender in self.members:
            self.known[frame.sender] = self.learn(frame)

    def apply(self, tx: Tx, source: int) -> None:
        head = tx.head
        for change in tx.changes:
            for key in keys_of(change.key):
                kept = self.kept[key]
                self.watch.decided(self, tx, change, key, rivals(change, kept))
                row = decide(self.strategy, self.rows.get(key), self.base.get(key), kept, change)
                self._store(key, row.image)
                if changes_needed(self.strategy, head.origin, self.members, self.origin):
                    kept.append(change)
        self.hlc = self.observe(head.hlc)
        before = self.known.get(head.origin, Known())
        self.known[head.origin] = Known(head.position, merge(before.seen, head.seen))
        self._remember(tx)
        self._membership(head)
        self.watch.applied(self, tx, source)

    def _membership(self, head: Transaction) -> None:
        """What a join, a leave or an expiry changes here."""
        subject = head.subject
        if subject is None:
            return
        if head.kind == "j" and subject not in self.members:
            self.members.add(subject)
            self.known[subject] = self.known_of_joiner(head)
            self.joins[subject] = (head.origin, head.position)
        elif head.kind == "l" and subject != self.origin:
            self.members.discard(subject)
        elif head.kind == "w":
            self.words.setdefault(subject, set()).add(head.origin)
        elif head.kind == "e":
            self.expiring.setdefault(subject, (head.origin, head.position))

    def complete_expiries(self) -> None:
        for subject, told in self.expiring.items():
            if subject in self.members and self.expiry_complete(subject, *told):
                self.members.discard(subject)

    # --- feed -------------------------------------------------------------------------------
    def serve(self, asker: int, vector: dict[int, int], most: int) -> Frame | ResyncRequired:
        """The next transactions for a peer, in an order that causality allows."""
        if any(at > vector.get(o, 0) for o, at in self.floor.items() if o != asker):
            return ResyncRequired(self.origin, dict(self.floor))
        lacking = [
            tx
            for origin, transactions in self.log.items()
            if origin != asker
            for position, tx in transactions.items()
            if position > vector.get(origin, 0)
        ]
        self.keep_record()
        lacking.sort(key=lambda tx: (tx.head.hlc, tx.head.origin, tx.head.position))
        return Frame(self.origin, dict(self.vector), tuple(lacking[:most]))

    def refused(self, answer: ResyncRequired) -> None:
        if self.resync_needed(answer.floor):
            self.watch.resync(self, answer.floor)

    # --- prune ------------------------------------------------------------------------------
    def prune(self) -> None:
        upto = self.floors()
        for origin, at in upto.items():
            if at > self.floor.get(origin, 0):
                self.floor[origin] = at
                log = self.log.get(origin, {})
                for position in [position for position in log if position <= at]:
                    del log[position]
        for key in KEYS:
            if self.kept[key]:
                pruned = self.prune_row(key, upto)
                self.kept[key], self.base[key] = list(pruned.kept), pruned.base

    # --- the rules, each to be switched off -------------------------------------------------
    def plan(self, heads: list[Transaction]) -> Plan:
        return plan_runs(heads, self.vector, own_origin=self.origin, members=self.members)

    def look(self, wall: int) -> None:
        self.publish(wall)

    def next_hlc(self, wall: int) -> int:
        return clock.next_hlc(self.hlc, wall)

    def observe(self, hlc: int) -> int:
        return clock.observe(self.hlc, hlc)

    def learn(self, frame: Frame) -> Known:
        return learn_frame(self.known[frame.sender], frame.sender, frame.vector, self.vector)

    def knowledge(self) -> dict[int, Known]:
        return {member: self.known.get(member, Known()) for member in self.members}

    def floors(self) -> dict[int, int]:
        return floors(self.vector, self.knowledge())

    def prune_row(self, key: str, upto: dict[int, int]) -> Pruned:
        return prune_row(self.strategy, self.base.get(key), self.kept[key], upto)

    def heartbeat_due(self) -> bool:
        newest = {o: at for o, at in self.newest.items() if o != self.origin}
        return heartbeat_due(newest, self.known[self.origin].seen)

    def resync_needed(self, floor: dict[int, int]) -> bool:
        return resync_needed(floor, self.vector, own=self.origin)

    def known_of_joiner(self, head: Transaction) -> Known:
        return known_of_joiner(head.origin, head.position, head.seen)

    # --- backups ----------------------------------------------------------------------------
    def backup(self) -> dict[str, Any]:
        """All that the database holds."""
        left_out = ("watch", "strategy", "origin", "record")
        return deepcopy({k: v for k, v in vars(self).items() if k not in left_out})

    def restore(self, backup: dict[str, Any]) -> None:
        vars(self).update(deepcopy(backup))

    def verdict(self, answers: dict[int, Told | None]) -> Start:
        """What it may do after a restart."""
        if at_start(self.record, self.vector) is Start.GO_ON:
            return Start.GO_ON
        return when_held(self.origin, self.vector, answers)

    def keep_record(self) -> None:
        """Before a frame leaves: what others may learn from it."""
        self.record = dict(self.vector)

    def knows_again(self, uid: int, there: set[int]) -> bool:
        """Whether a write of its list is in the history of its baseline, by its unique id."""
        return uid in there

    def expiry_complete(self, subject: int, expirer: int, position: int) -> bool:
        return expiry_complete(
            subject, expirer, position, self.vector, self.knowledge(), self.expiring
        )

    def may_expire(self, subject: int) -> bool:
        """Whether those who have given their word are enough."""
        agreeing = self.words.get(subject, set())
        return may_be_expired(subject, agreeing, self.joins, self.knowledge(), self.expiring)

    def may_sponsor(self) -> bool:
        """Not before everybody knows it."""
        return self.join is None or acknowledged(
            self.origin, *self.join, self.knowledge(), self.expiring
        )

    def join_is_void(self, peer: SimNode) -> bool:
        """Whether it has to join anew, as a peer sees it."""
        expired = [subject for subject in peer.expiring if subject not in peer.members]
        sponsor = None if self.join is None else self.join[0]
        return sponsor is not None and join_is_void(self.origin, peer.members, expired, sponsor)

    def takes_back(self, peer: SimNode) -> bool:
        """Whether it may return by a peer: all that anybody had of it is there."""
        return self.origin in peer.expiring and self.origin not in peer.members

    def refuses(self, peer: int) -> bool:
        """Whether it takes nothing from a peer and gives it nothing."""
        return peer in self.expiring

    def take_baseline(self, sponsor: SimNode) -> None:
        """Becomes a copy of the sponsor, which just published the join and nothing since."""
        self.rows, self.base = dict(sponsor.rows), dict(sponsor.base)
        self.kept = {key: list(changes) for key, changes in sponsor.kept.items()}
        self.log = defaultdict(dict, {o: dict(log) for o, log in sponsor.log.items()})
        self.newest, self.vector = dict(sponsor.newest), dict(sponsor.vector)
        self.floor, self.known = dict(sponsor.floor), dict(sponsor.known)
        self.members, self.expiring = set(sponsor.members), dict(sponsor.expiring)
        self.join = (sponsor.origin, sponsor.vector[sponsor.origin])
        self.joins = dict(sponsor.joins)
        self.words = {subject: set(by) for subject, by in sponsor.words.items()}
        self.hlc = self.observe(sponsor.hlc)


def keys_of(key: str | None) -> tuple[str, ...]:
    """The rows that a change is about: all of them for a truncate."""
    return KEYS if key is None else (key,)
