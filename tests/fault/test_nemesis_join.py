"""A node becomes a member while links break, agents are killed and everybody writes."""

from __future__ import annotations

import pytest

from tests.fault import nemesis
from tests.fault.nemesis_run import ordeal
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode

pytestmark = pytest.mark.timeout(300 + 2 * nemesis.SECONDS)


def test_a_join_under_fire_misses_nothing_and_doubles_nothing(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    databases = [make_database(18) for _ in range(3)]
    ordeal(make_node, databases, nemesis.MESH, nemesis.ANYTHING, 7.0, name="join", late=True)
