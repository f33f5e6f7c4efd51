"""Who runs against whom, on what, in which order.

A match is one data set between two servers of one major, with all its contestants in the
same minutes: only ratios inside a match mean something. Each repetition starts with another
contestant. It owns preparing the two databases before a run and comparing them after it,
both outside the measured window; a run whose target does not equal its source has failed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgcluster import Cluster, ClusterError

from benchlib import data, rivals
from benchlib.agents import Pair, facts
from benchlib.meter import Cost, Meter, wait_for_calm
from benchlib.programs import RunFailed

# fsync stays on; nothing that would start by itself in the middle of a run
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "wal_level": "replica",
}
PEERSYNC = ("peersync-empty", "peersync-identical", "peersync-changed", "peersync-recent")
CHANGED = PEERSYNC[2:]
RIVALS = tuple(rivals.RUNNERS)
RUN_NAMES = PEERSYNC + RIVALS


@dataclass(frozen=True)
class Match:
    """One data set, one major, the names of the runs and how often.

    `patience_s`: how long at most a run waits for the machine to be calm.
    """

    part: str
    major: int
    dataset: data.Dataset
    runs: tuple[str, ...]
    repeat: int
    patience_s: float = 0.0


@dataclass(frozen=True)
class Run:
    """One run: its cost, or why there is none; `told` is peersync's own account."""

    match: Match
    name: str
    repetition: int
    cost: Cost | None = None
    told: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Source:
    """What a match moved: sizes of the database, of its plain dump, of that through zstd -1."""

    match: Match
    version: str
    database_bytes: int
    dump_bytes: int
    dump_zstd_bytes: int


@dataclass
class Results:
    """What all matches gave, in the order of running."""

    sources: list[Source] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.error]


def play(match: Match, work: Path, results: Results) -> None:
    """Run a whole match on two new servers."""
    with _servers(match.major, work) as (source, target):
        table = _Table(match, source, target, work, results)
        table.prepare()
        contestants = [name for name in RIVALS if name in match.runs]
        peersync = [name for name in PEERSYNC if name in match.runs]
        for repetition in range(match.repeat):
            turns: list[Callable[[int], None]] = [
                *([table.peersync] if peersync else []),
                *(table.rival(name) for name in contestants),
            ]
            first = repetition % len(turns)
            for turn in turns[first:] + turns[:first]:
                turn(repetition)
        table.leave()


@contextlib.contextmanager
def _servers(major: int, work: Path) -> Iterator[tuple[Cluster, Cluster]]:
    roots = work / f"{major}-a", work / f"{major}-b"
    try:
        with (
            Cluster(major, durable=True, settings=SETTINGS, root=roots[0]) as source,
            Cluster(major, durable=True, settings=SETTINGS, root=roots[1]) as target,
        ):
            yield source, target
    finally:
        for root in roots:
            if not (work / "keep").exists():
                shutil.rmtree(root, ignore_errors=True)


