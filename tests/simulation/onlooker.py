"""Who looks on from outside the protocol: an oracle that never prunes, and happens-before.

Beside every node stands the full set of changes that it ever applied; the node's rows must be
what folding all of them gives. What a writer had in its rows when it committed is tracked as a
set of transactions, not as vectors: conflicts must be found exactly where neither of two
transactions was in the other's set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from peersync.core.order.change import Change
from peersync.core.order.fold import Strategy, fold
from tests.simulation.simnode import KEYS, SimNode, Tx, Written, keys_of
from tests.simulation.trace import Trace


class Violation(AssertionError):
    """The protocol did what it must not do."""


class Onlooker:
    """Implements `simnode.Watch`. Sets of transactions are bit masks of their `uid`."""

    def __init__(self, strategy: Strategy, trace: Trace) -> None:
        self.strategy = strategy
        self.trace = trace
        self.everything: dict[int, dict[str, list[Change]]] = defaultdict(
            lambda: {key: [] for key in KEYS}
        )
        self.has: dict[int, int] = defaultdict(int)  # by node
        self.past: dict[int, int] = {}  # by uid
        self.writer: dict[int, int] = {}  # node by uid
        self.forgotten: set[int] = set()  # writes that a restore took from their writer
        self.uid: dict[tuple[int, int], int] = {}  # by (origin, position)
        self.published_count = 0
        self.heartbeats = 0
        self.conflicts = 0
        self._detected: list[tuple[str, int, int, int]] = []

    def written(self, node: SimNode, uid: int, changes: Sequence[Written]) -> None:
        self.writer[uid] = node.origin
        self.past[uid] = self.has[node.origin]
        self.has[node.origin] |= 1 << uid
        ops = [{"op": c.op, "key": c.key, "image": c.image} for c in changes]
        self.trace.add("write", node=node.origin, uid=uid, ops=ops)

    def published(self, node: SimNode, tx: Tx, wall: int) -> None:
        head = tx.head
        self.trace.add(
            "publish",
            node=node.origin,
            position=head.position,
            hlc=head.hlc,
            wall=wall,
            uid=tx.uid,
            kind=head.kind,
            subject=head.subject,
            seen=dict(head.seen),
        )
        self.published_count += 1
        self.heartbeats += head.kind == "b"
        if tx.uid is not None:
            self.uid[head.origin, head.position] = tx.uid
        for change in tx.changes:
            for key in keys_of(change.key):
                self._check_order(change, key, node)
                self.everything[node.origin][key].append(change)
        self._check_rows(node, tx)

    def decided(self, node: SimNode, tx: Tx, change: Change, key: str, seen: list[Change]) -> None:
        """`seen` are the changes that the node takes for concurrent with the incoming one."""
        assert tx.uid is not None
        self._check_order(change, key, node)
        past = self.past[tx.uid]
        mine = self.everything[node.origin][key]
        expected = {
            (c.version.origin, c.version.position, c.version.ordinal)
            for c in mine
            if c.origin != change.origin
            and not past >> self._uid(c) & 1
            and not self.past[self._uid(c)] >> tx.uid & 1
        }
        detected = {(c.version.origin, c.version.position, c.version.ordinal) for c in seen}
        if detected != expected:
            raise Violation(
                f"node {node.origin} on {change.version} of {key}: takes {sorted(detected)} for "
                f"concurrent, but {sorted(expected)} are"
            )
        self.conflicts += len(detected)
        self._detected += [(key, *place) for place in sorted(detected)]
        mine.append(change)

    def applied(self, node: SimNode, tx: Tx, source: int) -> None:
        head = tx.head
        if tx.uid is not None:
            self.has[node.origin] |= 1 << tx.uid
        self.trace.add(
            "apply",
            node=node.origin,
            source=source,
            origin=head.origin,
            position=head.position,
            conflicts=[list(found) for found in self._detected],
        )
        self._detected = []
        self._check_rows(node, tx)

    def resync(self, node: SimNode, floor: dict[int, int]) -> None:
        raise Violation(
            f"node {node.origin} would start anew: floor {floor}, but it has {node.vector}"
        )

    def joined(self, node: SimNode, sponsor: SimNode) -> None:
        source = self.everything[sponsor.origin]
        self.everything[node.origin] = {key: list(changes) for key, changes in source.items()}
        self.has[node.origin] = self.has[sponsor.origin]
        self.trace.add("join", node=node.origin, sponsor=sponsor.origin)

    def rolled_back(self, node: SimNode, had: int) -> None:
        """Its database is an older one: `had` is what it had at the time of the backup."""
        gone = self.has[node.origin] & ~had
        self.forgotten |= {
            uid for uid, by in self.writer.items() if by == node.origin and gone >> uid & 1
        }
        self.has[node.origin] = had
        for key, changes in self.everything[node.origin].items():
            still = [
                c
                for c in changes
                if had >> self._uid(c) & 1 and c.version.position <= node.vector.get(c.origin, 0)
            ]
            self.everything[node.origin][key] = still
        self.trace.add("restore", node=node.origin)

    # --- what must hold ---------------------------------------------------------------------
    def _uid(self, change: Change) -> int:
        return self.uid[change.version.origin, change.version.position]

    def _check_order(self, change: Change, key: str, node: SimNode) -> None:
        """A change is newer than all that its writer had in the row."""
        past = self.past[self._uid(change)]
        for other in self.everything[node.origin][key]:
            if past >> self._uid(other) & 1 and other.version > change.version:
                raise Violation(f"{change.version} was made after {other.version}, and is older")

    def _check_rows(self, node: SimNode, tx: Tx) -> None:
        waiting = {key for _, changes in node.pending for c in changes for key in keys_of(c.key)}
        for key in {key for change in tx.changes for key in keys_of(change.key)} - waiting:
            self.check_row(node, key)

    def check_row(self, node: SimNode, key: str) -> None:
        must = fold(self.strategy, None, self.everything[node.origin][key]).image
        have = node.rows.get(key)
        if have != must:
            what = "resurrected" if must is None else "wrong"
            raise Violation(f"node {node.origin}: {key} is {what}: {have!r}, must be {must!r}")
