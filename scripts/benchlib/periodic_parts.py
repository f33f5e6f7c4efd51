"""What is done to the engines, part by part, in slices that take turns.

A part plays all engines of one major in the same minutes; each repetition starts with another
one. An engine that fails is out for the rest of its part, and its failure is a result.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import asyncpg
import psycopg
from pgcluster import ClusterError

from benchlib import periodic_load
from benchlib.agents import DATABASE
from benchlib.meter import Meter, wait_for_calm
from benchlib.periodic_engines import Carrier, Engine
from benchlib.periodic_memory import Watch
from benchlib.periodic_probe import quantile
from benchlib.periodic_records import Page, Size
from benchlib.programs import RunFailed
from peersync.core.errors import PeersyncError

MB = 1_000_000
TROUBLE = (
    RunFailed,
    ClusterError,
    PeersyncError,
    psycopg.Error,
    asyncpg.PostgresError,
    OSError,
)
Slice = Callable[["Turn"], None]


@dataclass(frozen=True)
class Turn:
    """One engine in one repetition: what is measured goes to the page."""

    engine: Engine
    repetition: int
    page: Page
    size: Size

    def note(self, name: str, value: float) -> None:
        self.page.note(self.engine.name, name, self.repetition, value)
        print(f"    {self.engine.name} {self.repetition + 1}: {name} {value:.3f}", file=sys.stderr)

    @contextlib.contextmanager
    def metered(self, name: str) -> Iterator[None]:
        """Note CPU seconds of servers and programs, and what strangers took."""
        engine = self.engine
        with Meter(engine.source, engine.target, engine.programs) as meter:
            yield
        self.note(f"{name} CPU s", meter.cost.cpu_s - meter.cost.client_cpu_s)
        self.note("others %", 100 * meter.cost.stranger_share)


class Round:
    """The engines that are still in, and how they take turns."""

    def __init__(
        self, engines: Sequence[Engine], page: Page, size: Size, patience_s: float
    ) -> None:
        self.engines = list(engines)
        self.page, self.size, self._patience_s = page, size, patience_s

    def play(self, what: Slice, repeat: int | None = None) -> None:
        """A slice for each engine, in turns."""
        for repetition in range(repeat or self.size.repeat):
            first = repetition % max(1, len(self.engines))
            for engine in self.engines[first:] + self.engines[:first]:
                with self.kept(engine):
                    wait_for_calm(self._patience_s)
                    what(Turn(engine, repetition, self.page, self.size))

    @contextlib.contextmanager
    def kept(self, engine: Engine) -> Iterator[None]:
        """An engine in trouble is out."""
        try:
            yield
        except TROUBLE as error:
            print(f"    {engine.name} is out: {error}", file=sys.stderr)
            public = error.public if isinstance(error, RunFailed) else type(error).__name__
            self.page.fail(engine.name, public)
            self.engines.remove(engine)
            engine.close()

    def compare(self) -> None:
        """The last word of every part: an engine whose target differs has failed."""
        for engine in list(self.engines):
            with self.kept(engine):
                if isinstance(engine, Carrier) and (wrong := _differing(engine)):
                    raise RunFailed(f"source and target differ: {', '.join(wrong)}", "")


def capture(turns: Round) -> None:
    """What catching changes costs those who make them; nobody fetches them meanwhile."""
    for kind in ("simple-update", "tpcb-like"):
        turns.play(_armed(partial(_flat_out, kind=kind)))
    turns.play(_bulk)


def lag(turns: Round) -> None:
    """From commit to sight, while pgbench works at a rate."""
    for rate in turns.size.rates:
        turns.play(partial(_at_rate, rate=rate))
    turns.compare()


def drain(turns: Round) -> None:
    """How long what was held takes until it is all there."""
    turns.play(_drain)
    turns.compare()


def memory(turns: Round) -> None:
    """Peaks while much arrives: in many transactions, then in one."""
    turns.play(_many_changes, repeat=1)
    turns.play(_one_transaction, repeat=1)
    turns.compare()


def wire(turns: Round) -> None:
    """Bytes between the two servers, both ways: of a backlog, and of a trickle."""
    turns.play(_wire, repeat=1)
    turns.compare()


# --- slices ---------------------------------------------------------------------------------
def _armed(what: Slice) -> Slice:
    def armed(turn: Turn) -> None:
        periodic_load.settle(turn.engine.source)
        turn.engine.arm()
        try:
            what(turn)
        finally:
            turn.engine.disarm()

    return armed


def _flat_out(turn: Turn, kind: str) -> None:
    engine = turn.engine
    tps = periodic_load.flat_out(engine.source, kind, turn.size.slice_s, engine.log)
    turn.note(f"{kind} tps", tps)


def _bulk(turn: Turn) -> None:
    for name, sql in periodic_load.statements(turn.size.bulk_rows).items():
        _armed(partial(_statement, name=name, sql=sql))(turn)


def _statement(turn: Turn, name: str, sql: str) -> None:
    turn.note(f"{name} s", periodic_load.timed(turn.engine.source, sql))


def _at_rate(turn: Turn, rate: int) -> None:
    engine, told = turn.engine, list[float]()
    engine.settle()
    with engine.probe() as probe:
        probe.arrive()
        with turn.metered(f"{rate}/s:"):
            lags = probe.lags(
                lambda: told.append(
                    periodic_load.at_rate(engine.source, rate, turn.size.lag_s, engine.log)
                )
            )
        probe.arrive()
    turn.note(f"{rate}/s: p50 ms", 1e3 * quantile(lags, 0.50))
    turn.note(f"{rate}/s: p99 ms", 1e3 * quantile(lags, 0.99))
    turn.note(f"{rate}/s: tps", told[0])


def _drain(turn: Turn) -> None:
    engine, changes = turn.engine, turn.size.backlog

    def work() -> None:
        periodic_load.backlog(engine.source, changes, engine.log)

    with _held(engine, work) as go, turn.metered("drain"):
        turn.note("drain s", go())


def _many_changes(turn: Turn) -> None:
    engine, size = turn.engine, turn.size

    def work() -> None:
        periodic_load.bulk_backlog(engine.source, size.many, size.scale, engine.log)

    with _held(engine, work) as go:
        _watched(turn, "changes", go)


def _one_transaction(turn: Turn) -> None:
    engine = turn.engine
    engine.settle()
    with engine.probe() as probe:
        probe.arrive()

        def work() -> float:
            start = time.perf_counter()
            periodic_load.every_row(engine.source)
            probe.arrive()
            return time.perf_counter() - start

        _watched(turn, "one transaction", work)


def _wire(turn: Turn) -> None:
    engine, size = turn.engine, turn.size
    assert engine.link is not None

    def work() -> None:
        periodic_load.backlog(engine.source, size.wire, engine.log)

    with _held(engine, work) as go:
        before = engine.link.bytes_passed
        go()
        turn.note("backlog bytes/change", (engine.link.bytes_passed - before) / size.wire)
    with engine.probe() as probe:
        before, rows = engine.link.bytes_passed, _history(engine)
        periodic_load.at_rate(engine.source, size.rates[0], size.lag_s, engine.log)
        probe.arrive()
        changes = periodic_load.CHANGES * (_history(engine) - rows)
        turn.note("trickle bytes/change", (engine.link.bytes_passed - before) / changes)


# --- what slices share ----------------------------------------------------------------------
@contextlib.contextmanager
def _held(engine: Engine, work: Callable[[], None]) -> Iterator[Callable[[], float]]:
    """Work whose changes wait; gives what lets them flow and tells how many seconds it took."""
    assert isinstance(engine, Carrier)
    engine.settle()
    with engine.probe() as probe:
        probe.arrive()
        engine.hold()
        work()
        last = probe.mark()

        def go() -> float:
            start = engine.release()
            probe.arrive(last)
            return time.perf_counter() - start

        yield go


def _watched(turn: Turn, name: str, work: Callable[[], float]) -> None:
    with Watch(turn.engine.source, turn.engine.target, turn.engine.programs) as watch:
        turn.note(f"{name}: s", work())
    turn.note(f"{name}: programs MB", watch.programs_bytes / MB)
    turn.note(f"{name}: sessions MB", watch.sessions_bytes / MB)


def _differing(engine: Engine) -> list[str]:
    with engine.probe() as probe:
        probe.arrive()
    return periodic_load.differing(engine.databases)


def _history(engine: Engine) -> int:
    return int(engine.source.psql("SELECT count(*) FROM pgbench_history", DATABASE))
