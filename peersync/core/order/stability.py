"""What everybody has seen, hence what may be forgotten (ORDER R3, R4, R5).

A log entry is the only memory of a delete and the only way to notice a conflict. It may go once
it is stable: once every member has said, in its own stream, that it has it. From then on nobody
can publish a change that had not seen it. "Everybody has applied it" is not enough, because a
member's older changes may still be on their way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from peersync.core.order.change import Change, Image
from peersync.core.order.fold import (
    Delta,
    Function,
    MergeColumns,
    OriginPriority,
    Strategy,
    by_version,
    fold,
    saw,
)
from peersync.core.order.vector import Vector, covers, merge


@dataclass(frozen=True, slots=True)
class Known:
    """What a member is known to have: `position` of its highest transaction here, and `seen`.

    For this database itself: of the last transaction that it published. Its current vector
    would be too much: it would prune what it never told the others to have, and they would wait
    for that for ever.
    """

    position: int = 0
    seen: Vector = field(default_factory=dict)

    def of(self, member: int, origin: int) -> int:
        """How far `member`, whose knowledge this is, is known to have an origin."""
        return self.position if member == origin else self.seen.get(origin, 0)


def learn_frame(known: Known, sender: int, frame_vector: Vector, vector: Vector) -> Known:
    """What is known of `sender` after a frame that it closed with its own vector (R3).

    That vector counts only where all that the sender had published by then is applied here:
    something of it that is still on its way had seen less.
    """
    if vector.get(sender, 0) < frame_vector.get(sender, 0):
        return known
    others = {origin: at for origin, at in frame_vector.items() if origin != sender}
    return Known(known.position, merge(known.seen, others))


def stable_upto(origin: int, members: Mapping[int, Known]) -> int:
    """The highest position of `origin` that every member is known to have; 0 without members."""
    return min((known.of(member, origin) for member, known in members.items()), default=0)


def stable(origin: int, position: int, members: Mapping[int, Known]) -> bool:
    """Whether no change can come any more that had not seen (origin, position)."""
    return stable_upto(origin, members) >= position


def floors(origins: Iterable[int], members: Mapping[int, Known]) -> dict[int, int]:
    """Up to which position the transactions of each origin may leave the log."""
    return {origin: stable_upto(origin, members) for origin in origins}


def heartbeat_due(newest: Vector, told: Vector) -> bool:
    """Whether an empty transaction must be published, so that the others can prune (R5).

    `newest`: of each other origin the highest transaction applied here that is no heartbeat,
    whether it is kept for relaying or not (with two members it is not, and must be answered).
    `told`: the seen of the last own transaction. Asking instead whether the own vector moved
    would answer heartbeats with heartbeats, for ever.
    """
    return not covers(told, newest)


def relay_needed(origin: int, members: Collection[int], own: int) -> bool:
    """Whether a transaction of `origin` must be kept for another member to take it from here."""
    return any(member not in (origin, own) for member in members)


def changes_needed(strategy: Strategy, origin: int, members: Collection[int], own: int) -> bool:
    """Whether the changes of `origin` must be kept for deciding, or to be relayed.

    Between two members nothing is relayed, and a change of the only other origin is in conflict
    with own changes only. Merged columns and deltas are folded from all of them all the same.
    """
    return isinstance(strategy, MergeColumns | Delta) or relay_needed(origin, members, own)


def resync_needed(floor: Vector, vector: Vector, *, own: int) -> bool:
    """Whether an answer "resync required" with this floor still holds (R6).

    It does not once the vector covers the floor: the request was an old one, delayed.
    """
    return not covers(vector, {origin: at for origin, at in floor.items() if origin != own})


@dataclass(frozen=True, slots=True)
class Pruned:
    """The kept changes of a row that stay, and the base beneath them."""

    kept: tuple[Change, ...]
    base: Image | None


def prune_row(
    strategy: Strategy, base: Image | None, kept: Collection[Change], upto: Vector
) -> Pruned:
    """Forgets the changes of a row that nobody needs (R4). The row itself does not change.

    `upto` is `floors()`. What may go differs:
    newer_wins, manual: any stable change. merge_columns, delta: a stable change goes into the
    base once no unstable change has a lower version, else that one would be put on top of it.
    origin_priority, function: one that another kept change had seen, or all when all are stable,
    so that the winner stays beside those that it won against.
    Only the columns' strategies have a base. A row is not to be folded again until a change
    comes in: that change had seen all that went, so what it replaces or adds to is the row.
    """

    def is_stable(change: Change) -> bool:
        return change.version.position <= upto.get(change.origin, 0)

    match strategy:
        case MergeColumns() | Delta():
            ordered = by_version(kept)
            count = next((i for i, c in enumerate(ordered) if not is_stable(c)), len(ordered))
            return Pruned(tuple(ordered[count:]), fold(strategy, base, ordered[:count]).image)
        case OriginPriority() | Function():
            if all(is_stable(change) for change in kept):
                return Pruned((), None)
            stay = [c for c in kept if not (is_stable(c) and any(saw(o, c) for o in kept))]
            return Pruned(tuple(stay), None)
    stay = [change for change in kept if not is_stable(change)]
    return Pruned(tuple(stay), None)
