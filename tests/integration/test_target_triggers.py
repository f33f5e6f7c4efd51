"""Triggers and rules that fire although the replica role keeps the others quiet."""

from __future__ import annotations

import pytest

from peersync.core.errors import DatabaseError, VerifyFailed
from tests.integration.target_rig import Rig
from tests.plugins.clusters import MakeDatabase

TABLE = "CREATE TABLE items (id int PRIMARY KEY, name text, at text);"
STAMP = (
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$"
    "BEGIN IF NEW.id = 3 THEN RETURN NULL; END IF; {} RETURN NEW; END $$;"
    "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION stamp();"
    "ALTER TABLE items ENABLE ALWAYS TRIGGER stamp;"
)


@pytest.fixture(params=[15, 18])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    rig = Rig(make_database(18), make_database(request.param, nth=1, migrated=True))
    rig.source.psql(TABLE + "INSERT INTO items VALUES (1, 'a', ''), (2, 'b', 'here'), (3, 'c', '')")
    rig.target.psql(TABLE + "INSERT INTO items VALUES (9, 'own', '')")
    return rig


def test_rows_that_an_always_trigger_changes_or_drops_are_found(rig: Rig) -> None:
    rig.target.psql(STAMP.format("NEW.at := 'here';"))
    with pytest.raises(VerifyFailed, match="1 rows are missing and 1 differ") as caught:
        rig.sync()
    assert "Trigger stamp fires" in (caught.value.hint or "")
    assert rig.target.psql("SELECT count(*) FROM items") == "1"


def test_without_verification_the_counts_are_still_true(rig: Rig) -> None:
    rig.target.psql(STAMP.format("NEW.at := 'here';"))
    done = rig.sync(verify=False)["items"]
    assert (done.result, done.inserted, done.skipped, done.unchanged) == ("partly", 2, 1, 0)
    assert done.note is not None and "trigger stamp fires" in done.note
    assert "1 rows of the source are not in the table and 1 differ" in done.note
    assert rig.target.psql("SELECT id, at FROM items ORDER BY 1") == "1|here\n2|here\n9|"


def test_a_rule_that_swallows_rows_is_noticed_without_verification(rig: Rig) -> None:
    rig.target.psql(
        "CREATE RULE quiet AS ON INSERT TO items DO INSTEAD NOTHING;"
        "ALTER TABLE items ENABLE ALWAYS RULE quiet;"
    )
    done = rig.sync(verify=False)["items"]
    assert (done.result, done.inserted, done.skipped) == ("partly", 0, 3)
    assert "rule quiet fires" in (done.note or "")


def test_ordinary_triggers_are_looked_at_where_they_fire(rig: Rig) -> None:
    rig.target.psql(STAMP.format("") + "ALTER TABLE items ENABLE TRIGGER stamp;")
    assert rig.sync(verify=False, replica_role=False)["items"].skipped == 1
    assert rig.sync()["items"].result == "done"


def test_a_trigger_that_finds_no_name_says_why(rig: Rig) -> None:
    rig.target.psql(
        "CREATE TABLE seen (id int);" + STAMP.format("INSERT INTO seen VALUES (NEW.id);")
    )
    with pytest.raises(DatabaseError) as caught:
        rig.sync()
    said = caught.value.detail or ""
    assert 'relation "seen" does not exist' in said
    assert "trigger stamp fires here, with an empty search_path" in said
    assert "SET search_path" in said
