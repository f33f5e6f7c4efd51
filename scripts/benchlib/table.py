"""The two servers with a match's databases on them, and the runs that are made there.

It owns preparing the two databases before a run and comparing them after it, both outside
the measured window; a run whose target does not equal its source has failed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pgcluster import Cluster, ClusterError

from benchlib import data, rivals
from benchlib.agents import Pair, facts
from benchlib.link import Link
from benchlib.meter import Cost, Meter, wait_for_calm
from benchlib.programs import RunFailed
from benchlib.records import CHAIN, CHANGED, JOURNAL, PEERSYNC, PUSH, Match, Results, Run, Source

FAILURES = (RunFailed, ClusterError, OSError, ValueError)
Record = Callable[[Cost, dict[str, Any]], None]


class Table:
    """peersync gets a copy of the source of its own: its agent adds a schema there, and the
    rivals must not have to carry that along.
    """

    OURS, THEIRS = "bench", "rival"

    def __init__(
        self, match: Match, source: Cluster, target: Cluster, work: Path, results: Results
    ) -> None:
        self.match, self._results = match, results
        self.source, self.target = source, target
        self._work = work
        self._pair: Pair | None = None
        self._expected: dict[str, tuple[str, ...]] = {}

    def prepare(self) -> None:
        match, source = self.match, self.source
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
            self._pair.close()
        home = self._work / "agents"
        if not (self._work / "keep").exists():
            shutil.rmtree(home, ignore_errors=True)

    # --- the rivals ---
    def rival(self, name: str) -> Callable[[int], None]:
        def turn(repetition: int) -> None:
            self.target.dropdb(self.THEIRS)
            self.target.createdb(self.THEIRS)
            with self._link_for_psql() as link, self.recorded(name, repetition) as record:
                port = link.port if link else None
                names = self.THEIRS, self.THEIRS
                route = rivals.Route(self.source, self.target, *names, self._work, port)
                with Meter(self.source, self.target) as meter:
                    rivals.RUNNERS[name](route)
                record(meter.cost, {"link_bytes": link.bytes_passed} if link else {})
            self.target.dropdb(self.THEIRS)

        return turn

    @contextlib.contextmanager
    def _link_for_psql(self) -> Iterator[Link | None]:
        if self.match.shape is None:
            yield None
        else:
            with Link(self.target.port, self.match.shape) as link:
                yield link

    # --- peersync ---
    def chain(self, repetition: int) -> None:
        """Empty target, the same again, then with changes: each needs the one before."""
        names = [name for name in CHAIN if name in self.match.runs]
        if repetition % 2:
            names = [n for n in names if n not in JOURNAL] + [
                n for n in names[::-1] if n in JOURNAL
            ]
        steps = ["peersync-empty", *(n for n in names if n != "peersync-empty")]
        with self.fresh(names, repetition) as pair:
            if pair is None:
                return
            while steps and self._pull(pair, steps[0], repetition):
                steps.pop(0)
            for name in steps[1:]:
                self.fail(name, repetition, RunFailed("not run: the pull before it failed", ""))

    def push(self, repetition: int) -> None:
        """The first pull's work, asked for at the source."""
        with self.fresh([PUSH], repetition) as pair:
            if pair is not None:
                self._sync(pair, PUSH, repetition, pair.push)

    @contextlib.contextmanager
    def fresh(self, names: list[str], repetition: int) -> Iterator[Pair | None]:
        """Running agents before an empty target; None, and these runs have failed."""
        try:
            pair = self._agents()
            pair.empty_target()
        except (RunFailed, OSError, ClusterError) as error:
            for name in names:
                self.fail(name, repetition, error)
            yield None
            return
        try:
            yield pair
        finally:
            pair.stop()

    def _pull(self, pair: Pair, name: str, repetition: int) -> bool:
        if name in CHANGED:
            recent = name == "peersync-recent"
            data.change(self.source, self.match.dataset, self.OURS, recent=recent, part=repetition)
            self._expect(self.OURS)
        data.settle(self.target, self.OURS)
        if name in CHANGED and self._equal(self.OURS):
            early = RunFailed("the change had reached the target before the pull", "")
            self.fail(name, repetition, early)
            return False
        options = ("--no-undo",) if name == "peersync-no-undo" else ()
        return self._sync(pair, name, repetition, lambda: pair.pull(*options))

    def _sync(
        self, pair: Pair, name: str, repetition: int, sync: Callable[[], dict[str, Any]]
    ) -> bool:
        done = len(self._results.failed)
        with self.recorded(name, repetition) as record:
            before = pair.link.bytes_passed if pair.link else 0
            with Meter(self.source, self.target, pair.pids) as meter:
                account = sync()
            told = facts(account)
            if pair.link:
                told["link_bytes"] = pair.link.bytes_passed - before
            if name in JOURNAL:
                told["undoable_rows"] = pair.undoable_rows(account["session"])
            record(meter.cost, told)
        return len(self._results.failed) == done

    def _agents(self) -> Pair:
        if self._pair is None:
            match = self.match
            self.target.createdb(self.OURS)
            home = self._work / "agents" / f"{match.major}-{match.dataset.name}"
            shutil.rmtree(home, ignore_errors=True)
            with contextlib.ExitStack() as undo:
                undo.callback(self.target.dropdb, self.OURS)
                ends = self.source, self.target, self.OURS
                pair = Pair(*ends, home, match.shape, match.chunk_mib)
                pair.__enter__()
                undo.pop_all()
            self._pair = pair
        self._pair.start()
        return self._pair

    # --- recording ---
    @contextlib.contextmanager
    def recorded(self, name: str, repetition: int) -> Iterator[Record]:
        """Checkpoint, run, compare; what goes wrong is a result too."""
        for server in (self.source, self.target):
            server.psql("CHECKPOINT")
        wait_for_calm(self.match.patience_s)
        kept: list[tuple[Cost, dict[str, Any]]] = []
        try:
            yield lambda cost, told: kept.append((cost, told))
            if not self._equal(self.OURS if name in PEERSYNC else self.THEIRS):
                raise RunFailed("the target does not equal the source", "")
        except FAILURES as error:
            self.fail(name, repetition, error)
            return
        if name in self.match.runs:
            ((cost, told),) = kept
            self._results.runs.append(Run(self.match, name, repetition, cost, told))
            self._say(name, repetition, f"{cost.wall_s:.2f} s, CPU {cost.cpu_s:.2f} s", cost)

    def _expect(self, database: str) -> None:
        self._expected[database] = data.digest(self.source, self.match.dataset, database)

    def _equal(self, database: str) -> bool:
        found = data.digest(self.target, self.match.dataset, database)
        return found == self._expected[database]

    def fail(self, name: str, repetition: int, error: Exception) -> None:
        """Record that a run has no cost, and why."""
        public = error.public if isinstance(error, RunFailed) else type(error).__name__
        self._results.runs.append(Run(self.match, name, repetition, error=public))
        self._say(name, repetition, f"FAILED: {error}", None)

    def _say(self, name: str, repetition: int, words: str, cost: Cost | None) -> None:
        match = self.match
        mark = " (contaminated)" if cost is not None and cost.contaminated else ""
        where = f"{match.major}→{match.major} {match.dataset.name}"
        print(
            f"{where} {name} {repetition + 1}/{match.repeat}: {words}{mark}",
            file=sys.stderr,
            flush=True,
        )
