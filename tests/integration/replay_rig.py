"""Runs of the simulation, done again step by step by real databases.

Each node of the run is a database with the real capture; what it publishes, answers, applies
and prunes is asked of the real functions, in the order of the trace: frames that were lost are
not brought, those that came twice or late are brought twice or late. After each step a database
must have what the simulated node had: rows, vector, clock, log, floors, members, conflicts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from peersync.core.errors import ResyncRequired
from peersync.postgres.log.apply import Applied
from peersync.postgres.log.prune import prune
from peersync.wire.feed import TransactionHead
from tests.integration.replay_conflicts import History
from tests.integration.replay_join import take_over
from tests.integration.replay_node import Brought, Difference, ReplayNode, name_of, same, vector_of
from tests.simulation.trace import Step, Trace


class Replay:
    """One trace. `conflicts` were recorded, all as expected."""

    def __init__(self, trace: Trace, nodes: Sequence[ReplayNode]) -> None:
        self.trace = trace
        self.nodes = {node.origin: node for node in nodes}
        self.conflicts = 0
        self._history = History(trace.strategy)
        self._wanted: dict[int, set[str]] = defaultdict(set)  # pieces by the number of the answer
        self._frames: dict[tuple[int, str], Brought] = {}
        self._runs: list[Step] = []
        self._applied: Applied | None = None
        for step in trace.of("deliver"):
            if step["txs"]:
                self._wanted[step["number"]].add(json.dumps(step["txs"]))

    async def run(self) -> None:
        """Raises Difference; whatever it raises has the seed and the step as a note."""
        for node in self.nodes.values():
            await node.begin(range(1, self.trace.nodes + 1), self.trace.strategy)
        for number, step in enumerate(self.trace.steps):
            try:
                await getattr(self, f"_{step['do']}")(self.nodes[step["node"]], step)
            except BaseException as error:
                error.add_note(f"seed {self.trace.seed}, step {number}: {step}")
                raise

    # --- the steps --------------------------------------------------------------------------
    async def _write(self, node: ReplayNode, step: Step) -> None:
        self._history.wrote(step)
        await node.write(step["ops"])

    async def _publish(self, node: ReplayNode, step: Step) -> None:
        self._history.published(step)
        await node.publish(step)

    async def _serve(self, node: ReplayNode, step: Step) -> None:
        """Asks for the whole answer, and again for each piece of it that will be brought."""
        number, asker, txs = step["number"], step["asker"], step["txs"]
        wanted, vector = self._wanted[number], vector_of(step["vector"])
        if not wanted and number % 8:
            return
        whole = await node.answer(asker, vector, step["most"])
        head = whole[0]
        found = [_told(t, seen) for t, seen in zip(head.transactions, head.seens, strict=True)]
        same(found, [self._head(*place) for place in txs], "answered")
        same(head.vector, vector_of(step["sender"]), "vector of the answer", zeros=True)
        for text in wanted:
            piece = json.loads(text)
            if piece != txs:
                before = txs[: txs.index(piece[0])]
                frame = await node.answer(asker, vector | dict(before), len(piece))
                told = [[t.origin, t.position] for t in frame[0].transactions]
                same(told, piece, "answered a piece")
            self._frames[number, text] = whole if piece == txs else frame

    async def _refuse(self, node: ReplayNode, step: Step) -> None:
        asker, vector = step["asker"], vector_of(step["vector"])
        floors = {o: p for o, p in vector_of(step["floor"]).items() if p > vector.get(o, 0)}
        floors.pop(asker, None)
        try:
            await node.answer(asker, vector, step["most"])
        except ResyncRequired as refusal:
            same(vector_of(refusal.data["floors"]), floors, "floors of a refusal")
            return
        raise Difference(f"answered, though {floors} have left the log")

    async def _deliver(self, node: ReplayNode, step: Step) -> None:
        self._runs, self._applied = [], None
        if step["txs"]:
            brought = self._frames[step["number"], json.dumps(step["txs"])]
            self._applied = await node.apply(brought, step["wall"])

    async def _run(self, _: ReplayNode, step: Step) -> None:
        self._runs.append(step)

    async def _apply(self, _: ReplayNode, step: Step) -> None:
        self._history.applied(step)

    async def _delivered(self, node: ReplayNode, step: Step) -> None:
        if self._applied is None:  # nothing was brought
            return
        stop = self._applied.stopped
        same(stop and [str(stop.reason), stop.origin, stop.position], step["stopped"], "stopped at")
        count = sum(run["last"] - run["first"] + 1 for run in self._runs)
        same(self._applied.transactions, count, "transactions applied")
        same(self._applied.vector, vector_of(step["vector"]), "vector told", zeros=True)
        expected = [record for run in self._runs for record in self._history.conflicts_of(run)]
        found = await node.new_conflicts()
        same(sorted(found, key=repr), sorted(expected, key=repr), "conflicts")
        same(self._applied.conflicts, len(expected), "conflicts told")
        self.conflicts += len(expected)
        await self._compare(node, step)

    async def _prune(self, node: ReplayNode, step: Step) -> None:
        await prune(node.conn)
        await self._compare(node, step)

    async def _join(self, node: ReplayNode, step: Step) -> None:
        sponsor, name = self.nodes[step["sponsor"]], name_of(node.origin)
        await take_over(sponsor.database, sponsor.resolved, node.resolved, node.origin, name)

    async def _crash(self, node: ReplayNode, _: Step) -> None:
        await node.crash()

    # --- what must be -----------------------------------------------------------------------
    async def _compare(self, node: ReplayNode, step: Step) -> None:
        state = await node.state()
        same(state["rows"] or {}, step["rows"], "rows")
        same(vector_of(state["vector"]), vector_of(step["vector"]), "vector")
        same(state["hlc"], step["hlc"], "hlc")
        same(state["log"] or [], step["log"], "log")
        same(sorted(state["kept"] or [], key=str), step["kept"], "changes kept")
        same(vector_of(state["floor"]), vector_of(step["floor"]), "floors")
        same(state["members"], step["members"], "members")
        same(state["waiting"], 0, "changes in quarantine")

    def _head(self, origin: int, position: int) -> tuple[Any, ...]:
        step = self._history.head(origin, position)
        changes = len(self._history.ops((origin, position)))
        return origin, position, step["hlc"], step["kind"], changes, vector_of(step["seen"])


def _told(t: TransactionHead, seen: Mapping[int, int]) -> tuple[Any, ...]:
    return t.origin, t.position, t.hlc, t.kind, t.changes, dict(seen)
