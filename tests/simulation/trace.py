"""What happened in a simulated run, as plain values: another test can replay it for real.

A step is a dict of JSON values with a `do`:
- write: node, uid, ops [{op, key, image}]; one transaction of an application
- publish: node, position, hlc, wall, kind, seen, uid (None where kind is not d), subject
- apply: node, source, origin, position, conflicts [[key, origin, position, ordinal], …]
- join: node, sponsor; crash: node, until; restore: node (its database is an older one from here)
With `recorded.RecordedNode` there are these, too; its publish and apply steps stand inside:
- serve: node, asker, vector, most, number, txs [[origin, position], …], sender (its vector)
- refuse: node, asker, vector, most, floor
- deliver: node, source, number (of the answer), txs (what has come of it), wall; then of each
  run: node, origin, first, last, own (position before it); then delivered: node, stopped
  [reason, origin, position] or None, and what the node has: vector, hlc, rows, floor, members,
  log [[origin, position], …], kept [[origin, position, op, key], …]
- prune: node, and what it has
Nodes are numbers from 1 and are their own origin; times are microseconds. Steps are in the order
in which they happened, so replaying them one by one gives the same positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Step = dict[str, Any]


@dataclass
class Trace:
    """The steps of one run, and what makes it again."""

    seed: int
    nodes: int
    strategy: str
    links: list[tuple[int, int]]
    steps: list[Step] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)  # what every node has in the end

    def add(self, do: str, **values: Any) -> None:
        self.steps.append({"do": do, **values})

    def of(self, *kinds: str) -> Iterator[Step]:
        return (step for step in self.steps if step["do"] in kinds)

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__, default=dict))

    @classmethod
    def load(cls, path: Path) -> Trace:
        return cls(**json.loads(path.read_text()))
