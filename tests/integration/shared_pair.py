"""Two paired nodes for a whole file of tests: starting them costs more than most tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.integration.terminal import Terminal
from tests.plugins.clusters import Database, GetCluster
from tests.plugins.nodes import PROGRAM, Node, TwoNodes
from tests.plugins.waiting import LIMIT_S, eventually


@contextmanager
def running_pair(
    clusters: GetCluster, home: Path, *, suffix: str, settings: str = ""
) -> Iterator[TwoNodes]:
    """server-a and server-b with a database each on one server; server-b may pull all."""
    cluster = clusters(18)
    nodes = []
    for name in ("a", "b"):
        dbname = f"pair_{suffix}_{name}"
        cluster.createdb(dbname)
        (home / name).mkdir()
        nodes.append(Node(f"server-{name}", Database(cluster, dbname), home / name))
    both = TwoNodes(*nodes)
    try:
        for node in both:
            node.settings = settings
            node.init()
            node.launch()
        for node in both:
            node.wait_until_ready()
        both.target.pair_with(both.source)
        yield both
    finally:
        for node in both:
            node.tell_to_end()
        for node in both:
            node.close()
            cluster.dropdb(node.database.name)


@contextmanager
def held(node: Node, table: str = "items") -> Iterator[Callable[[], None]]:
    """Rows of `table` can't be written meanwhile: a sync waits at its end, until released."""
    with psycopg.connect(node.database.conninfo()) as connection:
        connection.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
        yield connection.rollback


def terminal(node: Node, *arguments: str) -> Terminal:
    """Types a command of a node on a terminal."""
    environ = {**os.environ, "PEERSYNC_CONFIG": str(node.config), **node.env}
    return Terminal([*PROGRAM, *arguments], environ)


def sessions(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.run("history", "--json").json["sessions"]
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    eventually("what the test asks", condition, timeout_s)
