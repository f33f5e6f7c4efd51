"""One-way members: one that only receives, one that only gives, and wrong ways to be that.

`rows` of a receiver are those that the others' changes make, as everywhere; what its own
applications put over them is in `over`, until a change comes in for that row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from peersync.core.order.change import Image
from peersync.core.order.fold import Strategy
from tests.simulation.simnode import Frame, ResyncRequired, SimNode, Tx, Watch, Written, keys_of

Kind = Callable[[int, set[int], Strategy, Watch], SimNode]


class Receiver(SimNode):
    """Publishes words only: its own changes have no position, so nobody waits for them."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.over: dict[str, Image | None] = {}

    def write(self, uid: int, changes: Sequence[Written]) -> None:
        for change in changes:
            self.over.update(dict.fromkeys(keys_of(change.key), change.image))

    def apply(self, tx: Tx, source: int) -> None:
        super().apply(tx, source)
        for change in tx.changes:
            for key in keys_of(change.key):
                self.over.pop(key, None)

    def may_sponsor(self) -> bool:
        return False


class Giver(SimNode):
    """Applies what comes without its changes, keeps none of it, and gives its own alone."""

    def apply(self, tx: Tx, source: int) -> None:
        super().apply(replace(tx, head=replace(tx.head, changes=0), changes=()), source)
        self.log.pop(tx.head.origin, None)

    def serve(self, asker: int, vector: dict[int, int], most: int) -> Frame | ResyncRequired:
        own = {self.origin: self.floor.get(self.origin, 0)}
        floor, self.floor = self.floor, own
        try:
            return super().serve(asker, vector, most)
        finally:
            self.floor = floor

    def may_sponsor(self) -> bool:
        return False


# --- wrong ways -------------------------------------------------------------------------------
class SilentReceiver(Receiver):
    """Gives nothing at all, words neither: what the others keep for it is kept for ever."""

    def heartbeat_due(self) -> bool:
        return False


class RelayingGiver(Giver):
    """Passes on what it has not applied: whoever takes it there never gets the rows."""

    def apply(self, tx: Tx, source: int) -> None:
        bare = replace(tx, head=replace(tx.head, changes=0), changes=())
        SimNode.apply(self, bare, source)


class DropsRowsOfOneLink(SimNode):
    """One-way by link, not by origin: takes a transaction of one neighbour without its rows, which
    another neighbour would have brought."""

    def accept(self, frame: Frame, wall: int) -> None:
        if frame.sender == min(self.members - {self.origin}):
            bare = tuple(
                replace(tx, head=replace(tx.head, changes=0), changes=())
                for tx in frame.transactions
            )
            frame = replace(frame, transactions=bare)
        super().accept(frame, wall)


def kinds(
    receivers: Collection[int],
    givers: Collection[int],
    *,
    receiver: type[SimNode] = Receiver,
) -> Kind:
    """Which origin is what; all others are ordinary members."""

    def make(origin: int, members: set[int], strategy: Strategy, watch: Watch) -> SimNode:
        chosen = receiver if origin in receivers else Giver if origin in givers else SimNode
        return chosen(origin, members, strategy, watch)

    return make
