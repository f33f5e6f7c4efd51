"""What a seed means: topology, clocks, faults and load of one simulated run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from peersync.core.order.change import Change, Image
from peersync.core.order.fold import (
    Delta,
    Function,
    Manual,
    MergeColumns,
    NewerWins,
    OriginPriority,
    Strategy,
)

TOPOLOGIES = ("chain", "star", "ring", "one-way ring", "mesh", "random", "one-way chain")
STRATEGIES = ("newer_wins", "merge_columns", "delta", "origin_priority", "manual", "function")


@dataclass(frozen=True)
class Scenario:
    """`links` are (puller, source); shares are of 1, times in virtual milliseconds."""

    seed: int
    nodes: int
    topology: str
    strategy: Strategy
    links: tuple[tuple[int, int], ...]
    writes: int
    loss: float
    doubled: float
    delay_ms: int
    crashes: int
    partitions: int
    joins: int
    leaves: int
    expiries: int
    restores: int
    skew_us: dict[int, int] = field(default_factory=dict)
    frame: int = 10

    @property
    def events(self) -> str:
        """What happens beside writes and faults, in words."""
        return (
            f"{self.joins} joins, {self.leaves} leaves, {self.expiries} expiries, "
            f"{self.restores} restores"
        )

    @property
    def connected(self) -> bool:
        """Whether what a node writes reaches every other."""
        return self.topology != "one-way chain"


def draw(
    seed: int,
    *,
    nodes: int | None = None,
    topology: str | None = None,
    strategy: str | None = None,
    joins: int = 0,
    leaves: int = 0,
    expiries: int = 0,
    restores: int = 0,
    writes: int | None = None,
) -> Scenario:
    """The scenario of a seed, where the caller does not fix a part of it."""
    rng = random.Random(seed)
    drawn = rng.choice([3, 3, 3, 4, 4, 5, 6, 8])
    count = nodes or drawn
    shape, name = rng.choice(TOPOLOGIES), rng.choice(STRATEGIES)
    shape = topology or shape
    if leaves or expiries or restores:  # who goes must not be anybody's only way
        only = leaves + expiries + restores > 1 or shape in ("mesh", "star", "random")
        shape = "mesh" if only else "ring"
    if joins and shape == "one-way chain":  # a join is not heard of upstream
        shape = "chain"
    quiet = rng.random() < 0.2
    return Scenario(
        seed=seed,
        nodes=count,
        topology=shape,
        strategy=strategy_named(strategy or name, count),
        links=links_of(shape, count, rng),
        writes=writes or rng.randint(15, 60),
        loss=0 if quiet else rng.choice([0, 0.1, 0.3]),
        doubled=0 if quiet else rng.choice([0, 0.1, 0.3]),
        delay_ms=rng.choice([5, 50, 400]),
        crashes=0 if quiet else rng.randint(0, 3),
        partitions=0 if quiet else rng.randint(0, 2),
        joins=joins,
        leaves=leaves,
        expiries=expiries,
        restores=restores,
        skew_us={
            n: rng.choice([0, 0, 1_000, -80_000, 5_000_000, -86_400_000_000])
            for n in range(1, count + joins + 1)
        },
        frame=rng.choice([1, 2, 3, 10, 50]),
    )


def links_of(shape: str, count: int, rng: random.Random) -> tuple[tuple[int, int], ...]:
    """(puller, source) of every link; what a topology is called says who pulls from whom."""
    nodes = range(1, count + 1)
    one_way = [(n + 1, n) for n in nodes if n < count]
    match shape:
        case "one-way chain":
            return tuple(one_way)
        case "one-way ring":
            return (*one_way, (1, count))
        case "chain":
            pairs = one_way
        case "ring":
            pairs = [*one_way, (1, count)]
        case "star":
            pairs = [(1, n) for n in nodes if n > 1]
        case "mesh":
            pairs = [(a, b) for a in nodes for b in nodes if a < b]
        case _:
            pairs = [(n, rng.randint(1, n - 1)) for n in nodes if n > 1]
            pairs += [
                p for p in ((a, b) for a in nodes for b in nodes if a < b) if rng.random() < 0.2
            ]
    return tuple(dict.fromkeys([*pairs, *((b, a) for a, b in pairs)]))


def strategy_named(name: str, nodes: int) -> Strategy:
    match name:
        case "merge_columns":
            return MergeColumns()
        case "delta":
            return Delta(frozenset({"n"}))
        case "origin_priority":
            return OriginPriority({origin: origin % 3 for origin in range(1, nodes + 10)})
        case "manual":
            return Manual()
        case "function":
            return Function(all_of_them)
    return NewerWins()


def all_of_them(changes: Sequence[Change]) -> Image | None:
    """An operator's function: keeps every side's text, and what one side deleted stays away."""
    if any(change.removes for change in changes):
        return None
    return "|".join(sorted({part for c in changes for part in str(c.image).split("|")}))
