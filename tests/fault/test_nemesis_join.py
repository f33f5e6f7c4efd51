"""A node becomes a member while links break, agents are killed and everybody writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.fault import nemesis
from tests.fault.nemesis_run import ordeal
from tests.fault.rig import eventually
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode

pytestmark = pytest.mark.timeout(300 + 2 * nemesis.SECONDS)
_WAITS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
   AND application_name LIKE 'peersync/apply%' AND wait_event_type = 'Lock'"""


def test_a_join_under_fire_misses_nothing_and_doubles_nothing(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    databases = [make_database(18) for _ in range(3)]
    ordeal(make_node, databases, nemesis.MESH, nemesis.ANYTHING, 7.0, name="join", late=True)


def test_what_its_sponsor_was_applying_when_somebody_joined_reaches_it_too(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    """With two members nobody else needs what is applied; a third may come while it is."""
    patient = {"PEERSYNC_PERIODIC_LOCK_TIMEOUT_S": "60"}
    a, b, c = (make_node(f"server-{name}", make_database(18), env=patient) for name in "abc")
    b.pair_with(a)
    c.pair_with(b)
    a.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    b.run("join", "server-a", "--yes")
    with psycopg.connect(b.database.conninfo()) as user:
        user.execute("SELECT FROM t WHERE id = 1 FOR UPDATE")
        a.database.psql("UPDATE t SET v = 'new' WHERE id = 1")
        eventually("server-b is applying it", lambda: b.database.psql(_WAITS) != "0")
        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(c.run, "join", "server-b", "--yes")
            # it has its baseline, or waits for what is being applied
            eventually(
                "server-c joins",
                lambda: joining.done() or b.database.psql(_WAITS.replace("apply", "base")) != "0",
            )
            user.commit()
            joining.result()
    eventually("it is here", lambda: c.database.psql("SELECT v FROM t") == "new", 15.0)
