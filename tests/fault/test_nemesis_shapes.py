"""Any shape of a group, whatever is done to agents and links while everybody writes, ends equal.

What was done is drawn from a seed, which a failure prints: PEERSYNC_NEMESIS_SEED=… repeats its
plan, PEERSYNC_NEMESIS_SECONDS=… makes it longer.
"""

from __future__ import annotations

import pytest

from tests.fault import nemesis
from tests.fault.nemesis_run import ordeal
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode

pytestmark = pytest.mark.timeout(300 + 2 * nemesis.SECONDS)
SHAPES = {"two": (nemesis.PAIR, 6.0), "ring": (nemesis.RING, 6.0)}
if nemesis.SECONDS:  # a chain is in test_nemesis_servers too, a mesh in test_nemesis_join
    longer = nemesis.SECONDS
    SHAPES |= {"chain": (nemesis.CHAIN, longer), "mesh": (nemesis.MESH, longer)}
    SHAPES |= {"star": (nemesis.STAR, longer)}


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_happens_on_the_way_all_end_equal_and_no_write_is_lost(
    shape: str, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    edges, seconds = SHAPES[shape]
    databases = [make_database(18) for _ in {number for edge in edges for number in edge}]
    ordeal(make_node, databases, edges, nemesis.ANYTHING, seconds, name=shape)
