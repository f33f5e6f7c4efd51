"""The rig: set up once for a file of tests, its agents started and ended with each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.rig import SOURCE_ROWS, TARGET_ROWS, Rig, eventually, free_port, make_rig
from tests.plugins.clusters import Database, GetCluster
from tests.plugins.proxy import Proxy

_READY = "SELECT to_regclass('peersync.baselines') IS NOT NULL"


@pytest.fixture(scope="module")
def paired(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Two nodes that know each other, on a server each; the source has its rows."""
    home = tmp_path_factory.mktemp("rig")
    databases = []
    for nth, name in enumerate(("fault_a", "fault_b")):
        cluster = clusters(18, nth)
        cluster.createdb(name)
        databases.append(Database(cluster, name))
    databases[0].psql(SOURCE_ROWS)
    port = free_port()
    with Proxy("127.0.0.1", port) as proxy:
        yield make_rig(home, databases[0], databases[1], proxy, f"127.0.0.1:{port}")
    for database in databases:
        database.cluster.start()
        database.cluster.dropdb(database.name)


@pytest.fixture
def rig(paired: Rig) -> Iterator[Rig]:
    """Both agents run and know nobody else; the target has its old rows."""
    paired.proxy.heal()
    paired.restore_books()
    for node in (paired.source, paired.target):
        node.database.cluster.start()
    paired.target.database.psql(TARGET_ROWS)
    start_both(paired)
    yield paired
    paired.proxy.heal()
    for node in (paired.source, paired.target, *paired.extra):
        node.tell_to_end()
    for node in (paired.source, paired.target, *paired.extra):
        node.close()
    paired.extra.clear()
    for node in (paired.source, paired.target):
        node.database.cluster.start()
        node.database.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid();"
            "DROP SCHEMA IF EXISTS peersync CASCADE"
        )
        for spool in (node.spool / "given", node.spool / "taken"):
            remove(spool)


def start_both(rig: Rig) -> None:
    for node in (rig.source, rig.target):
        node.launch()
    for node in (rig.source, rig.target):
        node.wait_until_ready()
        eventually("the schema is there", lambda d=node.database: d.psql(_READY) == "t")  # type: ignore[misc]


def remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() else path.rmdir()
