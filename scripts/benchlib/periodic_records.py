"""What a benchmark of periodic sync is made of and what it gives. Values, no work.

One figure is one number of one engine in one repetition; its name ends in its unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NONE, NATIVE, PGLOGICAL, BUCARDO, PEERSYNC = "none", "native", "pglogical", "bucardo", "peersync"
ENGINES = (NONE, NATIVE, PGLOGICAL, BUCARDO, PEERSYNC)
PARTS = ("capture", "lag", "drain", "memory", "wire", "publish", "nodes")
RIVALS_MAJOR = 15  # Debian's pglogical and PL/Perl are built for it; Bucardo needs the second


@dataclass(frozen=True)
class Size:
    """How much is measured. `scale` is pgbench's: 100,000 accounts each."""

    scale: int
    repeat: int
    slice_s: int
    lag_s: int
    rates: tuple[int, ...]
    bulk_rows: int
    backlog: int  # changes
    wire: int  # changes
    many: int  # changes, and rows of one transaction
    publish: int  # transactions
    nodes: tuple[int, ...]


SIZES = {
    "quick": Size(1, 1, 1, 2, (50,), 5_000, 2_000, 2_000, 20_000, 200, (3,)),
    "full": Size(
        10, 3, 10, 20, (200, 1_000), 100_000, 200_000, 100_000, 1_000_000, 20_000, (2, 3, 5)
    ),
}


@dataclass(frozen=True)
class Figure:
    """`engine` of the part `nodes` says how many there are: `3 nodes`."""

    part: str
    major: int
    engine: str
    name: str
    repetition: int
    value: float


@dataclass(frozen=True)
class Failure:
    """What could not be measured; `words` are without any program's own."""

    part: str
    major: int
    engine: str
    words: str


@dataclass
class Ledger:
    """Everything that was measured, in the order of measuring."""

    figures: list[Figure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """The part of a ledger that one part on one major writes into."""

    ledger: Ledger
    part: str
    major: int

    def note(self, engine: str, name: str, repetition: int, value: float) -> None:
        self.ledger.figures.append(Figure(self.part, self.major, engine, name, repetition, value))

    def fail(self, engine: str, words: str) -> None:
        self.ledger.failures.append(Failure(self.part, self.major, engine, words))
