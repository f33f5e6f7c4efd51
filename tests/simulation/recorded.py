"""Runs of the simulation that can be replayed on real databases, step by step.

What a node does is that of `SimNode`, but for two rules that the databases have otherwise, so
that both can be compared exactly: nothing is learned from the vector that closes a frame (the
databases learn from transactions alone), and a run without changes does not look (R2 is about
rows). Both only put something off: the runs stay right, as their own checks show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peersync.core.order.stability import Known
from tests.simulation.onlooker import Onlooker
from tests.simulation.scenario import Scenario
from tests.simulation.simnode import Frame, ResyncRequired, SimNode
from tests.simulation.trace import Trace
from tests.simulation.world import World


@dataclass(frozen=True)
class NumberedFrame(Frame):
    """A frame, or a piece of one, that knows which answer it is of."""

    number: int = 0


class RecordedNode(SimNode):
    """Adds to the trace what it answered, what it was brought, and what it had afterwards."""

    @property
    def trace(self) -> Trace:
        assert isinstance(self.watch, Onlooker)
        return self.watch.trace

    def serve(self, asker: int, vector: dict[int, int], most: int) -> Frame | ResyncRequired:
        answer = super().serve(asker, vector, most)
        number = len(self.trace.steps)
        step: dict[str, Any] = {"asker": asker, "vector": dict(vector), "most": most}
        if isinstance(answer, ResyncRequired):
            self.trace.add("refuse", node=self.origin, floor=answer.floor, **step)
            return answer
        step |= {"number": number, "txs": _places(answer), "sender": answer.vector}
        self.trace.add("serve", node=self.origin, **step)
        return NumberedFrame(answer.sender, answer.vector, answer.transactions, number)

    def accept(self, frame: Frame, wall: int) -> None:
        assert isinstance(frame, NumberedFrame)
        self.trace.add(
            "deliver",
            node=self.origin,
            source=frame.sender,
            number=frame.number,
            txs=_places(frame),
            wall=wall,
        )
        by_place = {(tx.head.origin, tx.head.position): tx for tx in frame.transactions}
        plan = self.plan([tx.head for tx in frame.transactions])
        for run in plan.runs:
            own = self.vector.get(self.origin, 0)
            self.trace.add(
                "run", node=self.origin, origin=run.origin, first=run.first, last=run.last, own=own
            )
            if run.changes:
                self.look(wall)
            for head in run.transactions:
                self.apply(by_place[head.origin, head.position], frame.sender)
        stop = plan.stopped
        stopped = stop and [str(stop.reason), stop.origin, stop.position]
        self._note("delivered", stopped=stopped)

    def prune(self) -> None:
        self.complete_expiries()
        super().prune()
        self._note("prune")

    def learn(self, frame: Frame) -> Known:
        return self.known[frame.sender]

    def _note(self, do: str, **more: Any) -> None:
        """All that the database of this node must have now."""
        kept = {
            (c.version.origin, c.version.position, c.op, c.key)
            for changes in self.kept.values()
            for c in changes
        }
        log = sorted((o, p) for o, txs in self.log.items() for p in txs)
        self.trace.add(
            do,
            node=self.origin,
            vector={o: p for o, p in self.vector.items() if p},
            hlc=self.hlc,
            rows=dict(self.rows),
            log=[list(place) for place in log],
            floor={o: p for o, p in self.floor.items() if p},
            kept=sorted([list(each) for each in kept], key=str),
            members=sorted(self.members - self.expiring.keys()),
            **more,
        )


def record(scenario: Scenario) -> Trace:
    """Runs it, with its checks, and gives the trace. Raises Violation."""
    return World(scenario, kind=RecordedNode).run()


def _places(frame: Frame) -> list[list[int]]:
    return [[tx.head.origin, tx.head.position] for tx in frame.transactions]
