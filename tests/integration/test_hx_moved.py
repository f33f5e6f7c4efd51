from __future__ import annotations
import time
from tests.integration.test_join import join
from tests.plugins.nodes import TwoNodes


def test_only_table_made_again(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "30")
    target.database.psql("BEGIN; DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); COMMIT")
    source.database.psql("BEGIN; DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'new' FROM generate_series(1, 1000) g; COMMIT")
    time.sleep(3)
    r = target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    print("sync now --wait:", r.code, r.out, r.err, target.run("status", check=False).out)
    print([n.database.psql("SELECT count(*) FROM t").strip() for n in pair_18])
    assert source.database.psql("SELECT count(*) FROM t") == target.database.psql("SELECT count(*) FROM t")


def test_manual_and_rebaseline(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    join(target, source)
    for node in pair_18:
        node.run("tables", "strategy", "public.t", "manual")
    target.run("sync", "now", "--wait", "--timeout", "30")
    target.run("sync", "pause")
    source.database.psql("UPDATE t SET v = 'of a, older'")
    time.sleep(0.2)
    target.database.psql("UPDATE t SET v = 'of b, newer'")
    time.sleep(0.5)
    print(target.run("rebaseline", source.name, "--yes", check=False).code)
    target.run("sync", "resume", check=False)
    r = target.run("sync", "now", "--wait", "--timeout", "20", check=False)
    print("sync now --wait:", r.code, r.out, target.run("status", check=False).out)
    print([n.database.psql("SELECT v FROM t").strip() for n in pair_18],
          [n.database.psql("SELECT id, state, winner FROM peersync.conflict") for n in pair_18])
    assert source.database.psql("SELECT count(*) FROM peersync.conflict") != "0"
