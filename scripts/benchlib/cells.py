"""What the benchmarks of delta and verify are made of and what they give. Values, no work.

A cell is one engine on one table in one state of difference, repeated. Every table meets every
state for keys of type int; other keys, where nobody asks for more, meet those that tell most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchlib.differing import Case, KeyKind, Shape, Spread, State
from benchlib.meter import Cost

SHAPES: tuple[Shape, ...] = ("narrow", "wide")
KEY_KINDS: tuple[KeyKind, ...] = ("int", "uuid", "composite")
SAME = State(0)
ALL = State(100)
SPREADS: tuple[Spread, ...] = ("random", "clustered")
SOME = tuple(State(percent, spread) for percent in (0.1, 1.0, 10.0) for spread in SPREADS)
STATES = (SAME, *SOME, ALL)
OTHER_KEYS = ("0", "1-random", "1-clustered")
ROWS: dict[Shape, int] = {"narrow": 1_000_000, "wide": 400_000}
QUICK = 40  # times fewer rows
QUICK_CASES = (("narrow", "int"), ("wide", "uuid"), ("wide", "composite"))
QUICK_STATES = ("0", "1-clustered", "100")


@dataclass(frozen=True)
class Cell:
    """One engine's turn: its cost, or why there is none. `state` is None where it plays no part.

    `told`: what the engine said, in numbers and short words.
    """

    case: Case
    state: State | None
    engine: str
    repetition: int
    cost: Cost | None = None
    told: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Source:
    """A table as it was made: what is read of it, and the plain dump of its database."""

    case: Case
    version: str
    table_bytes: int
    dump_bytes: int = 0
    dump_zstd_bytes: int = 0


@dataclass
class Ledger:
    """Everything that was measured, in the order of measuring."""

    sources: list[Source] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.error]


@dataclass(frozen=True)
class Plan:
    """Which tables in which states, which engines, how often. `patience_s`: as in a Match."""

    cases: tuple[Case, ...]
    states: tuple[State, ...]
    every_state: bool
    engines: tuple[str, ...]
    repeat: int
    patience_s: float

    def of(self, case: Case) -> Iterator[State]:
        """The states that this table meets."""
        for state in self.states:
            if self.every_state or case.key == "int" or state.name in OTHER_KEYS:
                yield state


def names(states: Iterable[State], engines: Iterable[str]) -> list[str]:
    """What `--only` understands."""
    return [*SHAPES, *KEY_KINDS, *(state.name for state in states), *engines]


def choose(
    only: Iterable[str],
    states: tuple[State, ...],
    engines: tuple[str, ...],
    rows: dict[Shape, int],
    repeat: int,
    patience_s: float,
    *,
    quick: bool = False,
) -> Plan:
    """What is asked for; of a sort that is not named, all, or when `quick` a few."""
    wanted = set(only)
    shapes = [s for s in SHAPES if s in wanted] or SHAPES
    kinds = [k for k in KEY_KINDS if k in wanted] or KEY_KINDS
    cases = [Case(shape, kind, rows[shape]) for kind in kinds for shape in shapes]
    if quick and not wanted.intersection((*SHAPES, *KEY_KINDS)):
        cases = [case for case in cases if (case.shape, case.key) in QUICK_CASES]
    chosen = tuple(s for s in states if s.name in wanted)
    if quick and not chosen:
        chosen = tuple(s for s in states if s.name in QUICK_STATES)
    return Plan(
        tuple(cases),
        chosen or states,
        bool(chosen),
        tuple(e for e in engines if e in wanted) or engines,
        repeat,
        patience_s,
    )
