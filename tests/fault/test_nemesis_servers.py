"""A server each, of two majors, that crash while everybody writes; one with a clock that is wrong.

The clock is that of libfaketime where it is installed (Debian's package, or PEERSYNC_FAKETIME
names the file). Everywhere else only the clock that stamps changes is moved, as in all runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pgcluster
import pytest

from tests.fault import nemesis
from tests.fault.nemesis_run import ordeal
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode

pytestmark = pytest.mark.timeout(300 + 2 * nemesis.SECONDS)
_LIBRARIES = [
    Path(os.environ.get("PEERSYNC_FAKETIME", "/")),
    *Path("/usr/lib").glob("*/faketime/libfaketime.so.1"),
]
_AHEAD = "+25s"
_CRASHING = {**nemesis.ANYTHING, "crash": 7}


class WrongClock(pgcluster.Cluster):
    """A server whose clock is ahead, where there is something to do that with."""

    def start(self) -> None:
        library = next((path for path in _LIBRARIES if path.is_file()), None)
        if library is None:
            super().start()
            return
        added = {
            "LD_PRELOAD": str(library),
            "FAKETIME": _AHEAD,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        os.environ.update(added)
        try:
            super().start()
        finally:
            for name in added:
                del os.environ[name]


@pytest.fixture
def ahead() -> Iterator[Database]:
    """A database on a server with a wrong clock."""
    with WrongClock(18) as cluster:
        cluster.createdb("ahead")
        yield Database(cluster, "ahead")


def test_servers_that_crash_and_clocks_that_are_wrong_lose_no_acknowledged_write(
    make_database: MakeDatabase, ahead: Database, make_node: MakeNode
) -> None:
    databases = [make_database(15), ahead, make_database(18)]
    ordeal(make_node, databases, nemesis.CHAIN, _CRASHING, 8.0, name="servers")
