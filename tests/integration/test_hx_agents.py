"""What the commands say while rows differ."""
from __future__ import annotations
import time
from tests.integration.test_join import join, shows
from tests.plugins.nodes import TwoNodes

SQL = "CREATE TABLE bag (n int, note text); CREATE TABLE acc (id int PRIMARY KEY, n int, code text UNIQUE);"


def test_in_sync(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(SQL)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "30")
    target.database.psql("ALTER TABLE bag ADD CONSTRAINT small CHECK (n < 100)")
    source.database.psql("INSERT INTO bag VALUES (500, 'r'), (501, 'edited')")
    target.database.psql("INSERT INTO acc VALUES (2, 2, 'x')")
    source.run("sync", "pause")
    source.run("sync", "resume")
    target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    source.database.psql("DELETE FROM bag WHERE n = 500")
    target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    print(target.run("quarantine", "list").out)
    print(target.run("quarantine", "edit", "2", "n=1", check=False).out)
    target.database.psql("ALTER TABLE bag DROP CONSTRAINT small")
    print(target.run("quarantine", "retry", "--all", check=False).out)
    # a load into an unlogged table, made a usual one afterwards
    for node in pair_18:
        node.database.psql("CREATE UNLOGGED TABLE load (id int PRIMARY KEY, v text)")
    source.database.psql("INSERT INTO load SELECT g, 'v' FROM generate_series(1, 1000) g")
    time.sleep(3)
    for node in pair_18:
        node.database.psql("ALTER TABLE load SET LOGGED")
    time.sleep(3)
    r = target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    print("sync now --wait:", r.code, r.out, r.err)
    for node in pair_18:
        print(node.name, node.run("status", check=False).out)
        print(node.run("tables", "list").out)
        print(node.name, "bag", node.database.psql("SELECT * FROM bag ORDER BY 1").split(), "load", node.database.psql("SELECT count(*) FROM load"))
    assert r.code == 0
    q = "SELECT (SELECT count(*) FROM load), (SELECT string_agg(n::text, ',' ORDER BY n) FROM bag)"
    assert source.database.psql(q) == target.database.psql(q)
