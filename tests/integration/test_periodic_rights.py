"""Periodic sync as a role that owns no table, and what operators meet around it."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

import pytest

from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.migrate import migrate
from tests.integration.log_rig import open_connection
from tests.integration.test_join import join, shows
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, Node, TwoNodes

ROLE = "bare"
TABLES = """
CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE bag (v text);
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (100);
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE child (id int PRIMARY KEY, item int REFERENCES item) ;
CREATE TABLE later (id int PRIMARY KEY, v text);
"""
ROWS = """
INSERT INTO item (name) SELECT 'item ' || n FROM generate_series(1, 50) AS n;
INSERT INTO bag VALUES ('one'), ('one'), ('two');
INSERT INTO parted SELECT n, 'p' FROM generate_series(1, 20) AS n;
INSERT INTO child SELECT n, n FROM generate_series(1, 20) AS n;
"""
CHANGES = """
UPDATE item SET name = 'new' WHERE id = {0};
INSERT INTO item OVERRIDING SYSTEM VALUE VALUES (100 + {0}, 'more');
DELETE FROM bag WHERE v = 'two';
INSERT INTO bag VALUES ('three');
UPDATE parted SET v = 'q' WHERE id = {0};
DELETE FROM child WHERE id = {0};
TRUNCATE later;
INSERT INTO later VALUES ({0}, 'x');
"""


@pytest.fixture
def bare_pair(
    request: pytest.FixtureRequest, make_database: MakeDatabase, make_node: MakeNode
) -> TwoNodes:
    """Two nodes whose role has nothing but schema peersync; a superuser owns the tables."""
    major = getattr(request, "param", 18)
    made = []
    for nth, letter in enumerate("ab"):
        database = make_database(major, nth=nth)
        database.cluster.createrole(ROLE, "LOGIN NOBYPASSRLS")
        database.psql(TABLES + f'GRANT CREATE ON DATABASE "{database.name}" TO {ROLE}')
        if letter == "a":
            database.psql(ROWS)
        conninfo = database.conninfo(user=ROLE)
        made.append(make_node(f"server-{letter}", database, conninfo=conninfo))
    both = TwoNodes(*made)
    both.target.pair_with(both.source)
    return both


def give(node: Node, mode: str) -> None:
    node.database.psql(node.run("grants", "--mode", mode, "--missing", "--sql").out)


def checks(node: Node) -> dict[str, dict[str, Any]]:
    found = node.run("check", "--json", check=False).json["checks"]
    return {c["name"]: c for c in found}


def wait_check(node: Node, name: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (found := checks(node)[name])["state"] != state:
        assert time.monotonic() < deadline, found
    return found


@pytest.mark.parametrize("bare_pair", [15, 18], indirect=True)
def test_what_grants_prints_is_enough_to_join_and_stay_in_step(bare_pair: TwoNodes) -> None:
    source, target = bare_pair
    give(source, "push")  # it can be read, and that is not enough
    refused = target.run("join", "server-a", "--yes", "--dry-run", check=False)
    assert refused.code == 1
    assert "On server-a" in refused.err and "--mode periodic --missing --sql" in refused.err
    give(source, "periodic")
    refused = target.run("join", "server-a", "--yes", check=False)
    assert refused.code == 8
    assert "On server-b, as a superuser" in refused.err and "GRANT" in refused.err
    assert target.database.psql("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^peer'") == "0"
    give(target, "join")
    join(target, source)
    assert_same_rows(source.database, target.database)
    for number, node in enumerate(bare_pair, 1):
        node.database.psql(CHANGES.format(number))
        node.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)
    assert source.database.psql("SELECT name FROM item WHERE id = 2") == "new"
    for node in bare_pair:
        node.database.psql("CREATE TABLE odd () INHERITS (parent)")
    source.database.psql("INSERT INTO odd VALUES (1, 'of a child'); INSERT INTO parent VALUES (2)")
    for node in (target, source):  # who takes a change before it may write it, quarantines it
        give(node, "periodic")
    shows(target.database, "SELECT count(*) FROM parent", "2")
    for node in bare_pair:
        found = checks(node)
        assert found["rights in shop"]["state"] in ("ok", "warning"), found
        assert found["captured tables of shop"]["state"] == "ok", found
        listed = node.run("grants", "--mode", "periodic", "--missing", "--json").json["databases"]
        assert [r["sql"] for d in listed for r in d["rights"]] == []


def test_a_table_that_is_not_captured_is_found_with_the_line_that_mends_it(
    bare_pair: TwoNodes,
) -> None:
    source, target = bare_pair
    give(source, "periodic")
    give(target, "join")
    join(target, source)
    source.database.psql("ALTER TABLE item DISABLE TRIGGER peersync_u")
    found = wait_check(source, "captured tables of shop", "failed")
    assert found["fix"] == "ALTER TABLE public.item ENABLE TRIGGER peersync_u;"
    assert "public.item" in source.run("status", check=False).err
    source.database.psql(found["fix"])
    wait_check(source, "captured tables of shop", "ok")

    source.database.psql("CREATE TABLE closed (id int PRIMARY KEY)")
    found = wait_check(source, "captured tables of shop", "failed")
    assert "public.closed" in found["text"]
    assert "peersync grants --mode periodic --missing --sql" in found["fix"]
    assert checks(source)["rights in shop"]["state"] == "failed"
    give(source, "periodic")
    wait_check(source, "captured tables of shop", "ok")
    target.database.psql("ALTER TABLE later RENAME COLUMN v TO w")
    source.database.psql("INSERT INTO later VALUES (1, 'x')")
    found = wait_check(target, "parked tables of shop", "warning")
    assert "public.later: 1 change wait" in found["text"] and "ALTER TABLE" in found["fix"]


def test_sequences_that_may_collide_are_a_warning_until_their_owner_has_set_them(
    bare_pair: TwoNodes,
) -> None:
    source, target = bare_pair
    give(source, "periodic")
    give(target, "join")
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    status = target.run("status")
    assert "sync" in status.out and "public.item_id_seq" in status.err
    assert "public.item_id_seq" in checks(target)["sequences of shop"]["text"]
    for node in bare_pair:
        assert node.run("sequences", "apply", check=False).code == 8
        node.database.psql(node.run("sequences", "plan", "--sql").out)
        node.run("sequences", "apply")
        assert node.run("status", "--json").json["databases"][0]["warnings"] == []
        assert checks(node)["sequences of shop"]["state"] == "ok"


def ours(database: Database) -> str:
    """Everything in the catalogs that has our name."""
    return database.psql(
        "SELECT nspname FROM pg_namespace WHERE nspname ~ 'peersync' UNION ALL"
        " SELECT tgname FROM pg_trigger WHERE tgname ~ 'peersync' UNION ALL"
        " SELECT proname FROM pg_proc WHERE prosrc ~ 'peersync' UNION ALL"
        " SELECT evtname FROM pg_event_trigger UNION ALL"
        " SELECT typname FROM pg_type WHERE typname ~ '^_?fields_'"
    )


def test_an_uninstalled_member_says_what_is_lost_and_keeps_nothing_of_ours(
    bare_pair: TwoNodes,
) -> None:
    source, target = bare_pair
    give(source, "periodic")
    give(target, "join")
    join(target, source)
    source.database.psql("UPDATE item SET name = 'fetched' WHERE id = 1")
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.stop()
    target.database.psql("UPDATE item SET name = 'unsent' WHERE id IN (2, 3)")
    told = target.run("uninstall", "--dry-run", "--json")
    assert told.json["member_with"] == ["server-a"]
    assert told.json["unsent"] == 2
    assert "peersync leave" in told.err and "2 changes of this server" in told.err
    target.run("uninstall", "--yes")
    assert ours(target.database) == ""
    target.database.psql("UPDATE item SET name = 'alone' WHERE id = 4; TRUNCATE later")
    assert target.database.psql("SELECT name FROM item WHERE id = 2") == "unsent"


def test_an_uninstall_by_a_superuser_takes_the_event_trigger_along(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(TABLES + ROWS)
    join(target, source)
    target.database.psql("UPDATE item SET name = 'applied' WHERE id = 1")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert source.database.psql("SELECT count(*) FROM pg_event_trigger") == "1"
    source.stop()
    gone = source.run("uninstall", "--yes", "--json").json["objects"]
    assert {"kind": "event trigger", "name": "peersync_ddl"} in gone
    assert any(o["kind"] == "type" and "fields_" in o["name"] for o in gone)
    assert ours(source.database) == ""


def test_a_dump_of_a_member_restores_elsewhere_and_is_freed_by_an_uninstall(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source, target = pair_18
    source.database.psql(TABLES + ROWS)
    join(target, source)
    source.database.psql("UPDATE item SET name = 'dumped' WHERE id = 1")
    target.run("sync", "now", "--wait", "--timeout", "60")
    copy = make_database(18, nth=2)
    binaries = source.database.cluster.bindir
    dump = subprocess.run(
        [binaries / "pg_dump", source.database.conninfo()],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ},
    ).stdout
    copy.psql(dump)  # it stops at the first error
    assert_same_rows(source.database, copy)
    copy.psql(CHANGES.format(3))
    assert copy.psql("SELECT name FROM item WHERE id = 3") == "new"
    assert int(copy.psql("SELECT count(*) FROM peersync.change")) > 0
    node = make_node("server-c", copy, start=False)
    assert "is a member of periodic sync" in node.run("uninstall", "--yes").err
    assert ours(copy) == ""
    copy.psql(CHANGES.format(4))


async def test_in_a_restored_database_a_number_that_another_table_had_confuses_nobody(
    database: Database,
) -> None:
    """The functions are named by oids, and a restored table has another one."""
    conn = await open_connection(database.url())
    try:
        await migrate(conn)
        await conn.execute("SET search_path = public")
        await conn.execute(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (k text PRIMARY KEY);"
            "INSERT INTO b VALUES ('kept')"
        )
        await enrol(conn, Patterns(["*"]), lock_timeout_s=5)
        tbl = dict(await conn.fetch("SELECT table_name, tbl FROM peersync.synced_table"))
        other = await conn.fetchval("SELECT 'b'::regclass::oid::int")
        for name, event, tables in (
            ("i", "INSERT", "REFERENCING NEW TABLE AS x"),
            ("t", "TRUNCATE", ""),
        ):
            await conn.execute(
                f"CREATE OR REPLACE TRIGGER peersync_{name} AFTER {event} ON a {tables}"
                f" FOR EACH STATEMENT EXECUTE FUNCTION peersync.capture_{other}()"
            )
        await conn.execute("INSERT INTO a VALUES (1, 'x')")
        await conn.execute("TRUNCATE a")
        log = await conn.fetch("SELECT tbl, op::text, key FROM peersync.change ORDER BY id")
        assert [tuple(row) for row in log] == [(tbl["a"], "I", "(1)"), (tbl["a"], "T", None)]
        await enrol(conn, Patterns(["*"]), lock_timeout_s=5)
        assert (
            await conn.fetchval(
                "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass AND tgfoid ="
                " to_regprocedure(format('peersync.capture_%s()', 'a'::regclass::oid))"
            )
            == 4
        )
    finally:
        await conn.close()
