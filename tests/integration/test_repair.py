"""`peersync repair`: rows that differ are made the same again, and that is proved."""

from __future__ import annotations

import pytest

from tests.integration.test_join import join, shows
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import TwoNodes

TABLES = """
CREATE TABLE item (id int PRIMARY KEY, name text);
CREATE TABLE "Odd *? T.x" (id int PRIMARY KEY, v text);
CREATE TABLE same (id int PRIMARY KEY);
INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 1000) AS n;
INSERT INTO "Odd *? T.x" VALUES (1, 'a'), (2, 'b');
INSERT INTO same SELECT generate_series(1, 100);
"""
# What no log has: a session that capture can't see.
DRIFT = """
SET session_replication_role = replica;
UPDATE item SET name = 'lost' WHERE id IN (1, 500); DELETE FROM item WHERE id = 7;
UPDATE "Odd *? T.x" SET v = 'lost' WHERE id = 2; INSERT INTO item VALUES (2000, 'only here');
"""


@pytest.fixture
def members(pair_18: TwoNodes) -> TwoNodes:
    source, target = pair_18
    source.database.psql(TABLES)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "30")
    return pair_18


def test_members_that_differ_are_the_same_again_by_the_side_that_is_right(
    members: TwoNodes,
) -> None:
    source, target = members
    assert target.run("repair", "server-a", "--from", "peer", "--yes").code == 0  # nothing to do
    target.database.psql(DRIFT)
    shown = target.run("repair", "server-a", "--from", "peer", "--dry-run")
    assert "differs" in shown.out and "same" not in shown.err
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "lost"
    asked = target.run("repair", "server-a", "--from", "peer", check=False)
    assert asked.code == 2 and "nobody is there to ask" in asked.err

    kept = target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
    assert kept.code == 4, kept.err  # the row that is only here stays
    assert "1 row only on the side that was changed" in kept.err
    assert target.database.psql("SELECT name FROM item WHERE id = 1").strip() == "item 1"
    whole = target.run("repair", "server-a", "--from", "peer", "--mirror", "--yes", "--json")
    assert whole.code == 0
    assert (whole.json["before"]["result"], whole.json["after"]["result"]) == (
        "differs",
        "identical",
    )
    assert_same_rows(source.database, target.database)

    target.database.psql("UPDATE item SET name = 'goes on' WHERE id = 1")
    shows(source.database, "SELECT name FROM item WHERE id = 1", "goes on")
    target.run("sync", "now", "--wait", "--timeout", "30")
    assert target.run("verify", "server-a").code == 0


def test_the_other_side_is_repaired_from_here_and_what_was_changed_can_be_put_back(
    members: TwoNodes,
) -> None:
    source, target = members
    source.run("peer", "allow", "server-b", "--push")
    source.database.psql(DRIFT)
    done = target.run("repair", "server-a", "--from", "this", "--mirror", "--yes", "--json")
    assert done.json["after"]["result"] == "identical"
    assert_same_rows(source.database, target.database)
    source.run("undo", done.json["sync"]["session"], "--yes")
    assert source.database.psql("SELECT name FROM item WHERE id = 500").strip() == "lost"


def test_a_row_that_is_newer_than_the_comparison_is_kept(
    members: TwoNodes,
) -> None:
    """Nobody has fetched it: it is no drift, and no repair may undo it."""
    source, target = members
    target.database.psql(DRIFT)
    target.run("sync", "pause")
    source.run("sync", "pause")
    target.database.psql("UPDATE item SET name = 'newer' WHERE id = 500")
    target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
    assert target.database.psql("SELECT name FROM item WHERE id = 500").strip() == "newer"
