"""Databases do what the simulation did: the same rows, positions, conflicts, step by step.

`PEERSYNC_REPLAY_SEEDS` says how many seeds (`2000`) or which (`17-17`). A failure ends with the
seed and the step. Left out are strategies other than "newer wins", databases that are set back
to a backup, joins into a group that a member leaves, and groups in which no more than two stay:
two keep nothing for others, and so have another log than the simulation, though the same rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from tests.integration.replay_node import open_nodes
from tests.integration.replay_rig import Replay
from tests.plugins.clusters import MakeDatabase
from tests.simulation.recorded import record
from tests.simulation.scenario import Scenario, draw
from tests.simulation.trace import Trace

DEFAULT = (0, 1, 2, 3, 6, 14)  # with a join, a leave, manual conflicts, an expiry, a return
WITH_A_JOIN = (1,)


def seeds() -> Sequence[int]:
    asked = os.environ.get("PEERSYNC_REPLAY_SEEDS", "")
    first, dash, last = asked.partition("-")
    if dash:
        return range(int(first), int(last) + 1)
    return range(int(first)) if first else DEFAULT


def scenario_of(seed: int) -> Scenario:
    goes = {2: "leaves", 4: "expiries"}.get(seed % 5)
    nodes = (3, 3, 3, 4, 3, 5, 6)[seed % 7]
    return draw(
        seed,
        nodes=nodes if goes is None else max(nodes, 4),
        strategy="manual" if seed % 11 == 3 else "newer_wins",
        joins=0 if goes else (0, 1, 0, 0, 2, 0)[seed % 6],
        leaves=int(goes == "leaves"),
        expiries=int(goes == "expiries"),
        writes=15 + seed % 37,
    )


async def replay(make_database: MakeDatabase, major: int, asked: Sequence[int]) -> int:
    """The number of conflicts that were found. Databases are made once for all runs."""
    found = 0
    async with AsyncExitStack() as stack:
        nodes = await open_nodes(stack, make_database, major)
        for seed in asked:
            trace = record(scenario_of(seed))
            run = Replay(trace, [await nodes.get(n) for n in range(1, nodes_of(trace) + 1)])
            await run.run()
            found += run.conflicts
    return found


def nodes_of(trace: Trace) -> int:
    """How many there were, with those that joined."""
    return max([trace.nodes, *(int(step["node"]) for step in trace.steps)])


@pytest.mark.timeout(0)
async def test_databases_do_what_the_simulation_did(make_database: MakeDatabase) -> None:
    found = await replay(make_database, 18, seeds())
    assert found or len(seeds()) < 3


async def test_the_oldest_server_does_too(make_database: MakeDatabase) -> None:
    assert await replay(make_database, 15, WITH_A_JOIN)
