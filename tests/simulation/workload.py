"""What the simulated applications write: few rows and many writers, so that they collide."""

from __future__ import annotations

import random

from peersync.core.order.change import Image
from peersync.core.order.fold import Delta, MergeColumns
from tests.simulation.simnode import KEYS, SimNode, Written


def draw_changes(rng: random.Random, node: SimNode) -> list[Written]:
    """One transaction on the rows that the node has now."""
    if rng.random() < 0.03:
        return [Written("T", None, None, None)]
    return [_change(rng, node, key) for key in rng.sample(KEYS, rng.choice([1, 1, 2]))]


def _change(rng: random.Random, node: SimNode, key: str) -> Written:
    row = node.rows.get(key)
    if row is not None and rng.random() < 0.25:
        return Written("D", key, None, row)
    by_column = isinstance(node.strategy, MergeColumns | Delta)
    image = _columns(rng, row) if by_column else f"v{rng.randrange(10**9)}"
    return Written("I" if row is None else "U", key, image, row)


def _columns(rng: random.Random, row: Image | None) -> Image:
    columns: dict[str, str | None] = {"a": "0", "b": None, "n": "0"}
    if row is not None:
        assert not isinstance(row, str)
        columns = dict(row)
    for column in rng.sample(["a", "b", "n"], rng.choice([1, 1, 2])):
        if column == "n":
            columns["n"] = str(int(columns["n"] or "0") + rng.choice([-7, 1, 100, 10**18]))
        else:
            columns[column] = f"v{rng.randrange(10**9)}"
    return columns
