"""Two members of a group with one table, to be verified with each other."""

from __future__ import annotations

from collections.abc import Mapping

from tests.integration.periodic_rig import QUICK, make_group
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, introduce

ROWS = 3000
TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, v text);"
    f"INSERT INTO t SELECT g, 0 FROM generate_series(1, {ROWS}) g;"
)


def members(
    make_database: MakeDatabase,
    make_node: MakeNode,
    env: Mapping[str, str] = QUICK,
    majors: tuple[int, int] = (18, 18),
) -> tuple[Node, Node]:
    """server-a and server-b, both started, each with the same rows."""
    a, b = (
        make_node(name, make_database(major), start=False, env=env)
        for name, major in zip(("server-a", "server-b"), majors, strict=True)
    )
    introduce(b, a)
    for node in (a, b):
        node.start()
    make_group(a, b, table=TABLE)
    return a, b
