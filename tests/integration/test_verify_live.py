"""Verifying while both sides are written to: what is on its way is no difference."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from tests.integration.periodic_rig import wait_equal
from tests.integration.verify_rig import members
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node

_WRITE = """
WITH changed AS (UPDATE t SET v = (random() < 0.5)::text WHERE id %% 1000 = %s),
     gone AS (DELETE FROM t WHERE id = %s)
INSERT INTO t VALUES (%s, 'new') ON CONFLICT DO NOTHING
"""


@contextmanager
def _written(node: Node, offset: int) -> Iterator[None]:
    """Somebody updates, inserts and deletes rows, between the blocks and in them."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(node.database.conninfo(), autocommit=True) as connection:
            number = 0
            while not stop.is_set():
                number += 2
                at = number + offset
                with suppress(psycopg.errors.DeadlockDetected):  # with what is applied
                    connection.execute(_WRITE.encode(), (at % 1000, at % 3000, 3000 + at))
                time.sleep(0.02)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_rows_in_flight_are_no_drift_and_drift_is_found_among_them(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    a, b = members(make_database, make_node, majors=(18, 15))
    with _written(a, 0), _written(b, 1):
        seen = 0
        for _ in range(4):
            found = b.run("verify", "server-a", "--json", check=False)
            assert found.json["result"] in ("identical", "in flight"), found.out
            assert found.code in (0, 3)
            assert found.json["matched"] in (True, None), found.json["unmatched"]
            seen += found.json["in_flight"]
        assert seen, "nothing was in flight: this test has shown nothing"
        # what no capture saw stays different, whatever else moves
        b.database.psql(
            "SET session_replication_role = replica;"
            "INSERT INTO t VALUES (-1, 'drift'); DELETE FROM t WHERE id = 2999"
        )
        found = b.run("verify", "server-a", "--json", "--rows", check=False)
        assert (found.code, found.json["result"]) == (4, "differs")
        (table,) = found.json["tables"]
        kinds = {(key["kind"], *key["key"]) for key in table["keys"]}
        assert ("extra", "-1") in kinds
        assert kinds <= {("extra", "-1"), ("missing", "2999")}
    b.database.psql("SET session_replication_role = replica; DELETE FROM t WHERE id = -1")
    a.database.psql("SET session_replication_role = replica; DELETE FROM t WHERE id = 2999")
    wait_equal(a, b)
    assert a.run("verify", "server-b", "--json").json["result"] == "identical"
