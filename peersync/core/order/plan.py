"""Which transactions of a frame may be applied now, and in which runs (ORDER R1).

A transaction (o, p) may be applied when p is the next position of o here and everything that o
had seen when it published it is here too. Without the second half a relayed transaction could
overtake what it was based on, and would look like a conflict with it.

A run is a list of consecutive transactions of one origin: one local transaction applies it.
Runs should be long, and a frame is ordered by time, so origins alternate in it. Hence the plan
skips over transactions of other origins, as long as the rule holds at that moment. It refuses
to raise: what a peer sent out of order is said in `stopped`, and the runs before it are good.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from peersync.core.order.change import Transaction
from peersync.core.order.vector import Vector, missing


class Reason(StrEnum):
    """Why a transaction has to wait, or may never come."""

    GAP = "gap"  # the one before it is missing
    UNSEEN = "unseen"  # it builds on a transaction that is not here
    UNKNOWN_ORIGIN = "unknown-origin"  # its origin is no member here
    FENCED = "fenced"  # its origin is expired: only members may bring its transactions
    AHEAD_OF_US = "ahead-of-us"  # the peer knows more of this database than it does (R13)


@dataclass(frozen=True, slots=True)
class Stop:
    """The first transaction of a frame that is left, and why. `needs`: (origin, position)."""

    reason: Reason
    origin: int
    position: int
    needs: tuple[int, int] | None = None

    @property
    def sentence(self) -> str:
        """The same for people."""
        this = f"Transaction {self.position} of origin {self.origin}"
        match self.reason, self.needs:
            case Reason.GAP, (_, position):
                return f"{this} came, but {position} is the next one here"
            case Reason.UNSEEN, (origin, position):
                return f"{this} builds on transaction {position} of origin {origin}, not here yet"
            case Reason.AHEAD_OF_US, (_, position):
                return f"{this} knows {position} transactions of this database, more than it has"
            case Reason.FENCED, _:
                return f"{this} is of an expired member, and the sender is no member"
        return f"{this} is of an origin that is no member here"


@dataclass(frozen=True)
class Run:
    """Consecutive transactions of one origin, to be applied in one local transaction."""

    origin: int
    transactions: tuple[Transaction, ...]

    @property
    def first(self) -> int:
        return self.transactions[0].position

    @property
    def last(self) -> int:
        return self.transactions[-1].position

    @cached_property
    def changes(self) -> int:
        return sum(transaction.changes for transaction in self.transactions)

    @property
    def least_seen(self) -> Vector:
        """What every transaction of it had seen: `seen` only grows, so that of the first."""
        return self.transactions[0].seen


@dataclass(frozen=True, slots=True)
class Plan:
    """Runs in the order in which they must be applied, and what is left of the frame."""

    runs: tuple[Run, ...]
    duplicates: int
    stopped: Stop | None
    vector: dict[int, int]  # after the last run


def plan_runs(
    heads: Iterable[Transaction],
    vector: Vector,
    *,
    own_origin: int,
    members: Collection[int],
    fenced: Collection[int] = (),
    max_changes: int | None = None,
) -> Plan:
    """The runs that may be applied now.

    `vector` has the own origin too. `fenced` are the origins that this sender may not bring:
    the expired ones if it is no member, none if it is (R9, R10). A join makes its subject a
    member for what follows. `max_changes` ends a run early; a longer transaction stays whole.
    """
    planner = _Planner(dict(vector), own_origin, set(members), set(fenced), max_changes)
    return planner.plan(heads)


class _Planner:
    """Queues by origin; a blocked one waits for a position, and the run that has it wakes it."""

    def __init__(
        self,
        vector: dict[int, int],
        own: int,
        members: set[int],
        fenced: set[int],
        max_changes: int | None,
    ) -> None:
        self._vector = vector
        self._own = own
        self._members = members
        self._fenced = fenced
        self._max_changes = max_changes
        self._queues: dict[int, deque[tuple[int, Transaction]]] = defaultdict(deque)
        self._ready: list[tuple[int, int]] = []  # (place of its next transaction, origin)
        self._waiting: dict[int, list[tuple[int, int]]] = defaultdict(list)  # q: [(position, o)]
        self._stops: dict[int, Stop] = {}
        self._duplicates = 0
        self._covered: dict[int, Vector] = {}  # by origin: what its last one had seen, and is here

    def plan(self, heads: Iterable[Transaction]) -> Plan:
        for place, head in enumerate(heads):
            self._queues[head.origin].append((place, head))
        for origin, queue in self._queues.items():
            heapq.heappush(self._ready, (queue[0][0], origin))
        runs: list[list[Transaction]] = []
        while self._ready:
            _, origin = heapq.heappop(self._ready)
            for taken in self._take(origin):
                runs.append(taken)
                self._wake(taken[-1])
        left = [(queue[0][0], origin) for origin, queue in self._queues.items() if queue]
        return Plan(
            runs=tuple(Run(run[0].origin, tuple(run)) for run in runs),
            duplicates=self._duplicates,
            stopped=self._stops[min(left)[1]] if left else None,
            vector=self._vector,
        )

    def _take(self, origin: int) -> list[list[Transaction]]:
        """All of the origin that may go now, in one run or in pieces of `max_changes`."""
        queue, runs, size = self._queues[origin], list[list[Transaction]](), 0
        while queue:
            head = queue[0][1]
            if head.position <= self._vector.get(origin, 0):
                queue.popleft()
                self._duplicates += 1
                continue
            stop = self._stop(head)
            if stop is not None:
                self._stops[origin] = stop
                self._wait(stop, head)
                break
            queue.popleft()
            self._vector[origin] = head.position
            full = self._max_changes is not None and size + head.changes > self._max_changes
            if not runs or full:
                runs.append([])
                size = 0
            runs[-1].append(head)
            size += head.changes
            if head.kind == "j" and head.subject is not None:
                self._admit(head.subject)
        return runs

    def _stop(self, head: Transaction) -> Stop | None:
        origin, position = head.origin, head.position
        following = self._vector.get(origin, 0) + 1
        if self._covered.get(origin) is head.seen and position == following:
            return None  # as the one before it: most have seen the same
        if origin == self._own or head.seen.get(self._own, 0) > self._vector.get(self._own, 0):
            known = position if origin == self._own else head.seen[self._own]
            return Stop(Reason.AHEAD_OF_US, origin, position, (self._own, known))
        if origin in self._fenced:
            return Stop(Reason.FENCED, origin, position)
        if origin not in self._members:
            return Stop(Reason.UNKNOWN_ORIGIN, origin, position)
        if position != following:
            return Stop(Reason.GAP, origin, position, (origin, following))
        needs = missing(self._vector, head.seen, but=origin)
        if needs is not None:
            return Stop(Reason.UNSEEN, origin, position, needs)
        self._covered[origin] = head.seen
        return None

    def _wait(self, stop: Stop, head: Transaction) -> None:
        if stop.reason is Reason.UNSEEN and stop.needs is not None:
            self._waiting[stop.needs[0]].append((stop.needs[1], head.origin))

    def _admit(self, subject: int) -> None:
        self._members.add(subject)
        if self._queues.get(subject):
            heapq.heappush(self._ready, (self._queues[subject][0][0], subject))

    def _wake(self, last: Transaction) -> None:
        still = []
        for position, origin in self._waiting.pop(last.origin, []):
            if position > last.position:
                still.append((position, origin))
            elif self._queues[origin]:
                heapq.heappush(self._ready, (self._queues[origin][0][0], origin))
        if still:
            self._waiting[last.origin] = still
