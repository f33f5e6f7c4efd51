"""Becoming a member: two databases that keep each other up to date after one command."""

from __future__ import annotations

import time

import pytest

from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, Node, TwoNodes
from tests.plugins.waiting import eventually

ITEMS = """
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2));
CREATE TABLE note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                   item int REFERENCES item, body text);
INSERT INTO item SELECT n, 'item ' || n, n * 1.25 FROM generate_series(1, 500) AS n;
INSERT INTO note (item, body) SELECT n, 'about ' || n FROM generate_series(1, 500) AS n;
"""


def join(node: Node, peer: Node, verb: str = "join", *options: str) -> None:
    node.run(verb, peer.name, "--yes", "--json", *options)


def shows(database: Database, sql: str, expected: str) -> None:
    """Waits until a query gives this."""
    found = ""

    def ready() -> bool:
        nonlocal found
        found = database.psql(sql).strip()
        return found == expected

    try:
        eventually(f"{expected!r} from {sql}", ready)
    except AssertionError as late:
        raise AssertionError(f"{late}, only {found!r}") from None


def test_after_a_join_changes_go_both_ways(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(ITEMS)
    join(target, source)
    assert_same_rows(source.database, target.database)

    source.database.psql("UPDATE item SET name = 'from a' WHERE id = 1")
    target.database.psql("UPDATE item SET name = 'from b' WHERE id = 2")
    target.database.psql("DELETE FROM note WHERE item = 3; DELETE FROM item WHERE id = 3")
    source.database.psql("INSERT INTO item VALUES (1001, 'new', 1)")
    shows(target.database, "SELECT name FROM item WHERE id = 1", "from a")
    shows(source.database, "SELECT name FROM item WHERE id = 2", "from b")
    shows(source.database, "SELECT count(*) FROM item WHERE id = 3", "0")
    shows(target.database, "SELECT name FROM item WHERE id = 1001", "new")
    for node in two_nodes:
        node.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)


def test_what_people_write_during_a_join_stays_and_is_sent(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    target.run("pull", "server-a", "--yes")
    target.run("join", "server-a", "--yes", "--no-wait", "--bandwidth", "20kB")
    shows(target.database, "SELECT count(*) FROM peersync.replica", "1")
    target.database.psql("UPDATE item SET name = 'early' WHERE id = 7")
    target.database.psql("DELETE FROM note WHERE item = 8")
    target.database.psql("INSERT INTO item VALUES (2001, 'early too', 1)")
    source.database.psql("UPDATE item SET name = 'meanwhile' WHERE id = 9")
    shows(source.database, "SELECT name FROM item WHERE id = 7", "early")
    shows(source.database, "SELECT count(*) FROM note WHERE item = 8", "0")
    shows(source.database, "SELECT name FROM item WHERE id = 2001", "early too")
    shows(target.database, "SELECT name FROM item WHERE id = 9", "meanwhile")
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)


