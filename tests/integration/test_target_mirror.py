"""`--mirror`: what only the target has goes, as far as nothing that stays refers to it."""

from __future__ import annotations

import pytest

from peersync.core.errors import VerifyFailed
from peersync.core.names import TableName
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import assert_same_rows, stored

SHOP = (
    "CREATE TABLE shops (id int PRIMARY KEY, town text);"
    "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops ON DELETE CASCADE);"
    "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree);"
    "CREATE TABLE loose (v text, n int);"
    "CREATE TABLE empty ();"
)


@pytest.fixture(params=[15, 18])
def rig(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Rig:
    rig = Rig(make_database(18), make_database(request.param, nth=1, migrated=True))
    for side in (rig.source, rig.target):
        side.psql(SHOP)
    rig.source.psql(
        "INSERT INTO shops VALUES (1, 'Ulm'), (2, 'Graz'); INSERT INTO orders VALUES (10, 1);"
        "INSERT INTO tree VALUES (1, NULL), (2, 1);"
        "INSERT INTO loose VALUES ('a', 1), ('a', 1), ('b', NULL);"
        "INSERT INTO empty DEFAULT VALUES;"
    )
    rig.target.psql(
        "INSERT INTO shops VALUES (1, 'old'), (8, 'own'), (9, 'own');"
        "INSERT INTO orders VALUES (11, 9), (12, 1), (13, NULL);"
        "INSERT INTO tree VALUES (1, NULL), (5, 1), (6, 5), (7, 8), (8, 7);"
        "INSERT INTO loose VALUES ('a', 1), ('a', 1), ('a', 1), ('c', 2), ('b', NULL), ('b', NULL);"
        "INSERT INTO empty DEFAULT VALUES; INSERT INTO empty DEFAULT VALUES;"
    )
    return rig


@pytest.mark.parametrize("replica_role", [True, False])
def test_the_target_is_the_source_afterwards(rig: Rig, replica_role: bool) -> None:
    if not replica_role:  # a circle of rows can only be deleted where checks can wait
        rig.target.psql("UPDATE tree SET up = NULL WHERE id = 7")
    done = rig.sync(mirror=True, replica_role=replica_role)
    assert_same_rows(rig.source, rig.target)
    assert {n: (t.result, t.deleted, t.target_only) for n, t in done.items()} == {
        "shops": ("done", 2, 0),
        "orders": ("done", 3, 0),
        "tree": ("done", 4, 0),
        "loose": ("done", 3, 0),
        "empty": ("done", 1, 0),
    }
    assert (done["shops"].inserted, done["shops"].updated) == (1, 1)
    kept, again = stored(rig.target), rig.sync(mirror=True)
    assert {t.deleted for t in again.values()} == {0}
    assert stored(rig.target) == kept


def test_without_it_nothing_is_deleted(rig: Rig) -> None:
    done = rig.sync()
    assert {n: (t.deleted, t.target_only) for n, t in done.items()} == {
        "shops": (0, 2),
        "orders": (0, 3),
        "tree": (0, 4),
        "loose": (0, 3),
        "empty": (0, 1),
    }


@pytest.mark.parametrize("replica_role", [True, False])
@pytest.mark.parametrize("rule", ["NO ACTION", "CASCADE", "SET NULL"])
def test_rows_that_other_tables_refer_to_stay_and_are_counted(
    rig: Rig, rule: str, replica_role: bool
) -> None:
    rig.target.psql(
        f"CREATE TABLE ours (id int PRIMARY KEY, shop int REFERENCES shops ON DELETE {rule},"
        f" node int REFERENCES tree ON DELETE {rule});"
        "INSERT INTO ours VALUES (1, 9, NULL), (2, NULL, 6); UPDATE tree SET up = 1 WHERE id = 7"
    )
    done = rig.sync(mirror=True, replica_role=replica_role)
    assert broken_foreign_keys(rig.target) == ""
    assert rig.target.psql("SELECT id, shop, node FROM ours ORDER BY 1") == "1|9|\n2||6"
    shops, tree = done["shops"], done["tree"]
    assert (shops.result, shops.deleted, shops.target_only) == ("partly", 1, 1)
    assert shops.note == (
        "1 rows that the source does not have stay, because rows of public.ours refer to them"
    )
    # 6 is referred to from outside, and 5 by 6
    assert rig.target.psql("SELECT id FROM tree ORDER BY 1").split() == ["1", "2", "5", "6"]
    assert (tree.deleted, tree.target_only) == (2, 2)
    assert rig.target.psql("SELECT id FROM shops ORDER BY 1").split() == ["1", "2", "9"]
    assert done["orders"].deleted == 3  # nothing refers to an order


def test_a_row_that_goes_is_not_in_the_way_of_one_that_comes(rig: Rig) -> None:
    for side in (rig.source, rig.target):
        side.psql("CREATE TABLE mail (id int PRIMARY KEY, address text UNIQUE)")
    rig.source.psql("INSERT INTO mail VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    rig.target.psql("INSERT INTO mail VALUES (7, 'a'), (8, 'x'), (3, 'b')")
    mail = rig.sync(mirror=True)["mail"]
    assert (mail.result, mail.deleted, mail.inserted, mail.updated) == ("done", 2, 2, 1)
    assert_same_rows(rig.source, rig.target)


def test_what_is_left_out_or_partial_or_failed_is_not_deleted(rig: Rig) -> None:
    rig.source.psql("ALTER TABLE shops ADD u int; UPDATE shops SET u = id")
    rig.target.psql(
        "ALTER TABLE shops ADD u int UNIQUE; UPDATE shops SET u = 2 WHERE id = 1;"
        "ALTER TABLE orders ADD CHECK (id <> 10)"
    )
    done = rig.sync(mirror=True, partial=[TableName("public", "tree")])
    assert (done["orders"].result, done["orders"].deleted) == ("failed", 0)
    assert rig.target.psql("SELECT count(*) FROM orders") == "3"
    assert (done["tree"].deleted, done["tree"].target_only) == (0, 4)
    assert "the source keeps rows to itself" in (done["tree"].note or "")
    assert broken_foreign_keys(rig.target) == ""
    assert done["shops"].deleted == 1  # 9 is referred to by an order that stays


def test_a_trigger_that_keeps_rows_from_being_deleted_is_found(rig: Rig) -> None:
    rig.target.psql(
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER never BEFORE DELETE ON shops FOR EACH ROW EXECUTE FUNCTION never();"
        "ALTER TABLE shops ENABLE ALWAYS TRIGGER never"
    )
    with pytest.raises(VerifyFailed, match=r"public\.shops: 2 rows .* were not deleted"):
        rig.sync(mirror=True)
    assert rig.target.psql("SELECT count(*) FROM orders") == "3"


def test_a_right_that_is_missing_leaves_the_table_and_says_so(
    rig: Rig, make_database: MakeDatabase
) -> None:
    rig.target.psql(
        "ALTER TABLE shops OWNER TO postgres;"
        "DO $$ BEGIN CREATE ROLE writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer;"
        "REVOKE DELETE ON loose FROM writer;"
    )
    rig.sync()  # makes schema peersync
    rig.target.psql(
        "GRANT ALL ON SCHEMA peersync TO writer; GRANT ALL ON ALL TABLES IN SCHEMA peersync"
        " TO writer; GRANT SET ON PARAMETER session_replication_role TO writer"
    )
    with rig.staged() as session:
        session.connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA peersync TO writer")
        session.connection.execute("SET ROLE writer")
        done = session.commit(mirror=True)
        session.connection.execute("RESET ROLE")
    assert (done["loose"].result, done["loose"].deleted, done["loose"].target_only) == (
        "partly", 0, 3,
    )  # fmt: skip
    assert "permission denied for table loose" in (done["loose"].error or "")
    assert 'GRANT DELETE ON TABLE "public"."loose" TO' in (done["loose"].error or "")
    assert (done["shops"].result, done["shops"].deleted) == ("done", 2)
