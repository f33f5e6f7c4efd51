"""The same pull through the same link, whole, and broken three times in the middle.

The link lets through half of what a pull without a limit took in that time, so that the
transfer is what lasts, and there is something left to send when the dump is complete. It owns
the breaks and their moments, which are counted in bytes that arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchlib import data
from benchlib.agents import Node, Pair, Watch, facts
from benchlib.link import Link, Shape
from benchlib.meter import Meter
from benchlib.programs import RunFailed, end
from benchlib.records import BREAKS
from benchlib.table import FAILURES, Record, Table

SLOWER = 2.0  # how much longer the transfer takes than a pull without a limit
# Parts of what a whole pull sends, after which the target dies, the network, the source.
TARGET_DIES, NETWORK_DIES, SOURCE_DIES = 0.2, 0.4, 0.6
NETWORK_AWAY_S = 1.0
COUNT = 3
_LOOK_S, _START_S = 0.01, 60.0


class Breaks:
    """The turns of one match; the first pull of all is there to learn what there is to send."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._total_bytes = 0
        self._slow = Shape()
        self._patience_s = _START_S

    def turn(self, name: str) -> Callable[[int], None]:
        def run(repetition: int) -> None:
            if self._total_bytes or self._learn(name, repetition):
                with self._table.fresh([name], repetition) as pair:
                    if pair is not None:
                        self._run(pair, name, repetition)

        return run

    def _learn(self, name: str, repetition: int) -> bool:
        with self._table.fresh([name], repetition) as pair:
            if pair is None:
                return False
            link, begun = _link(pair), time.monotonic()
            before = link.down.bytes_passed
            try:
                pair.pull()
            except FAILURES as error:
                self._table.fail(name, repetition, error)
                return False
            self._total_bytes = link.down.bytes_passed - before
            expected_s = (time.monotonic() - begun) * SLOWER
            self._slow = Shape(self._total_bytes / expected_s)
            self._patience_s = _START_S + 5 * expected_s
        return True

    def _run(self, pair: Pair, name: str, repetition: int) -> None:
        link = _link(pair)
        data.settle(self._table.target, self._table.OURS)
        with self._table.recorded(name, repetition) as record:
            link.shape = self._slow
            try:
                if name == BREAKS[0]:
                    self._whole(pair, record)
                else:
                    self._broken(pair, record)
            finally:
                link.heal()
                link.shape = Shape()

    def _whole(self, pair: Pair, record: Record) -> None:
        link = _link(pair)
        before = link.bytes_passed
        with Meter(self._table.source, self._table.target, pair.pids) as meter:
            account = pair.watch(pair.begin()).result()
        record(meter.cost, facts(account) | self._told(link, before))

    def _broken(self, pair: Pair, record: Record) -> None:
        link = _link(pair)
        before, down = link.bytes_passed, link.down.bytes_passed

        def part() -> float:
            return (link.down.bytes_passed - down) / self._total_bytes

        with Meter(self._table.source, self._table.target, pair.pids) as meter:
            job = pair.begin()
            self._until("the target dies", lambda: part() >= TARGET_DIES)
            _kill(pair.target, 1, meter)
            watch = pair.watch(job)
            try:
                self._until("the network dies", lambda: part() >= NETWORK_DIES, watch)
                _cut(link, meter)
                self._until(
                    "the source dies, its dump complete",
                    lambda: part() >= SOURCE_DIES and watch.step_is_done("backup"),
                    watch,
                )
                _kill(pair.source, 0, meter)
                account = watch.result()
            finally:
                end(watch.process)
        record(meter.cost, facts(account) | self._told(link, before) | {"breaks": COUNT})

    def _told(self, link: Link, before: int) -> dict[str, float | None]:
        return {"link_bytes": link.bytes_passed - before, "link_bytes_s": self._slow.bytes_s}

    def _until(self, moment: str, come: Callable[[], bool], watch: Watch | None = None) -> None:
        deadline = time.monotonic() + self._patience_s
        while not come():
            if watch is not None and watch.ended:
                raise RunFailed(f"the pull ended before this came: {moment}", "")
            if time.monotonic() > deadline:
                raise RunFailed(f"this did not come in time: {moment}", "")
            time.sleep(_LOOK_S)


def _kill(node: Node, which: int, meter: Meter) -> None:
    """kill -9, and at once a new agent; away until that answers."""
    meter.lost(which)
    begun = time.perf_counter()
    node.kill()
    node.start()
    meter.away_s += time.perf_counter() - begun
    meter.found(which, node.pid)


def _cut(link: Link, meter: Meter) -> None:
    begun = time.perf_counter()
    link.cut()
    time.sleep(NETWORK_AWAY_S)
    link.heal()
    meter.away_s += time.perf_counter() - begun


def _link(pair: Pair) -> Link:
    assert pair.link is not None, "this part needs a link"
    return pair.link
