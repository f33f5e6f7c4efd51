"""Nodes with one rule switched off each, so that the tests can show what the rule is for.

The names H… are those of the failures that the rules of order prevent. Nothing here touches the
core: a node overrides the method that would have called it.
"""

from __future__ import annotations

from peersync.core.order.change import Image, Transaction
from peersync.core.order.fold import fold
from peersync.core.order.membership import Start, Told, expiry_complete, majority
from peersync.core.order.plan import Plan, Run
from peersync.core.order.stability import Known, Pruned
from peersync.core.order.vector import merge
from tests.simulation.simnode import Frame, SimNode


class IgnoresWhatWasSeen(SimNode):
    """R1 without its second half: a relayed change may overtake what it was based on."""

    def plan(self, heads: list[Transaction]) -> Plan:
        here = dict(self.vector)
        taken = []
        for head in heads:
            if head.position == here.get(head.origin, 0) + 1 and head.origin != self.origin:
                here[head.origin] = head.position
                taken.append(Run(head.origin, (head,)))
        return Plan(tuple(taken), 0, None, here)


class JumpsGaps(SimNode):
    """R1 without its first half (H4): takes whatever is newer, so a lost frame is never missed."""

    def plan(self, heads: list[Transaction]) -> Plan:
        here = dict(self.vector)
        taken = []
        for head in heads:
            if head.position > here.get(head.origin, 0) and head.origin != self.origin:
                here[head.origin] = head.position
                taken.append(Run(head.origin, (head,)))
        return Plan(tuple(taken), 0, None, here)


class DoesNotLook(SimNode):
    """R2: decides without its own changes that are committed and not yet published."""

    def look(self, wall: int) -> None:
        return


class CountsItsCurrentVector(SimNode):
    """R3 (H3): takes for told what it only knows, and forgets what the others then wait for."""

    def knowledge(self) -> dict[int, Known]:
        own = Known(self.vector.get(self.origin, 0), dict(self.vector))
        return {**super().knowledge(), self.origin: own}

    def heartbeat_due(self) -> bool:
        """Of what has left its log it says nothing more."""
        told = self.known[self.origin].seen
        return any(
            position > told.get(origin, 0)
            for origin, log in self.log.items()
            for position, tx in log.items()
            if origin != self.origin and tx.head.kind != "b"
        )


class BelievesEveryFrame(SimNode):
    """R3 (H16): merges a sender's vector though something of the sender is still on its way."""

    def learn(self, frame: Frame) -> Known:
        known = self.known[frame.sender]
        return Known(known.position, merge(known.seen, frame.vector))


class ForgetsWhatItApplied(SimNode):
    """R4: prunes what it has itself, whoever else has it: no tombstone outlives the next tick."""

    def prune_row(self, key: str, upto: dict[int, int]) -> Pruned:
        return Pruned((), None)

    def floors(self) -> dict[int, int]:
        return {}


class PrunesTheLogEarly(SimNode):
    """R4: transactions leave the relay log before everybody has them."""

    def floors(self) -> dict[int, int]:
        return dict(self.vector)

    def prune_row(self, key: str, upto: dict[int, int]) -> Pruned:
        return super().prune_row(key, super().floors())


class FoldsOutOfOrder(SimNode):
    """R4 (H1): a stable change goes into the base beneath an older one that is not stable."""

    def prune_row(self, key: str, upto: dict[int, int]) -> Pruned:
        kept = self.kept[key]
        gone = [c for c in kept if c.version.position <= upto.get(c.origin, 0)]
        base: Image | None = fold(self.strategy, self.base.get(key), gone).image
        return Pruned(tuple(c for c in kept if c not in gone), base)


class NeverSpeaksUp(SimNode):
    """R5 without heartbeats: an idle node stops all pruning."""

    def heartbeat_due(self) -> bool:
        return False


class AnswersEverything(SimNode):
    """R5 (H2): a heartbeat whenever its vector moved, so heartbeats answer heartbeats."""

    def heartbeat_due(self) -> bool:
        told = self.known[self.origin].seen
        return any(p > told.get(o, 0) for o, p in self.vector.items() if o != self.origin)


