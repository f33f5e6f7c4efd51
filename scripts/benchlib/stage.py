"""Two servers with the same table on them, and two agents: where delta and verify are measured.

It owns the servers, the pair, and the state of the target before a turn; what a turn does and
what it proves is the business of `delta` and `verify`. The source never changes. Of the target's
database a copy lies ready, so that every turn begins from the same files.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgcluster import Cluster, ClusterError

from benchlib import differing, rivals
from benchlib.agents import DATABASE, Pair
from benchlib.cells import Cell, Ledger, Source
from benchlib.differing import Case, State
from benchlib.link import Shape
from benchlib.matches import SETTINGS
from benchlib.meter import Cost, wait_for_calm
from benchlib.programs import RunFailed

PRISTINE = "pristine"  # the rivals' source, and what the target is copied from
FAILURES = (RunFailed, ClusterError, OSError, ValueError, KeyError)
Record = Callable[[Cost, dict[str, Any]], None]


@dataclass(frozen=True)
class Terms:
    """Of a whole run. `repeat` is for the reader of progress only.

    linked: the agents meet through a proxy that counts their bytes.
    """

    major: int
    repeat: int
    patience_s: float
    work: Path
    linked: bool = False


class Stage:
    """`with Stage(terms, case, ledger) as stage:` everything for one table."""

    def __init__(
        self, terms: Terms, case: Case, ledger: Ledger, *, agents: bool, dumped: bool
    ) -> None:
        """agents: start two. dumped: tell how large a dump of the table is."""
        self.terms, self.case = terms, case
        self._ledger, self._agents, self._dumped = ledger, agents, dumped
        self._stack = contextlib.ExitStack()
        self._pair: Pair | None = None
        self._touched = False

    @property
    def pair(self) -> Pair:
        assert self._pair is not None, "no agents were asked for"
        return self._pair

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            home = self.terms.work / self.case.name.replace(" ", "-")
            home.mkdir(mode=0o755)
            undo.callback(shutil.rmtree, home, ignore_errors=True)
            self.source, self.target = (
                undo.enter_context(self._server(home / end)) for end in "ab"
            )
            for server in (self.source, self.target):
                differing.make(server, PRISTINE, self.case)
                server.createdb(DATABASE, template=PRISTINE)
            self.expected = differing.content(self.source, PRISTINE)
            self._tell_source()
            if self._agents:
                shape = Shape() if self.terms.linked else None
                pair = Pair(self.source, self.target, DATABASE, home / "agents", shape)
                self._pair = undo.enter_context(pair)
            self._stack = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _server(self, root: Path) -> Cluster:
        return Cluster(self.terms.major, durable=True, settings=SETTINGS, root=root)

    def _tell_source(self) -> None:
        read = differing.table_bytes(self.source, PRISTINE)
        sizes = rivals.compressed_dump(self.source, PRISTINE) if self._dumped else (0, 0)
        self.dump_bytes = sizes[0]
        found = Source(self.case, self.source.programs.version, read, *sizes)
        self._ledger.sources.append(found)

    def link_bytes(self) -> dict[str, int]:
        """What has passed between the agents so far, both ways; nothing where nobody counts."""
        link = self._pair.link if self._pair is not None else None
        return {"link_bytes": link.bytes_passed} if link is not None else {}

    def renew(self) -> None:
        """Make the target what the source is, as it was made."""
        if self._touched and self._pair is not None:
            self._pair.empty_target(template=PRISTINE)
        elif self._touched:
            self.target.dropdb(DATABASE)
            self.target.createdb(DATABASE, template=PRISTINE)
        self._touched = True

    @contextlib.contextmanager
    def recorded(
        self, engine: str, state: State | None, repetition: int, *, proof: Callable[[], None]
    ) -> Iterator[Record]:
        """Checkpoint, run, `proof`; what goes wrong is a result too."""
        for server in (self.source, self.target):
            server.psql("CHECKPOINT")
        wait_for_calm(self.terms.patience_s)
        kept: list[tuple[Cost, dict[str, Any]]] = []
        try:
            yield lambda cost, told: kept.append((cost, told))
            proof()
        except FAILURES as error:
            self.fail(engine, state, repetition, error)
            return
        ((cost, told),) = kept
        self._ledger.cells.append(Cell(self.case, state, engine, repetition, cost, told))
        self._say(engine, state, repetition, f"{cost.wall_s:.2f} s, CPU {cost.cpu_s:.2f} s", cost)

    def fail(self, engine: str, state: State | None, repetition: int, error: Exception) -> None:
        """Record that a turn has no cost, and why."""
        self._ledger.cells.append(Cell(self.case, state, engine, repetition, error=public(error)))
        self._say(engine, state, repetition, f"FAILED: {error}", None)

    def _say(
        self, engine: str, state: State | None, repetition: int, words: str, cost: Cost | None
    ) -> None:
        mark = " (contaminated)" if cost is not None and cost.contaminated else ""
        where = f"{self.case.name} {state.name if state else 'any'} {engine}"
        count = f"{repetition + 1}/{self.terms.repeat}"
        print(
            f"{self.terms.major} {where} {count}: {words}{mark}",
            file=sys.stderr,
            flush=True,
        )


def public(error: Exception) -> str:
    """What may stand in a report, without the program's own words."""
    return error.public if isinstance(error, RunFailed) else type(error).__name__


def passed(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The difference of two counts of `link_bytes`."""
    return {key: value - before[key] for key, value in after.items()}
