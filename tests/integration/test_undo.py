"""Undo: what a sync has changed here is put back, and what came later is left alone."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.integration.test_join import shows
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, email text UNIQUE, "Größe" numeric, raw bytea);
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers,
    total numeric, doubled numeric GENERATED ALWAYS AS (total * 2) STORED, tags text[]);
CREATE TABLE bag (a int, b text);
CREATE TABLE untouched (id int PRIMARY KEY);
"""
OLD = """
INSERT INTO customers SELECT g, 'c' || g || '@x', g / 3.0, '\\xdead' FROM generate_series(1, 20) g;
INSERT INTO orders (customer, total, tags) SELECT 1 + g % 20, g, ARRAY['a', NULL, 'b,"']
  FROM generate_series(1, 50) g;
INSERT INTO bag SELECT g % 3, 'x' FROM generate_series(1, 9) g;
INSERT INTO untouched VALUES (1);
"""
NEW = """
UPDATE customers SET email = 'new' || id, "Größe" = 'NaN' WHERE id <= 5;
INSERT INTO customers VALUES (100, 'hundred', 1.00, NULL);
INSERT INTO orders (customer, total) VALUES (100, 7);
DELETE FROM orders WHERE id = 3;
INSERT INTO bag VALUES (1, 'x'), (7, 'y');
"""
CONTENT = (
    "SELECT string_agg(x, '|') FROM (SELECT 'c' || t::text AS x FROM customers t UNION ALL "
    "SELECT 'o' || t::text FROM orders t UNION ALL SELECT 'b' || t::text FROM bag t ORDER BY 1) z"
)


@pytest.fixture
def pair(pair_18: TwoNodes) -> TwoNodes:
    """Both had the same; then the source went on."""
    source, target = pair_18
    source.database.psql(TABLES + OLD)
    target.database.psql(TABLES + OLD)
    source.database.psql(NEW)
    return pair_18


def content(node: Node) -> str:
    return node.database.psql(CONTENT)


def undo(node: Node, session: str, *options: str, code: int = 0) -> dict:  # type: ignore[type-arg]
    result = node.run("undo", session[:8], "--yes", "--json", *options, check=False)
    assert result.code == code, result.err
    return {t["name"]: t for t in result.json["tables"]} if code in (0, 3) else {}


def test_an_undo_puts_every_row_back(pair: TwoNodes) -> None:
    target = pair.target
    before = content(target)
    session = target.pull("server-a").json["session"]
    after = content(target)
    assert after != before

    planned = undo(target, session, "--dry-run")
    assert content(target) == after
    done = undo(target, session)
    assert done == planned
    assert content(target) == before
    assert target.run("jobs", "show", session, "--json").json["undo"] == "undone"
    listed = target.run("jobs", "list", "--json").json["jobs"]
    assert next(j["undo"] for j in listed if j["id"] == session) == "undone"
    assert (done["customers"]["restored"], done["customers"]["deleted"]) == (5, 1)
    assert done["orders"]["deleted"] == 1
    assert done["bag"]["deleted"] == 2
    assert "untouched" not in done
    again = target.run("undo", session, "--yes", check=False)
    assert again.code == 2
    assert "undone already" in again.err
    assert target.pull("server-a").json["result"] == "done"
    assert content(target) == after


def test_what_a_mirror_deleted_comes_back(pair: TwoNodes) -> None:
    target = pair.target
    target.database.psql(
        "INSERT INTO bag VALUES (2, 'x'), (2, 'x'), (9, NULL);"
        "INSERT INTO customers VALUES (200, 'mine', NULL, ''); "
        "INSERT INTO orders (customer, total) VALUES (200, 5)"
    )
    before = content(target)
    session = target.pull("server-a", "--mirror").json["session"]
    done = undo(target, session)
    assert content(target) == before
    assert done["customers"]["reinserted"] == 1
    assert sum(t["reinserted"] for t in done.values()) == 5  # with order 3 and three in the bag


def test_rows_that_were_changed_since_are_named_and_kept(pair: TwoNodes) -> None:
    target = pair.target
    session = target.pull("server-a").json["session"]
    target.database.psql("UPDATE customers SET email = 'newer' WHERE id = 2")
    done = undo(target, session, code=3)
    assert (done["customers"]["restored"], done["customers"]["newer"]) == (4, 1)
    assert done["customers"]["newer_keys"] == ["(2)"]
    assert target.database.psql("SELECT email FROM customers WHERE id IN (1, 2) ORDER BY id") == (
        "c1@x\nnewer"
    )
    words = target.run("history").out
    assert session[:8] in words


def test_a_later_row_that_refers_to_one_that_would_go_stops_the_undo(pair: TwoNodes) -> None:
    target = pair.target
    session = target.pull("server-a").json["session"]
    target.database.psql("INSERT INTO orders (customer, total) VALUES (100, 99)")
    after = content(target)
    refused = target.run("undo", session, "--yes", check=False)
    assert refused.code != 0
    assert "orders" in refused.err
    assert "Traceback" not in refused.err
    assert content(target) == after


