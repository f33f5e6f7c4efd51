"""One simulated run: nodes, a network that loses and doubles, crashes, and a quiet end.

Time is virtual and the only source of chance is the seed, so a run can be had again. After the
load everything heals; then all nodes must be equal, nothing may be lost, the logs must empty,
and the chatter must end.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from peersync.core.order.membership import Start, Told
from tests.simulation.oneway import Giver, Kind
from tests.simulation.onlooker import Onlooker, Violation
from tests.simulation.returning import again, unsent
from tests.simulation.scenario import Scenario
from tests.simulation.simnode import KEYS, Frame, ResyncRequired, SimNode
from tests.simulation.trace import Trace
from tests.simulation.workload import draw_changes

MS = 1000
START = 1_700_000_000_000_000  # microseconds since 1970


class World:
    def __init__(self, scenario: Scenario, kind: Kind = SimNode) -> None:
        self.scenario = scenario
        self.rng = random.Random(scenario.seed ^ 0x5EED)
        name = scenario.strategy.name
        self.trace = Trace(scenario.seed, scenario.nodes, name, list(scenario.links))
        self.onlooker = Onlooker(scenario.strategy, self.trace)
        self.kind = kind
        origins = range(1, scenario.nodes + 1)
        self.nodes = {n: kind(n, set(origins), scenario.strategy, self.onlooker) for n in origins}
        self.links = list(scenario.links)
        self.skew = dict(scenario.skew_us)
        self.down: dict[int, int] = {}  # until when
        self.life = dict.fromkeys(self.nodes, 0)  # a message to an earlier life is lost
        self.cut: dict[tuple[int, int], int] = {}
        self.gone: set[int] = set()  # left, or expired: they write no more
        self.dead: set[int] = set()  # of those, the ones that nobody waits for in the end
        self.now = 0
        self._uids = 0
        self._last_origin = scenario.nodes + scenario.joins
        self.returning: set[int] = set()  # origins that came back as another
        self.expired: set[int] = set()
        self.restored: list[Start] = []
        self.lost_for_good: set[int] = set()
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    # --- the run ----------------------------------------------------------------------------
    def run(self) -> Trace:
        """Raises Violation. Gives the trace."""
        try:
            self._load()
            self._settle()
            self._check_end()
        except Violation as violation:
            scenario = self.scenario
            raise Violation(
                f"seed {scenario.seed} ({scenario.nodes} nodes, {scenario.topology}, "
                f"{scenario.strategy.name}, {scenario.events}): {violation}\n"
                f"again: PEERSYNC_SIM_SEEDS={scenario.seed}-{scenario.seed} pytest tests/simulation"
            ) from violation
        self.trace.rows = dict(self._remaining()[0].rows)
        return self.trace

    def wall(self, node: SimNode) -> int:
        return START + self.now + self.skew[node.origin]

    def at(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + round(delay_ms * MS), self._count, action))

    def _load(self) -> None:
        scenario, rng = self.scenario, self.rng
        span = 10_000
        for _ in range(scenario.writes):
            self.at(rng.uniform(0, span), self._write)
        for _ in range(scenario.crashes):
            self.at(rng.uniform(0, span), self._crash)
        for _ in range(scenario.partitions):
            self.at(rng.uniform(0, span), self._partition)
        for _ in range(rng.randint(0, 3)):
            self.at(rng.uniform(0, span), self._jump)
        for number in range(scenario.joins):
            self.at(rng.uniform(0, span), partial(self._join, scenario.nodes + 1 + number))
        for _ in range(scenario.leaves):
            self.at(rng.uniform(0, span), self._leave)
        for _ in range(scenario.expiries):
            self.at(rng.uniform(0, span), self._lose)
        for _ in range(scenario.restores):
            self.at(rng.uniform(0, span), self._back_up)
        for link in self.links:
            self.at(rng.uniform(0, 500), partial(self._pull_again, link))
        for node in list(self.nodes.values()):
            self._start_timers(node)
        while self._queue and self._queue[0][0] < span * MS:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self._queue.clear()

    def _start_timers(self, node: SimNode) -> None:
        self.at(self.rng.uniform(0, 300), lambda: self._tick(node))

    def _tick(self, node: SimNode) -> None:
        node.complete_expiries()
        if self._speaks(node.origin):
            node.publish(self.wall(node))
            if self.rng.random() < 0.5:
                node.heartbeat(self.wall(node))
            if self.rng.random() < 0.5:
                node.prune()
        self.at(self.rng.uniform(50, 600), lambda: self._tick(node))

    def _up(self, origin: int) -> bool:
        return self.down.get(origin, 0) <= self.now

    def _speaks(self, origin: int) -> bool:
        """Whether it publishes: it is up, a member, and has not heard that it is expired."""
        expired = origin in self.nodes[origin].expiring
        return self._up(origin) and origin not in self.gone and not expired

    # --- what goes wrong --------------------------------------------------------------------
    def _crash(self) -> None:
        origin = self.rng.choice(list(self.nodes))
        until = self.now + self.rng.randint(100, 3000) * MS
        self.down[origin] = max(until, self.down.get(origin, 0))
        self.life[origin] += 1
        self.trace.add("crash", node=origin, until=self.down[origin])

    def _partition(self) -> None:
        side = {origin for origin in self.nodes if self.rng.random() < 0.5}
        until = self.now + self.rng.randint(500, 4000) * MS
        for link in self.links:
            if (link[0] in side) != (link[1] in side):
                self.cut[link] = until

    def _back_up(self) -> None:
        node = self.rng.choice(self._remaining())
        backup, had = node.backup(), self.onlooker.has[node.origin]
        self.at(self.rng.uniform(100, 3000), partial(self._restore, node, backup, had))

    def _restore(self, node: SimNode, backup: dict[str, Any], had: int) -> None:
        """The database is the backup; the others drop what it sent and say what they have."""
        if node.origin in self.dead | self.gone or self.expired:
            return
        node.restore(backup)
        self.onlooker.rolled_back(node, had)
        self.life[node.origin] += 1
        answers: dict[int, Told | None] = {
            m.origin: Told(m.vector.get(node.origin, 0), m.known[node.origin].seen)
            for m in self._remaining()
            if m is not node and node.origin in m.members
        }
        self.restored.append(node.verdict(answers))
        if self.restored[-1] is not Start.GO_ON:
            self.dead.add(node.origin)
            self.expired.add(node.origin)
            self.down[node.origin] = 1 << 62  # held: it waits for its return

    def _jump(self) -> None:
        origin = self.rng.choice(list(self.nodes))
        self.skew[origin] += self.rng.choice([-3_600_000_000, -2_000_000, 500_000, 60_000_000])

    # --- the applications -------------------------------------------------------------------
    def _write(self) -> None:
        node = self.nodes[self.rng.choice(list(self.nodes))]
        if not self._speaks(node.origin):
            return
        changes = draw_changes(self.rng, node)
        self._uids += 1
        node.write(self._uids, changes)
        if self.rng.random() < 0.4:
            node.publish(self.wall(node))

    # --- the network ------------------------------------------------------------------------
    def _pull_again(self, link: tuple[int, int]) -> None:
        if self._up(link[0]) and link[0] not in self.gone:
            self._pull(link)
        self.at(self.rng.uniform(50, 800), lambda: self._pull_again(link))

    def _pull(self, link: tuple[int, int]) -> None:
        puller = self.nodes[link[0]]
        if link[1] not in puller.members:
            return
        vector, life = dict(puller.vector), self.life[link[0]]
        self._send(link, lambda: self._answer(link, vector, life))

    def _send(self, link: tuple[int, int], arrive: Callable[[], None]) -> None:
        copies = 2 if self.rng.random() < self.scenario.doubled else 1
        for _ in range(copies):
            if self.rng.random() >= self.scenario.loss and self.cut.get(link, 0) <= self.now:
                self.at(self.rng.expovariate(1 / self.scenario.delay_ms), arrive)

    def _answer(self, link: tuple[int, int], vector: dict[int, int], life: int) -> None:
        if not self._up(link[1]) or self.cut.get(link, 0) > self.now:
            return
        if self.nodes[link[1]].refuses(link[0]):
            return
        size, lives = self.scenario.frame, (life, self.life[link[1]])
        answer = self.nodes[link[1]].serve(link[0], vector, 3 * size)
        if isinstance(answer, ResyncRequired) or not answer.transactions:
            self._send(link, partial(self._arrive, link[0], answer, lives))
            return
        for first in range(0, len(answer.transactions), size):
            piece = replace(answer, transactions=answer.transactions[first : first + size])
            self._send(link, partial(self._arrive, link[0], self._damaged(piece), lives))

    def _damaged(self, frame: Frame) -> Frame:
        """The frame, or what is left of it when the connection was cut."""
        if self.rng.random() >= self.scenario.loss:
            return frame
        return replace(frame, transactions=frame.transactions[: self.rng.randint(0, 2)])

    def _arrive(self, puller: int, answer: Frame | ResyncRequired, lives: tuple[int, int]) -> None:
        fenced = self.nodes[puller].refuses(answer.sender)
        listens = self._up(puller) and puller not in self.gone
        same = (self.life[puller], self.life[answer.sender]) == lives
        if listens and same and not fenced:
            self._take(self.nodes[puller], answer)

    def _take(self, node: SimNode, answer: Frame | ResyncRequired) -> None:
        if node.join_is_void(self.nodes[answer.sender]):
            self._return(node, self.nodes[answer.sender])
        elif isinstance(answer, ResyncRequired):
            if node.origin not in self.dead:  # who is expired has to start anew
                node.refused(answer)
        else:
            node.accept(answer, self.wall(node))

    # --- joins ------------------------------------------------------------------------------
    def _join(self, origin: int) -> None:
        up = [n for n in self._remaining() if self._speaks(n.origin) and n.may_sponsor()]
        if up:
            sponsor = self.rng.choice(up)
            self._admit(origin, sponsor)
            if self.scenario.expiries and self.rng.random() < 0.7:
                self.at(self.rng.uniform(0, 300), partial(self._lose, sponsor))
            self.down[origin] = self.now + self.rng.randint(0, 2000) * MS  # it loads the baseline

    def _admit(self, origin: int, sponsor: SimNode) -> SimNode:
        """A new member, linked both ways with its sponsor and, some of them, with another."""
        sponsor.announce(self.wall(sponsor), "j", origin)
        joiner = self.kind(origin, set(), self.scenario.strategy, self.onlooker)
        joiner.take_baseline(sponsor)
        self.onlooker.joined(joiner, sponsor)
        self.skew.setdefault(origin, 0)
        links = [(origin, sponsor.origin), (sponsor.origin, origin)]
        if self.scenario.expiries or self.rng.random() < 0.5:
            known = [n for n in self._remaining() if n is not sponsor and n.may_sponsor()]
            other = self.rng.choice(known or [sponsor])
            links += [(origin, other.origin), (other.origin, origin)]
        self.nodes[origin] = joiner
        self.life[origin] = 0
        for link in dict.fromkeys(links):
            self.links.append(link)
            self.at(self.rng.uniform(0, 500), partial(self._pull_again, link))
        self._start_timers(joiner)
        return joiner

    def _return(self, node: SimNode, sponsor: SimNode) -> None:
        """A new origin, the sponsor's baseline, and the list of what the others lack."""
        if node.origin in self.returning or not sponsor.may_sponsor():
            return
        self.returning.add(node.origin)
        others = [n.origin for n in self._remaining() if n is not node]
        listed = unsent(node, sponsor, self.onlooker, others)
        self.dead.add(node.origin)
        self.down[node.origin] = 1 << 62
        self._last_origin += 1
        anew = self._admit(self._last_origin, sponsor)
        for _, changes in listed:
            for change in changes:
                written = again(anew, change)
                if written is not None:
                    self._uids += 1
                    anew.write(self._uids, [written])

    def _return_all(self) -> None:
        """Who is expired and still runs comes back, where that is complete."""
        for origin in sorted(self.expired - self.returning - self.lost_for_good):
            for peer in self._remaining():
                if self.nodes[origin].takes_back(peer):
                    self._return(self.nodes[origin], peer)
                    break

    # --- departures -------------------------------------------------------------------------
    def _remaining(self) -> list[SimNode]:
        return [n for n in self.nodes.values() if n.origin not in self.gone | self.dead]

    def _leave(self) -> None:
        """Says so as its last word, and serves until everybody has heard it."""
        staying = self._remaining()
        node = self.rng.choice(staying)
        if len(staying) > 2 and self._speaks(node.origin):
            node.announce(self.wall(node), "l", node.origin)
            self.gone.add(node.origin)

    def _lose(self, lost: SimNode | None = None) -> None:
        """One node is expired by another: it died, or is only out of reach and writes on."""
        staying = [n for n in self._remaining() if n.may_sponsor()]
        lost = lost or self.rng.choice(staying)
        others = [node for node in staying if node is not lost]
        if len(others) < 2 or self.expired:
            return
        expirer = self.rng.choice(others)
        self.dead.add(lost.origin)
        self.expired.add(lost.origin)
        if self.rng.random() < 0.5:
            self.down[lost.origin] = 1 << 62
            self.lost_for_good.add(lost.origin)
        self.at(self.rng.uniform(0, 1500), partial(self._expire, expirer, lost.origin))

    def _expire(self, expirer: SimNode, lost: int) -> None:
        if self._speaks(expirer.origin) and lost not in expirer.expiring:
            expirer.announce(self.wall(expirer), "e", lost)

    # --- the end ----------------------------------------------------------------------------
    def _settle(self) -> None:
        """Everything works again: pull in rounds, until a round brings nothing new."""
        self.down.clear()
        for lost in self.expired:
            self._expire(self._remaining()[0], lost)
        most = 6 * len(self.nodes) + 20
        for number in range(most):
            before = self.onlooker.published_count
            moved = False
            self._speak_all()
            self._return_all()
            links = [
                (puller, source)
                for puller, source in self.links
                if not self.dead & {puller, source} and puller not in self.gone
            ]
            self.rng.shuffle(links)
            for puller, source in links:
                if puller not in self.dead:
                    moved |= self._catch_up(self.nodes[puller], self.nodes[source])
            self.now += MS
            if len(self.nodes) < 20 or number % 20 == 0:
                self._prune_all()
            if not moved and self.onlooker.published_count == before:
                self._prune_all()
                return
        raise Violation(f"still talking after {most} rounds without a write")

    def _speak_all(self) -> None:
        for node in self._remaining():
            node.complete_expiries()
            node.publish(self.wall(node))
            node.heartbeat(self.wall(node))

    def _prune_all(self) -> None:
        for node in self._remaining():
            node.prune()

    def _catch_up(self, node: SimNode, source: SimNode) -> bool:
        moved = False
        while source.origin in node.members:
            before = dict(node.vector)
            self._take(node, source.serve(node.origin, before, max(self.scenario.frame, 10)))
            if node.vector == before:
                break
            moved = True
        return moved

    def _check_end(self) -> None:
        nodes = self._remaining()
        for node in nodes:
            for key in KEYS:
                self.onlooker.check_row(node, key)
        if not self.scenario.connected:
            for puller, source in self.links:
                above = self.nodes[source].vector
                if not all(self.nodes[puller].vector.get(o, 0) >= p for o, p in above.items()):
                    raise Violation(f"node {puller} lacks something of {source}")
            return
        for node in nodes[1:]:
            if node.vector != nodes[0].vector:
                first = nodes[0]
                raise Violation(
                    f"lost: {node.origin} has {node.vector}, {first.origin} {first.vector}"
                )
            one_way = isinstance(node, Giver) or isinstance(nodes[0], Giver)
            if node.rows != nodes[0].rows and not one_way:
                raise Violation(f"node {node.origin} differs: {node.rows}, {nodes[0].rows}")
            if node.members != nodes[0].members:
                raise Violation(f"node {node.origin} counts {node.members}, {nodes[0].members}")
        has, writers = self.onlooker.has[nodes[0].origin], self.onlooker.writer.items()
        nowhere = {uid for uid, by in writers if by not in self.dead and not has >> uid & 1}
        if nowhere - self.onlooker.forgotten:
            raise Violation(f"lost: nobody has the writes {sorted(nowhere)}")
        for node in nodes:
            left = [t for log in node.log.values() for t in log.values() if t.head.kind != "b"]
            if left or any(node.kept.values()):
                raise Violation(f"node {node.origin} never forgets {len(left)} transactions")