class _Table:
    """The two servers with the match's databases on them.

    peersync gets a copy of the source of its own: its agent adds a schema there, and the
    rivals must not have to carry that along.
    """

    OURS, THEIRS = "bench", "rival"

    def __init__(
        self, match: Match, source: Cluster, target: Cluster, work: Path, results: Results
    ) -> None:
        self._match, self._results = match, results
        self._source, self._target = source, target
        self._work = work
        self._pair: Pair | None = None
        self._expected: dict[str, tuple[str, ...]] = {}

    def prepare(self) -> None:
        match, source = self._match, self._source
        size = data.make(source, match.dataset, self.THEIRS, self._work)
        dump, packed = rivals.compressed_dump(source, self.THEIRS)
        found = Source(match, source.programs.version, size, dump, packed)
        self._results.sources.append(found)
        self._expect(self.THEIRS)
        if any(name in PEERSYNC for name in match.runs):
            source.createdb(self.OURS, template=self.THEIRS)
            data.settle(source, self.OURS)
            self._expect(self.OURS)

    def leave(self) -> None:
        if self._pair is not None:
            self._pair.stop()
        home = self._work / "agents"
        if not (self._work / "keep").exists():
            shutil.rmtree(home, ignore_errors=True)

    # --- the rivals ---
    def rival(self, name: str) -> Callable[[int], None]:
        def turn(repetition: int) -> None:
            self._target.dropdb(self.THEIRS)
            self._target.createdb(self.THEIRS)
            route = rivals.Route(self._source, self._target, self.THEIRS, self.THEIRS, self._work)
            with self._recorded(name, repetition, self.THEIRS) as record:
                with Meter(self._source, self._target) as meter:
                    rivals.RUNNERS[name](route)
                record(meter.cost, {})
            self._target.dropdb(self.THEIRS)

        return turn

    # --- peersync ---
    def peersync(self, repetition: int) -> None:
        """Empty target, the same again, then with changes: each needs the one before."""
        names = [name for name in PEERSYNC if name in self._match.runs]
        try:
            pair = self._agents()
            pair.empty_target()
        except (RunFailed, OSError, ClusterError) as error:
            for name in names:
                self._fail(name, repetition, error)
            return
        steps = ["peersync-empty", *(n for n in names if n != "peersync-empty")]
        try:
            while steps:
                if not self._pull(pair, steps.pop(0), repetition):
                    break
            for name in steps:
                self._fail(name, repetition, RunFailed("not run: the pull before it failed", ""))
        finally:
            pair.stop()

    def _pull(self, pair: Pair, name: str, repetition: int) -> bool:
        if name in CHANGED:
            recent = name == "peersync-recent"
            data.change(
                self._source, self._match.dataset, self.OURS, recent=recent, part=repetition
            )
            self._expect(self.OURS)
        data.settle(self._target, self.OURS)
        if name in CHANGED and self._equal(self.OURS):
            early = RunFailed("the change had reached the target before the pull", "")
            self._fail(name, repetition, early)
            return False
        done = len(self._results.failed)
        with self._recorded(name, repetition, self.OURS) as record:
            with Meter(self._source, self._target, pair.pids) as meter:
                account = pair.pull()
            record(meter.cost, facts(account))
        return len(self._results.failed) == done

    def _agents(self) -> Pair:
        if self._pair is None:
            self._target.createdb(self.OURS)
            home = self._work / "agents" / f"{self._match.major}-{self._match.dataset.name}"
            shutil.rmtree(home, ignore_errors=True)
            pair = Pair(self._source, self._target, self.OURS, home)
            with contextlib.ExitStack() as undo:
                undo.callback(self._target.dropdb, self.OURS)
                pair.__enter__()
                undo.pop_all()
            self._pair = pair
        self._pair.start()
        return self._pair

    # --- recording ---
    @contextlib.contextmanager
    def _recorded(
        self, name: str, repetition: int, database: str
    ) -> Iterator[Callable[[Cost, dict[str, Any]], None]]:
        """Checkpoint, run, compare; what goes wrong is a result too."""
        for server in (self._source, self._target):
            server.psql("CHECKPOINT")
        wait_for_calm(self._match.patience_s)
        kept: list[tuple[Cost, dict[str, Any]]] = []
        try:
            yield lambda cost, told: kept.append((cost, told))
            if not self._equal(database):
                raise RunFailed("the target does not equal the source", "")
        except (RunFailed, ClusterError, OSError, ValueError) as error:
            self._fail(name, repetition, error)
            return
        if name in self._match.runs:
            ((cost, told),) = kept
            self._results.runs.append(Run(self._match, name, repetition, cost, told))
            self._say(name, repetition, f"{cost.wall_s:.2f} s, CPU {cost.cpu_s:.2f} s", cost)

    def _expect(self, database: str) -> None:
        self._expected[database] = data.digest(self._source, self._match.dataset, database)

    def _equal(self, database: str) -> bool:
        found = data.digest(self._target, self._match.dataset, database)
        return found == self._expected[database]

    def _fail(self, name: str, repetition: int, error: Exception) -> None:
        public = error.public if isinstance(error, RunFailed) else type(error).__name__
        self._results.runs.append(Run(self._match, name, repetition, error=public))
        self._say(name, repetition, f"FAILED: {error}", None)

    def _say(self, name: str, repetition: int, words: str, cost: Cost | None) -> None:
        match = self._match
        mark = " (contaminated)" if cost is not None and cost.contaminated else ""
        where = f"{match.major}→{match.major} {match.dataset.name}"
        print(
            f"{where} {name} {repetition + 1}/{match.repeat}: {words}{mark}",
            file=sys.stderr,
            flush=True,
        )
