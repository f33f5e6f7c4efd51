"""Who runs against whom, on what, in which order.

A match is one data set between two servers of one major, with all its contestants in the
same minutes: only ratios inside a match mean something. Each repetition starts with another
contestant.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pgcluster import Cluster

from benchlib import data, rivals
from benchlib.breaks import Breaks
from benchlib.link import WAN, Shape
from benchlib.records import BREAKS, CHAIN, JOURNAL, PUSH, RIVALS, Match, Results
from benchlib.table import Table

PARTS = ("whole", "rows", "memory", "resume", "growth", "tables", "wan", "undo")
FEW = ("peersync-empty", "peersync-identical", "dump-psql")
# fsync stays on; nothing that would start by itself in the middle of a run
SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "wal_level": "replica",
}


def plan(
    parts: tuple[str, ...],
    wanted: tuple[str, ...],
    size: str,
    repeat: int,
    patience_s: float,
    majors: list[int],
) -> list[Match]:
    """The newest major for everything; a match of its own where pgcopydb can take part."""
    newest = max(majors, default=0)
    chosen: list[Match] = []

    def add(
        part: str,
        dataset: data.Dataset,
        names: tuple[str, ...],
        major: int = newest,
        shape: Shape | None = None,
        chunk_mib: int | None = None,
    ) -> None:
        runs = tuple(name for name in names if name in wanted)
        if part in parts and major and runs:
            found = Match(part, major, dataset, runs, repeat, patience_s, shape, chunk_mib)
            chosen.append(found)

    main = data.whole(size)
    in_whole = tuple(name for name in CHAIN if name not in JOURNAL)
    add("whole", main, (*in_whole, PUSH, "dump-psql", "dump-dir"))
    if rivals.PGCOPYDB_MAJOR in majors and "pgcopydb" in wanted:
        add("whole", main, (*FEW, "pgcopydb"), rivals.PGCOPYDB_MAJOR)
    for dataset in data.row_counts():
        add("rows", dataset, FEW)
    for dataset in data.memory_pair(size):
        add("memory", dataset, FEW[:2])
    # a break needs chunks before and after it: small ones, where there is little to send
    resume = replace(main, name="resume")
    add("resume", resume, BREAKS, shape=Shape(), chunk_mib=None if size == "full" else 1)
    for dataset in data.growth(size):
        add("growth", dataset, FEW)
    add("tables", data.many_tables(size), FEW)
    # the small set in every size: a slow link makes enough of it
    add("wan", replace(data.whole("small"), name="wan"), (FEW[0], FEW[2]), shape=WAN)
    add("undo", replace(main, name="undo"), JOURNAL)
    return chosen


def play(match: Match, work: Path, results: Results) -> None:
    """Run a whole match on two new servers."""
    with _servers(match, work) as (source, target):
        table = Table(match, source, target, work, results)
        try:
            table.prepare()
            turns = _turns(table)
            for repetition in range(match.repeat):
                first = repetition % len(turns)
                for turn in turns[first:] + turns[:first]:
                    turn(repetition)
        finally:
            table.leave()


def _turns(table: Table) -> list[Callable[[int], None]]:
    runs = table.match.runs
    turns: list[Callable[[int], None]] = []
    if any(name in CHAIN for name in runs):
        turns.append(table.chain)
    if PUSH in runs:
        turns.append(table.push)
    if any(name in BREAKS for name in runs):
        breaks = Breaks(table)
        turns += [breaks.turn(name) for name in BREAKS if name in runs]
    return turns + [table.rival(name) for name in RIVALS if name in runs]


@contextlib.contextmanager
def _servers(match: Match, work: Path) -> Iterator[tuple[Cluster, Cluster]]:
    major = match.major
    roots = [work / f"{major}-{match.dataset.name}-{end}" for end in "ab"]
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
