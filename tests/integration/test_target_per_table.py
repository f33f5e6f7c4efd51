"""One transaction a table: what fails takes nothing else with it, and the record says what is."""

from __future__ import annotations

import psycopg
import pytest

from peersync.core.errors import DatabaseUnreachable, Locked, PeersyncError
from peersync.postgres.load import TableLoad
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import assert_same_rows

SHAPE = (
    "CREATE TABLE shops (id int PRIMARY KEY, town text);"
    "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops);"
    "CREATE TABLE zones (id int PRIMARY KEY);"
    "CREATE TABLE a (id int PRIMARY KEY, b int);"
    "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);"
    "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;"
)


@pytest.fixture(params=[15, 18])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    rig = Rig(make_database(18), make_database(request.param, nth=1, migrated=True))
    for side in (rig.source, rig.target):
        side.psql(SHAPE)
    rig.source.psql(
        "INSERT INTO shops VALUES (1, 'Ulm'), (2, 'Graz');"
        "INSERT INTO orders VALUES (10, 1), (11, 2); INSERT INTO zones VALUES (1);"
        "INSERT INTO a VALUES (1, NULL); INSERT INTO b VALUES (1, 1); UPDATE a SET b = 1;"
    )
    rig.target.psql("INSERT INTO shops VALUES (9, 'own'); INSERT INTO orders VALUES (19, 9)")
    return rig


def test_each_table_is_committed_by_itself_and_all_of_it_in_the_end(rig: Rig) -> None:
    seen: list[tuple[str, str]] = []

    def verified(load: TableLoad) -> None:
        count = rig.target.psql("SELECT count(*) FROM shops WHERE id < 3")
        seen.append((load.table.name.name, count))

    done = rig.sync(per_table=True, verified=verified)
    assert dict(seen)["shops"] == "0"
    assert dict(seen)["orders"] == "2"  # its parent was committed before
    assert {t.result for t in done.values()} == {"done"}
    record = rig.record()
    assert record["committed"] and record["baselines"] == 1
    assert record["tables"].keys() == {"shops", "orders", "zones", "a", "b"}


def test_a_table_that_fails_takes_only_its_children_with_it(rig: Rig) -> None:
    rig.target.psql(
        "CREATE FUNCTION wrong() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.town := ''x''; RETURN NEW; END';"
        "CREATE TRIGGER wrong BEFORE INSERT ON shops FOR EACH ROW EXECUTE FUNCTION wrong();"
        "ALTER TABLE shops ENABLE ALWAYS TRIGGER wrong"
    )
    done = rig.sync(per_table=True)
    assert done["shops"].result == "failed"
    assert "2 differ from what the source sent" in (done["shops"].error or "")
    assert (done["orders"].result, done["orders"].skipped) == ("partly", 2)
    assert (done["zones"].result, done["a"].result, done["b"].result) == ("done",) * 3
    assert rig.target.psql("SELECT id, town FROM shops") == "9|own"
    assert broken_foreign_keys(rig.target) == ""
    record = rig.record()
    assert record["committed"] and record["baselines"] == 0  # nothing may be claimed of it


def test_a_locked_table_is_passed_over(rig: Rig) -> None:
    with psycopg.connect(rig.target.conninfo()) as other:
        other.execute("LOCK TABLE zones IN EXCLUSIVE MODE")
        done = rig.sync(per_table=True, lock_timeout_s=1)
    assert done["zones"].result == "failed"
    assert "public.zones is locked by pid" in (done["zones"].error or "")
    assert {done[n].result for n in ("shops", "orders", "a", "b")} == {"done"}
    again = rig.sync(per_table=True)
    assert (again["zones"].inserted, again["shops"].unchanged) == (1, 2)


def test_a_break_in_the_middle_leaves_what_the_record_says_and_can_be_repeated(rig: Rig) -> None:
    def restored(load: TableLoad) -> None:
        if load.table.name.name == "zones":
            rig.target.cluster.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'peersync/rig'",
                rig.target.name,
            )

    with pytest.raises((DatabaseUnreachable, psycopg.Error, PeersyncError)):
        rig.sync(per_table=True, restored=restored)
    record = rig.record()
    assert (record["committed"], record["baselines"]) == (False, 0)
    assert record["tables"].keys() == {"a", "b", "shops", "orders"}
    for name, table in record["tables"].items():
        assert table["result"] == "done"
        assert int(rig.target.psql(f"SELECT count(*) FROM {name}")) >= table["source"]
    assert rig.target.psql("SELECT count(*) FROM zones") == "0"
    done = rig.sync(per_table=True)
    assert (done["zones"].inserted, done["shops"].unchanged) == (1, 2)


def test_who_lost_the_lease_commits_nothing_more(rig: Rig) -> None:
    def restored(load: TableLoad) -> None:
        if load.table.name.name == "a":
            seen.append(1)

    seen: list[int] = []
    with rig.staged() as session:
        rig.target.psql("UPDATE peersync.leases SET fence = 2")
        with pytest.raises(Locked, match="another full sync has taken over"):
            session.commit(per_table=True, restored=restored)
    assert not seen and rig.target.psql("SELECT count(*) FROM a") == "0"


def test_a_mirror_deletes_table_by_table_children_first(rig: Rig) -> None:
    done = rig.sync(per_table=True, mirror=True)
    assert_same_rows(rig.source, rig.target)
    assert (done["shops"].deleted, done["orders"].deleted) == (1, 1)
    assert {t.result for t in done.values()} == {"done"}
    rig.target.psql("INSERT INTO shops VALUES (9, 'own'); INSERT INTO orders VALUES (19, 9)")
    rig.target.psql(
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER never BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION never();"
        "ALTER TABLE orders ENABLE ALWAYS TRIGGER never"
    )
    done = rig.sync(per_table=True, mirror=True)
    assert (done["orders"].result, done["orders"].deleted) == ("partly", 0)
    assert "1 rows that only this database has were not deleted" in (done["orders"].error or "")
    assert done["shops"].note is not None and "rows of public.orders refer" in done["shops"].note
    assert broken_foreign_keys(rig.target) == ""