def test_rows_that_nobody_else_has_are_not_forgotten(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in pair_18:
        node.database.psql(ITEMS)
    source.database.psql("INSERT INTO item VALUES (3001, 'only a', 1)")
    target.database.psql("INSERT INTO item VALUES (4001, 'only b', 1)")
    refused = target.run("join", "server-a", "--yes", check=False)
    assert refused.code == 1
    assert "peersync merge server-a" in refused.err

    join(target, source, "merge")
    shows(source.database, "SELECT name FROM item WHERE id = 4001", "only b")
    shows(target.database, "SELECT name FROM item WHERE id = 3001", "only a")
    assert_same_rows(source.database, target.database)


def test_a_third_node_joins_one_and_follows_both(
    pair_18: TwoNodes, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    first, second = pair_18
    first.database.psql(ITEMS)
    join(second, first)
    third = make_node("server-c", make_database(18, nth=2))
    third.pair_with(second)  # it knows the second alone: the second relays
    join(third, second)
    first.database.psql("UPDATE item SET name = 'far' WHERE id = 1")
    third.database.psql("UPDATE item SET name = 'away' WHERE id = 2")
    shows(third.database, "SELECT name FROM item WHERE id = 1", "far")
    shows(first.database, "SELECT name FROM item WHERE id = 2", "away")
    assert_same_rows(first.database, third.database)


def test_leaving_keeps_the_rows_and_ends_the_capture(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.database.psql("UPDATE item SET name = 'last word' WHERE id = 5")
    target.run("leave", "--yes")
    shows(source.database, "SELECT name FROM item WHERE id = 5", "last word")
    target.database.psql("UPDATE item SET name = 'alone' WHERE id = 6")
    assert (
        target.database.psql(
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'peersync%'"
        ).strip()
        == "0"
    )
    time.sleep(1)
    assert source.database.psql("SELECT name FROM item WHERE id = 6").strip() == "item 6"
    join(target, source, "join", "--mirror")
    assert_same_rows(source.database, target.database)


def test_what_waited_before_a_new_join_never_overwrites_what_it_brought(pair_18: TwoNodes) -> None:
    """Nor does anybody join from a database that lacks what waits."""
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    target.database.psql(
        "ALTER TABLE item ADD CHECK (price < 1000); ALTER TABLE note DROP COLUMN body"
    )
    source.database.psql("UPDATE item SET price = 5000 WHERE id = 1")
    source.database.psql("UPDATE note SET body = 'old' WHERE item = 2")
    shows(target.database, "SELECT count(*) FROM peersync.quarantine WHERE state = 'waiting'", "2")
    refused = source.run("rebaseline", "server-b", "--yes", check=False)
    assert refused.code != 0 and "2 changes in its quarantine" in refused.err
    target.run("leave", "--yes")
    target.database.psql(
        "ALTER TABLE item DROP CONSTRAINT item_price_check; ALTER TABLE note ADD COLUMN body text"
    )
    source.database.psql("UPDATE item SET price = 7 WHERE id = 1")
    source.database.psql("UPDATE note SET body = 'new' WHERE item = 2")
    source.run("sync", "now", "--timeout", "5", check=False)
    join(target, source, "join", "--mirror")
    target.run("quarantine", "retry", "--all", check=False)
    target.run("sync", "now", "--wait", "--timeout", "60")
    assert_same_rows(source.database, target.database)
    assert target.database.psql("SELECT price FROM item WHERE id = 1").strip() == "7.00"


@pytest.mark.parametrize("option", ["--no-wait", "--json"])
def test_a_member_can_not_join_again(pair_18: TwoNodes, option: str) -> None:
    source, target = pair_18
    source.database.psql(ITEMS)
    join(target, source)
    refused = target.run("join", "server-a", "--yes", option, check=False)
    assert refused.code == 1
    assert "takes part in periodic sync already" in refused.err


def test_a_value_of_another_unique_key_that_both_have_is_named(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in pair_18:
        node.database.psql("CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE)")
    source.database.psql("INSERT INTO users VALUES (1, 'x@y')")
    target.database.psql("INSERT INTO users VALUES (2, 'x@y')")
    refused = target.run("merge", "server-a", "--yes", check=False)
    assert refused.code == 4
    assert "1 row collides with a row here on another unique key" in refused.err
    assert "left out: the row with the key (1) (users_email_key" in refused.err
    select = 'SELECT "id", "email" FROM "public"."users" WHERE ("id") IN ((\'1\'))'
    assert select in refused.err
    assert source.database.psql(select).strip() == "1|x@y"


def test_rows_that_a_join_leaves_out_are_said_until_they_are_proved(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        ITEMS + "SET session_replication_role = replica; DELETE FROM item WHERE id = 500"
    )
    joined = target.run("join", "server-a", "--yes", check=False)
    assert joined.code == 3
    assert "1 row refers to a row of public.item that is not here" in joined.out + joined.err
    assert "peersync repair server-a --database shop --from peer" in joined.err

    def states(node: Node) -> list[str]:
        return [one["state"] for one in node.run("status", "--json", check=False).json["links"]]

    eventually("it is said where rows came", lambda: states(target) == ["partly"])
    eventually("it is said where they came from", lambda: states(source) == ["partly"])
    said = target.run("status", check=False)
    assert said.code == 1
    assert "peersync verify server-a" in said.out
    source.database.psql("DELETE FROM note WHERE item = 500")
    target.run("sync", "now", "--wait", "--timeout", "60")
    target.run("verify", "server-a")
    assert states(target) == ["in sync"]
