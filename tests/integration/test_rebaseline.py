"""Coming back: after a restored backup, with changes that nobody has fetched."""

from __future__ import annotations

import json
import shutil

import pgcluster
import psycopg

from tests.integration.test_join import ITEMS, join, shows
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, TwoNodes


def sql_on_server(database: Database, *statements: str) -> None:
    for statement in statements:
        database.cluster.psql(statement, "postgres", user=pgcluster.SUPERUSER)


def keep_copy(database: Database) -> None:
    sql_on_server(database, f"CREATE DATABASE {database.name}_old TEMPLATE {database.name}")


def restore_copy(database: Database) -> None:
    sql_on_server(
        database,
        f"DROP DATABASE {database.name}",
        f"ALTER DATABASE {database.name}_old RENAME TO {database.name}",
    )


def test_a_restored_backup_is_held_and_comes_back_with_its_own_work(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    source.database.psql("CREATE TABLE visit (who text)")
    join(target, source)
    target.database.psql("UPDATE item SET name = 'before' WHERE id = 1")
    target.run("sync", "now", "--wait", "--timeout", "60")

    target.stop()
    target.database.psql("INSERT INTO visit VALUES ('in the backup, given only after it')")
    keep_copy(target.database)
    target.start()
    target.database.psql("UPDATE item SET name = 'lost by the restore' WHERE id = 2")
    target.database.psql("DELETE FROM note WHERE item = 3")
    target.run("sync", "now", "--wait", "--timeout", "60")

    target.stop()
    restore_copy(target.database)
    target.database.psql("UPDATE item SET name = 'after the restore' WHERE id = 4")
    target.database.psql("UPDATE item SET name = 'older' WHERE id = 5")
    target.start()
    shows(target.database, "SELECT state FROM peersync.replica", "held")
    status = target.run("status", check=False)
    assert status.code != 0
    assert "peersync rebaseline server-a" in status.out
    source.database.psql("UPDATE item SET name = 'newer' WHERE id = 5")

    target.run("rebaseline", "server-a", "--yes")
    shows(source.database, "SELECT name FROM item WHERE id = 4", "after the restore")
    assert target.database.psql("SELECT name FROM item WHERE id = 2").strip() == (
        "lost by the restore"
    )
    assert target.database.psql("SELECT count(*) FROM note WHERE item = 3").strip() == "0"
    shows(target.database, "SELECT name FROM item WHERE id = 5", "newer")
    assert target.database.psql("SELECT count(*) FROM visit").strip() == "1"  # not made again
    lost = target.run("conflicts", "list", "--open", "--json").out
    assert "item" in lost
    assert "it may have been sent before" in lost
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)

    source.database.psql("UPDATE item SET name = 'goes on' WHERE id = 6")
    shows(target.database, "SELECT name FROM item WHERE id = 6", "goes on")


def test_a_rebaseline_that_is_cancelled_loses_nothing(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    source.stop()
    target.database.psql("UPDATE item SET name = 'unsent' WHERE id = 1")
    refused = target.run("rebaseline", "server-a", "--yes", check=False)
    assert refused.code == 5
    source.start()
    shows(source.database, "SELECT name FROM item WHERE id = 1", "unsent")
    target.run("rebaseline", "server-a", "--yes")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)


def test_a_clone_becomes_a_node_of_its_own(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    """A machine is copied with its state directory and its database, and then writes."""
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.stop()
    database = make_database(18, template=target.database.name, nth=1)
    clone = make_node("server-c", database, start=False)
    shutil.rmtree(clone.home / "state")
    shutil.copytree(target.home / "state", clone.home / "state")
    target.start()
    database.psql("UPDATE item SET name = 'from the clone' WHERE id = 9")
    clone.run("node", "reset-identity", "--yes")
    clone.start()
    shows(database, "SELECT state FROM peersync.replica", "held")
    clone.pair_with(source)
    clone.run("rebaseline", "server-a", "--yes")
    shows(source.database, "SELECT name FROM item WHERE id = 9", "from the clone")
    shows(target.database, "SELECT name FROM item WHERE id = 9", "from the clone")
    target.database.psql("UPDATE item SET name = 'from the original' WHERE id = 10")
    shows(database, "SELECT name FROM item WHERE id = 10", "from the original")
    assert_same_rows(source.database, database)
    assert_same_rows(source.database, target.database)


def test_what_a_copy_wrote_under_numbers_that_the_original_used_is_kept(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    """A whole machine is copied, both run, and nobody gives the copy an identity of its own."""
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.database.psql("UPDATE item SET name = 'both have it' WHERE id = 1")
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.stop()
    database = make_database(18, template=target.database.name, nth=1)
    clone = make_node("server-c", database, start=False)
    shutil.rmtree(clone.home / "state")
    shutil.copytree(target.home / "state", clone.home / "state")
    # As a copy of PostgreSQL's files would be: the log is at home there, too.
    (mark,) = (clone.home / "state").rglob("shop.json")
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "home": ""}))
    target.start()
    for name in ("one", "two"):
        target.database.psql(f"UPDATE item SET name = '{name}' WHERE id = 10")
        target.run("sync", "now", "--wait", "--timeout", "60")
    database.psql("INSERT INTO item VALUES (900, 'from the copy')")
    with psycopg.connect(database.conninfo(), autocommit=True) as session:
        session.execute("SELECT peersync.publish()")  # as its agent does before it meets anybody
    clone.start()
    shows(database, "SELECT state FROM peersync.replica", "held")
    status = clone.run("status", check=False).out
    assert "peersync node reset-identity" in status
    clone.run("rebaseline", "server-a", "--yes")
    found = clone.run("conflicts", "list", "--open", "--json").json["conflicts"]
    assert "(900)" in [c["key"] for c in found], found


def test_rows_without_a_key_come_back_too(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        ITEMS + "CREATE TABLE bag (a int, b text);"
        "INSERT INTO bag SELECT n, 'row' FROM generate_series(1, 5) AS n"
    )
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.stop()
    target.database.psql("INSERT INTO bag VALUES (100, 'unsent'); DELETE FROM bag WHERE a = 1")
    source.database.psql("DELETE FROM bag WHERE a = 2")
    source.run("members", "expire", "server-b", "--yes", "--force")
    target.start()
    target.run("rebaseline", "server-a", "--yes")
    shows(source.database, "SELECT string_agg(a::text, ',' ORDER BY a) FROM bag", "1,3,4,5,100")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)
    assert (
        "bag" in target.run("conflicts", "list", "--open", "--json").out
    )  # the row that came back


def test_a_join_that_was_cancelled_leaves_no_member(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    target.run("join", "server-a", "--yes", "--no-wait", "--bandwidth", "2KiB")
    shows(source.database, "SELECT count(*) FROM peersync.member WHERE state = 'member'", "2")
    job = target.run("jobs", "list", "--json").json["jobs"][0]["id"]
    target.run("jobs", "cancel", job)
    shows(source.database, "SELECT count(*) FROM peersync.member WHERE state = 'member'", "1")
    shows(target.database, "SELECT count(*) FROM peersync.replica", "0")