class ObeysOldAnswers(SimNode):
    """R6 (H14): starts anew on "resync required" though it has caught up since."""

    def resync_needed(self, floor: dict[int, int]) -> bool:
        return True


class TrustsTheWallClock(SimNode):
    """The clock without its memory: a change may be older than what it was made on."""

    def next_hlc(self, wall: int) -> int:
        return wall


class IgnoresOtherClocks(SimNode):
    """The clock, and R7 (H6), without observing: what it applied may be newer than what follows."""

    def observe(self, hlc: int) -> int:
        return self.hlc


class WaitsForNoJoiner(SimNode):
    """R8 (H8): a joiner counts as one that has seen everything."""

    def knowledge(self) -> dict[int, Known]:
        known = super().knowledge()
        everything = Known(1 << 60, dict.fromkeys(range(1, 200), 1 << 60))
        return {m: k if k.position or m == self.origin else everything for m, k in known.items()}


class TakesRowsOnly(SimNode):
    """R7 (H5): a baseline without the kept changes of its rows."""

    def take_baseline(self, sponsor: SimNode) -> None:
        super().take_baseline(sponsor)
        self.kept = {key: [] for key in self.kept}
        self.base = dict(self.rows)


class ForgetsTheExpiredAtOnce(SimNode):
    """R10 (H12): does not wait for what others still have of an expired member."""

    def expiry_complete(self, subject: int, expirer: int, position: int) -> bool:
        return True


class PrunesWithoutTheExpired(SimNode):
    """R10 (H12): an expired member no longer counts for stability from the word on."""

    def knowledge(self) -> dict[int, Known]:
        known = super().knowledge()
        return {member: k for member, k in known.items() if member not in self.expiring}

    def expiry_complete(self, subject: int, expirer: int, position: int) -> bool:
        return expiry_complete(
            subject, expirer, position, self.vector, super().knowledge(), self.expiring
        )


class HearsTheExpired(SimNode):
    """R10 without the fence: goes on taking what an expired member sends."""

    def refuses(self, peer: int) -> bool:
        return False


class NeverJoinsAnew(SimNode):
    """R9 (H9): stays what it is though its sponsor died before anybody else knew it."""

    def join_is_void(self, peer: SimNode) -> bool:
        return False


class SponsorsAtOnce(SimNode):
    """R8: sponsors others before everybody knows itself."""

    def may_sponsor(self) -> bool:
        return True


class ExpiresByItself(SimNode):
    """R12: its own word is enough (H15): two nodes expire each other."""

    def may_expire(self, subject: int) -> bool:
        return True


class CountsEverybody(SimNode):
    """R12 with the words of joiners whom the other part of a split has never heard of."""

    def may_expire(self, subject: int) -> bool:
        return majority(self.words.get(subject, set()), self.members)


class ReturnsAtOnce(SimNode):
    """R11: comes back by a member that may lack what others have of it (R10's cut)."""

    def takes_back(self, peer: SimNode) -> bool:
        return self.origin in peer.expiring


class ForgetsItsIds(SimNode):
    """R11: writes again what the others have already, because it lost the position of it."""

    def knows_again(self, uid: int, there: set[int]) -> bool:
        return False


class GoesOnAfterARestore(SimNode):
    """R13: publishes other transactions under positions that the others know already."""

    def verdict(self, answers: dict[int, Told | None]) -> Start:
        return Start.GO_ON


class AsksOneOnly(SimNode):
    """R13: one peer that knows no more of it is enough to go on."""

    def verdict(self, answers: dict[int, Told | None]) -> Start:
        one = dict(sorted(answers.items())[:1])
        return super().verdict(one)


class RecordsItsPositionOnly(SimNode):
    """R13: does not record the vectors that its frames taught the others (see `at_start`)."""

    def keep_record(self) -> None:
        self.record = {self.origin: self.vector.get(self.origin, 0)}