def test_a_table_that_was_altered_since_is_left_and_said(pair: TwoNodes) -> None:
    target = pair.target
    session = target.pull("server-a").json["session"]
    target.database.psql("ALTER TABLE bag DROP COLUMN b; ALTER TABLE customers ADD more int")
    done = undo(target, session, code=3)
    assert "column b" in done["bag"]["error"]
    assert done["customers"]["restored"] == 5


def test_unique_values_that_had_moved_go_back(pair: TwoNodes) -> None:
    source, target = pair
    source.database.psql(
        "UPDATE customers SET email = 't' WHERE id = 10;"
        "UPDATE customers SET email = 'c10@x' WHERE id = 11;"
        "UPDATE customers SET email = 'c11@x' WHERE id = 10"
    )
    before = content(target)
    session = target.pull("server-a").json["session"]
    undo(target, session)
    assert content(target) == before


def test_a_sync_that_changed_nothing_or_was_told_so_keeps_nothing(pair: TwoNodes) -> None:
    target = pair.target
    target.pull("server-a", "--no-undo")
    same = target.pull("server-a").json["session"]
    refused = target.run("undo", same, "--yes", check=False)
    assert refused.code == 2
    assert "nothing is kept" in refused.err
    journals = "SELECT count(*) FROM pg_class WHERE relname LIKE 'undo_%'"
    assert target.database.psql(journals) == "0"


