"""Nodes whose databases are members of one group, for the tests of the periodic loop.

The group is made by hand, without a join: all databases have the same rows when it begins.
"""

from __future__ import annotations

from collections.abc import Callable

from peersync.transport.identity import load_identity
from tests.plugins import least
from tests.plugins.nodes import Node
from tests.plugins.waiting import LIMIT_S, eventually

TABLE = "CREATE TABLE t (id int PRIMARY KEY, v text)"
GROUP = "6f3c2b52-1c51-4e0b-9f43-0d1f2a3b4c5d"
QUICK = {"PEERSYNC_PERIODIC_BEAT_S": "0.5"}


def make_group(*nodes: Node, table: str = TABLE) -> list[int]:
    """Makes the table on each node and all of them members; gives their origins.

    Returns when each captures the table.
    """
    origins = [1_000 + number for number, _ in enumerate(nodes)]
    for mine, node in enumerate(nodes):
        node.database.psql(table)
        least.grant(node, "periodic")
        _wait_for(node, "the schema is made", "SELECT to_regclass('peersync.replica')")
        members = ", ".join(
            f"({origin}, '{node_id(other)}', '{other.name}')"
            for origin, other in zip(origins, nodes, strict=True)
        )
        node.database.psql(
            "INSERT INTO peersync.replica (group_id, origin, node_id, hlc, published) VALUES"
            f" ('{GROUP}', {origins[mine]}, '{node_id(node)}', 1, pg_current_snapshot());"
            f"INSERT INTO peersync.member (origin, node_id, node_name) VALUES {members};"
        )
    for node in nodes:
        captured = "SELECT tgname FROM pg_trigger WHERE tgname ~ '^peersync_'"
        _wait_for(node, "the table is captured", captured)
    return origins


def _wait_for(node: Node, what: str, query: str) -> None:
    wait_until(f"{node.name}: {what}", lambda: node.database.psql(query))


def node_id(node: Node) -> str:
    return load_identity(node.home / "state").node_id


def rows(node: Node, table: str = "t") -> str:
    return node.database.psql(
        f"SELECT count(*), md5(string_agg(x::text, ',' ORDER BY x::text)) FROM {table} AS x"
    )


def wait_until(what: str, ready: Callable[[], object], seconds: float = LIMIT_S) -> None:
    eventually(what, ready, seconds)


def wait_equal(*nodes: Node, table: str = "t", seconds: float = LIMIT_S) -> None:
    """Until all of them have the same rows."""
    wait_until(
        f"{', '.join(n.name for n in nodes)} have the same rows",
        lambda: len({rows(node, table) for node in nodes}) == 1,
        seconds,
    )
