"""What a benchmark is made of and what it gives: matches, runs, sources. Values, no work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchlib import rivals
from benchlib.data import Dataset
from benchlib.link import Shape
from benchlib.meter import Cost

# One after the other, each needs the one before; the last two change places every time.
CHAIN = (
    "peersync-empty",
    "peersync-identical",
    "peersync-changed",
    "peersync-recent",
    "peersync-undo",
    "peersync-no-undo",
)
CHANGED, JOURNAL = CHAIN[2:], CHAIN[4:]
PUSH = "peersync-push"
BREAKS = ("peersync-unbroken", "peersync-broken")
PEERSYNC = (*CHAIN, PUSH, *BREAKS)
RIVALS = tuple(rivals.RUNNERS)
RUN_NAMES = PEERSYNC + RIVALS


@dataclass(frozen=True)
class Match:
    """One data set, one major, the names of the runs and how often.

    `patience_s`: how long at most a run waits for the machine to be calm. `shape`: what lies
    between the two servers, None is loopback itself. `chunk_mib`: None is peersync's own.
    """

    part: str
    major: int
    dataset: Dataset
    runs: tuple[str, ...]
    repeat: int
    patience_s: float = 0.0
    shape: Shape | None = None
    chunk_mib: int | None = None


@dataclass(frozen=True)
class Run:
    """One run: its cost, or why there is none; `told` is peersync's own account.

    `told` has `link_bytes` too (both ways, all connections) where a link was between.
    """

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
