"""Does capture make people wait?"""
from __future__ import annotations
import threading, time
import psycopg
from tests.integration.test_join import join, shows
from tests.plugins.nodes import TwoNodes


def test_a_writer_waits_for_the_capture_of_a_new_table(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "30")
    one = psycopg.connect(source.database.conninfo())
    one.execute("SELECT 1"); one.rollback()
    source.stop()
    source.database.psql("CREATE TABLE late (id int PRIMARY KEY, v text)")
    one.execute("INSERT INTO late VALUES (1, 'open')")  # a long transaction
    source.start()
    took = []
    two = psycopg.connect(source.database.conninfo(), autocommit=True)
    for n in range(2, 60):
        began = time.monotonic()
        two.execute("INSERT INTO late VALUES (%s, 'x')", (n,))
        took.append(time.monotonic() - began)
        if sum(took) > 50: break
        time.sleep(0.2)
    print("slowest inserts", sorted(took)[-6:], "total waited", sum(took), "of", len(took))
    print(source.database.psql("SELECT table_name, state, reason FROM peersync.synced_table"))
    one.rollback()
    assert max(took) < 1.0