def test_a_journal_that_grows_too_large_is_given_up_and_the_sync_goes_on(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source = make_node("server-a", make_database(18))
    target = make_node(
        "server-b", make_database(18, nth=1), env={"PEERSYNC_FULL_SYNC_UNDO_MAX_MIB": "1"}
    )
    target.pair_with(source)
    table = "CREATE TABLE t (id int PRIMARY KEY, v text);"
    source.database.psql(table + "INSERT INTO t SELECT g, 'v' FROM generate_series(1, 50000) g")
    target.database.psql(table)
    done = target.pull("server-a").json
    assert done["result"] == "done"
    refused = target.run("undo", done["session"], "--yes", check=False)
    assert refused.code == 2
    assert "undo_max_mib" in refused.err


def test_old_journals_are_dropped(make_database: MakeDatabase, make_node: MakeNode) -> None:
    source = make_node("server-a", make_database(18))
    target = make_node(
        "server-b", make_database(18, nth=1), env={"PEERSYNC_FULL_SYNC_UNDO_KEEP_D": "0"}
    )
    target.pair_with(source)
    table = "CREATE TABLE t (id int PRIMARY KEY);"
    source.database.psql(table + "INSERT INTO t VALUES (1)")
    target.database.psql(table)
    session = target.pull("server-a").json["session"]
    target.stop()
    target.start()  # the janitor sweeps at the start
    journals = "SELECT count(*) FROM pg_class WHERE relname LIKE 'undo_%'"
    shows(target.database, journals, "0")
    refused = target.run("undo", session, "--yes", check=False)
    assert refused.code == 2
    assert "undo_keep_d" in refused.err


def test_one_transaction_a_table_can_be_undone_too(pair: TwoNodes) -> None:
    target = pair.target
    before = content(target)
    session = target.pull("server-a", "--per-table", "--mirror").json["session"]
    undo(target, session)
    assert content(target) == before


def test_an_undo_does_not_wait_for_a_lock_for_ever(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source = make_node("server-a", make_database(18))
    target = make_node(
        "server-b", make_database(18, nth=1), env={"PEERSYNC_FULL_SYNC_LOCK_TIMEOUT_S": "1"}
    )
    target.pair_with(source)
    for node in (source, target):
        node.database.psql("CREATE TABLE t (id int PRIMARY KEY)")
    source.database.psql("INSERT INTO t VALUES (1)")
    session = target.pull("server-a").json["session"]
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        refused = target.run("undo", session, "--yes", check=False)
        other.rollback()
    assert refused.code == 6
    assert target.database.psql("SELECT count(*) FROM t") == "1"
    assert undo(target, session)["t"]["deleted"] == 1


WEAK_TABLES = """
CREATE TABLE p (id int PRIMARY KEY, code text UNIQUE);
CREATE TABLE refc (id int PRIMARY KEY,
    pc text REFERENCES p (code) ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree);
"""


@pytest.fixture
def weak(make_database: MakeDatabase, make_node: MakeNode) -> TwoNodes:
    """The target's role may not set session_replication_role, so foreign keys act."""
    source = make_node("server-a", make_database(18))
    database = make_database(18, nth=1)
    database.cluster.createrole("weak")
    database.psql(
        "GRANT pg_read_all_data, pg_write_all_data TO weak;"
        f'GRANT CREATE ON DATABASE "{database.name}" TO weak; GRANT CREATE ON SCHEMA public TO weak'
    )
    target = make_node("server-b", database, conninfo=database.conninfo(user="weak"))
    target.pair_with(source)
    for node in (source, target):
        node.database.psql(WEAK_TABLES)
    return TwoNodes(source, target)


def test_a_sync_changes_no_other_table_by_on_update(weak: TwoNodes) -> None:
    weak.source.database.psql("INSERT INTO p VALUES (1, 'x')")
    weak.target.database.psql("INSERT INTO p VALUES (1, 'a'); INSERT INTO refc VALUES (10, 'a')")
    done = weak.target.pull("server-a", check=False)
    assert done.code == 3
    tables = {t["name"]: t for t in done.json["tables"]}
    assert tables["p"]["result"] == "failed"
    assert "refc" in tables["p"]["error"]
    assert weak.target.database.psql("SELECT pc FROM refc") == "a"


def test_what_a_mirror_takes_along_is_counted_and_comes_back(weak: TwoNodes) -> None:
    weak.source.database.psql("INSERT INTO p VALUES (1, 'a')")
    weak.target.database.psql(
        "INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO refc VALUES (10, 'b');"
        "INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)"
    )
    done = weak.target.pull("server-a", "--mirror").json
    assert {t["name"]: t["deleted"] for t in done["tables"]} == {"p": 1, "refc": 1, "tree": 3}
    undo(weak.target, done["session"])
    assert weak.target.database.psql("SELECT * FROM refc") == "10|b"
    assert weak.target.database.psql("SELECT count(*) FROM p, tree") == "6"


def test_an_undo_takes_no_newer_row_along(weak: TwoNodes) -> None:
    weak.source.database.psql("INSERT INTO p VALUES (1, 'a')")
    session = weak.target.pull("server-a").json["session"]
    weak.target.database.psql("INSERT INTO refc VALUES (6, 'a')")
    done = undo(weak.target, session, code=3)
    assert "refc" in done["p"]["error"]
    assert weak.target.database.psql("SELECT count(*) FROM refc") == "1"
    weak.target.database.psql("DELETE FROM refc")
    assert undo(weak.target, session)["p"]["deleted"] == 1  # mended, it can be tried again
    assert weak.target.database.psql("SELECT count(*) FROM p") == "0"


def test_a_tree_goes_back_row_by_row(weak: TwoNodes) -> None:
    weak.source.database.psql("INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2)")
    weak.target.database.psql("INSERT INTO tree VALUES (3, NULL)")
    session = weak.target.pull("server-a").json["session"]
    undo(weak.target, session)
    assert weak.target.database.psql("SELECT id, up FROM tree") == "3|"


def test_rows_of_heirs_are_not_those_of_the_table(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in (source, target):
        node.database.psql(
            "CREATE TABLE p (id int PRIMARY KEY, v text); CREATE TABLE p1 () INHERITS (p);"
            "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)"
        )
    source.database.psql("INSERT INTO p VALUES (1, 'x')")
    session = target.pull("server-a").json["session"]
    target.database.psql("INSERT INTO p1 VALUES (1, 'fake'); INSERT INTO c VALUES (5, 1)")
    refused = target.run("undo", session, "--yes", check=False)
    assert refused.code != 0
    assert target.database.psql("SELECT count(*) FROM ONLY p") == "1"


def test_a_table_is_put_back_whole_or_not_at_all(pair: TwoNodes) -> None:
    target = pair.target
    target.database.psql("INSERT INTO customers VALUES (300, 'gone', NULL, NULL)")
    session = target.pull("server-a", "--mirror").json["session"]
    target.database.psql("ALTER TABLE customers ADD CONSTRAINT no CHECK (email <> 'gone')")
    done = undo(target, session, code=3)
    assert done["customers"]["error"]
    assert target.database.psql("SELECT email FROM customers WHERE id = 1") == "new1"
    target.database.psql("ALTER TABLE customers DROP CONSTRAINT no")
    assert undo(target, session)["customers"]["reinserted"] == 1
    assert target.database.psql("SELECT email FROM customers WHERE id = 1") == "c1@x"


def test_what_a_cancelled_sync_table_by_table_has_done_can_be_undone(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in (source, target):
        node.database.psql("CREATE TABLE a1 (id int PRIMARY KEY); CREATE TABLE z9 (LIKE a1)")
    source.database.psql("INSERT INTO a1 VALUES (1); INSERT INTO z9 VALUES (1)")
    with psycopg.connect(target.database.conninfo()) as other:
        other.execute("LOCK TABLE z9 IN ROW EXCLUSIVE MODE")
        job = target.run("pull", "server-a", "--per-table", "--yes", "--no-wait", "--json").json[
            "session"
        ]
        deadline = time.monotonic() + 30
        while target.database.psql("SELECT count(*) FROM a1") == "0":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        target.run("jobs", "cancel", job)
        ended = target.run("jobs", "watch", job, check=False)
        other.rollback()
    assert ended.code == 130
    assert "nothing was changed" not in ended.err.lower()
    shown = target.run("jobs", "show", job, "--json").json
    assert [t["name"] for t in shown["tables"]] == ["a1"]
    assert undo(target, job)["a1"]["deleted"] == 1
    assert target.database.psql("SELECT count(*) FROM a1") == "0"
