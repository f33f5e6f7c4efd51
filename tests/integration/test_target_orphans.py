"""Rows are left out where their parents are: no foreign key of the target is ever broken."""

from __future__ import annotations

import psycopg
import pytest

from peersync.core.errors import DatabaseError
from peersync.postgres.load import TableLoad
from tests.integration.target_rig import Rig, broken_foreign_keys
from tests.plugins.clusters import Database, MakeDatabase

pytestmark = pytest.mark.parametrize("major", [15, 18])

SHOPS = "CREATE TABLE shops (id int PRIMARY KEY, town text UNIQUE);"
ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops, note text);"
LINES = (
    "CREATE TABLE lines (id int PRIMARY KEY, ord int NOT NULL REFERENCES orders, n int);"
    "CREATE TABLE loose (ord int REFERENCES orders, v text);"
)


@pytest.fixture
def rig(major: int, make_database: MakeDatabase) -> Rig:
    return Rig(make_database(18), make_database(major, nth=1, migrated=True))


def both(rig: Rig, sql: str) -> None:
    rig.source.psql(sql)
    rig.target.psql(sql)


def test_what_refers_to_a_row_that_collides_is_left_out_down_to_the_last_child(rig: Rig) -> None:
    both(rig, SHOPS + ORDERS + LINES)
    rig.source.psql(
        "INSERT INTO shops VALUES (1, 'Ulm'), (2, 'Graz');"
        "INSERT INTO orders VALUES (10, 1, 'new'), (11, 2, 'new'), (12, NULL, 'new'),"
        " (13, 2, 'new');"
        "INSERT INTO lines VALUES (100, 10, 1), (101, 11, 1), (102, 12, 1);"
        "INSERT INTO loose VALUES (10, 'a'), (11, 'b'), (11, 'b'), (NULL, 'c');"
    )
    rig.target.psql(
        "INSERT INTO shops VALUES (1, 'Ulm'), (9, 'Graz');"
        "INSERT INTO orders VALUES (10, 1, 'old'), (13, 9, 'old');"
        "INSERT INTO lines VALUES (103, 13, 1);"
    )
    done = rig.sync()
    assert broken_foreign_keys(rig.target) == ""
    assert (done["shops"].result, done["shops"].skipped) == ("partly", 1)
    orders = done["orders"]
    assert (orders.result, orders.skipped, orders.inserted, orders.updated) == ("partly", 2, 1, 1)
    assert orders.note is not None
    assert "2 rows refer to rows of public.shops that are not here and were left out" in orders.note
    assert orders.target_only == 0  # 13 stays as it was, but the source has it, too
    assert rig.target.psql("SELECT id, shop, note FROM orders ORDER BY 1") == (
        "10|1|new\n12||new\n13|9|old"
    )
    assert (done["lines"].skipped, done["lines"].target_only) == (1, 1)
    assert rig.target.psql("SELECT id FROM lines ORDER BY 1") == "100\n102\n103"
    assert (done["loose"].skipped, done["loose"].inserted) == (2, 2)


def test_children_of_tables_that_are_blocked_failed_or_not_part_of_it(rig: Rig) -> None:
    both(rig, SHOPS + ORDERS)
    rig.source.psql(
        "INSERT INTO shops SELECT i, i FROM generate_series(1, 4) i;"
        "INSERT INTO orders SELECT i, i, 'x' FROM generate_series(1, 4) i"
    )
    rig.target.psql("INSERT INTO shops VALUES (1, '1')")
    assert rig.sync(blocked=["shops"])["orders"].skipped == 3
    assert rig.sync(without=["shops"])["orders"].skipped == 3
    rig.target.psql("ALTER TABLE shops ADD CHECK (id < 4)")
    done = rig.sync()
    assert (done["shops"].result, done["orders"].result) == ("failed", "partly")
    assert rig.target.psql("SELECT id FROM orders") == "1"
    assert broken_foreign_keys(rig.target) == ""
    rig.target.psql("ALTER TABLE shops DROP CONSTRAINT shops_id_check")
    done = rig.sync()
    assert {t.result for t in done.values()} == {"done"}
    assert done["orders"].inserted == 3


def test_trees_and_circles_lose_no_more_than_what_hangs_on_the_missing_row(rig: Rig) -> None:
    both(
        rig,
        "CREATE TABLE nodes (id int PRIMARY KEY, up int REFERENCES nodes, u int UNIQUE);"
        "CREATE TABLE a (id int PRIMARY KEY, b int, u int UNIQUE);"
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);"
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;",
    )
    rig.source.psql(
        "INSERT INTO nodes SELECT i, nullif(i / 2, 0), i FROM generate_series(1, 40) i;"
        "INSERT INTO a SELECT i, NULL, i FROM generate_series(1, 6) i;"
        "INSERT INTO b SELECT i, i FROM generate_series(1, 6) i;"
        "UPDATE a SET b = id - 1 WHERE id > 1"  # a2 → b1 → a1; a6 → b5 → a5 → …
    )
    rig.target.psql("INSERT INTO nodes VALUES (99, NULL, 3); INSERT INTO a VALUES (77, NULL, 4)")
    done = rig.sync()
    assert broken_foreign_keys(rig.target) == ""
    below = [str(n) for n in (3, 6, 7, *range(12, 16), *range(24, 32))]
    gone = rig.target.psql(
        "SELECT i FROM generate_series(1, 40) i WHERE i NOT IN (SELECT id FROM nodes) ORDER BY 1"
    )
    assert gone.split() == below
    assert (done["nodes"].skipped, done["nodes"].target_only) == (len(below), 1)
    assert rig.target.psql("SELECT id FROM a ORDER BY 1").split() == ["1", "2", "3", "77"]
    assert rig.target.psql("SELECT id FROM b ORDER BY 1").split() == ["1", "2", "3"]


def test_the_same_without_the_replica_role(rig: Rig) -> None:
    both(rig, SHOPS + ORDERS)
    rig.source.psql(
        "INSERT INTO shops VALUES (1, 'Ulm'), (2, 'Graz');"
        "INSERT INTO orders VALUES (10, 1, 'x'), (11, 2, 'x')"
    )
    rig.target.psql("INSERT INTO shops VALUES (9, 'Graz')")
    done = rig.sync(replica_role=False)
    assert (done["shops"].skipped, done["orders"].skipped) == (1, 1)
    assert rig.target.psql("SELECT id FROM orders") == "10"


def test_partitions_as_parents_and_as_children(rig: Rig) -> None:
    both(
        rig,
        "CREATE TABLE p (id int PRIMARY KEY, u int) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200);"
        "CREATE UNIQUE INDEX ON p1 (u);"
        "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p) PARTITION BY RANGE (id);"
        "CREATE TABLE c1 PARTITION OF c FOR VALUES FROM (0) TO (100);",
    )
    rig.source.psql(
        "INSERT INTO p VALUES (1, 1), (2, 2), (150, 1);"
        "INSERT INTO c VALUES (1, 1), (2, 2), (3, 150)"
    )
    rig.target.psql("INSERT INTO p VALUES (50, 2)")
    done = rig.sync()
    assert broken_foreign_keys(rig.target) == ""
    assert {n: t.skipped for n, t in done.items()} == {"p1": 1, "p2": 0, "c1": 1}
    assert rig.target.psql("SELECT id FROM c ORDER BY 1") == "1\n3"


def test_an_upsert_does_not_take_a_value_away_that_rows_here_refer_to(rig: Rig) -> None:
    both(
        rig,
        "CREATE TABLE towns (id int PRIMARY KEY, code text UNIQUE);"
        "CREATE TABLE roads (id int PRIMARY KEY, town text REFERENCES towns (code));",
    )
    rig.source.psql(
        "INSERT INTO towns VALUES (1, 'B'), (2, 'C'); INSERT INTO roads VALUES (1, 'B')"
    )
    rig.target.psql("INSERT INTO towns VALUES (1, 'A'); INSERT INTO roads VALUES (1, 'A')")
    done = rig.sync()  # the child moves with its parent
    assert {t.result for t in done.values()} == {"done"}
    rig.source.psql("UPDATE towns SET code = 'D' WHERE id = 2")
    rig.target.psql("INSERT INTO roads VALUES (7, 'C')")  # ours: it would be left behind
    done = rig.sync()
    assert broken_foreign_keys(rig.target) == ""
    assert done["towns"].result == "failed"
    assert "rows of public.roads here refer to (code)" in (done["towns"].error or "")
    rig.target.psql("DELETE FROM roads WHERE id = 7")
    assert rig.sync()["towns"].updated == 1


def test_a_reference_that_only_this_side_has_is_checked(rig: Rig) -> None:
    rig.source.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    rig.target.psql(
        "CREATE TABLE kinds (id int PRIMARY KEY);"
        "CREATE TABLE t (id int PRIMARY KEY, kind int DEFAULT 5 REFERENCES kinds)"
    )
    done = rig.sync()["t"]
    assert (done.inserted, done.skipped) == (0, 2)
    assert broken_foreign_keys(rig.target) == ""
    rig.target.psql("INSERT INTO kinds VALUES (5)")
    assert rig.sync()["t"].inserted == 2


def test_a_deferrable_exclusion_is_kept_although_nothing_checks_it(rig: Rig) -> None:
    both(
        rig,
        "CREATE TABLE rooms (id int PRIMARY KEY, during int4range, "
        "EXCLUDE USING gist (during WITH &&) WHERE (id < 50) DEFERRABLE INITIALLY DEFERRED);",
    )
    rig.source.psql("INSERT INTO rooms VALUES (1, '[1,5)'), (2, '[5,9)'), (60, '[1,9)')")
    done = rig.sync()["rooms"]
    assert (done.result, done.inserted) == ("done", 3)
    rig.target.psql("DELETE FROM rooms; INSERT INTO rooms VALUES (3, '[4,6)')")
    with pytest.raises(DatabaseError, match="no table could be written") as caught:
        rig.sync()
    assert "rooms_during_excl" in (caught.value.detail or "")
    assert rig.target.psql("SELECT id FROM rooms") == "3"


@pytest.mark.parametrize("mirror", [False, True])
def test_nobody_takes_a_parent_away_or_adds_a_child_meanwhile(rig: Rig, mirror: bool) -> None:
    """Ours is the only check: a table beside the sync can't be written until it commits."""
    both(rig, SHOPS + ORDERS + LINES)
    rig.source.psql("INSERT INTO shops VALUES (1, 'Ulm'); INSERT INTO orders VALUES (10, 1, 'x')")
    rig.target.psql("INSERT INTO shops VALUES (1, 'Ulm'); INSERT INTO orders VALUES (11, 1, 'x')")
    waits: dict[str, bool] = {}

    def restored(_: TableLoad) -> None:
        for statement in ("DELETE FROM shops", "INSERT INTO lines VALUES (1, 11, 1)"):
            with psycopg.connect(rig.target.conninfo()) as other:
                other.execute("SET lock_timeout = '200ms'")
                try:
                    other.execute(statement.encode())
                except psycopg.errors.LockNotAvailable:
                    waits[statement[:6]] = True
                else:
                    waits[statement[:6]] = False
                other.rollback()

    rig.sync(without=["shops", "lines", "loose"], mirror=mirror, restored=restored)
    assert waits == {"DELETE": True, "INSERT": mirror}
    assert broken_foreign_keys(rig.target) == ""


def test_nothing_is_asked_of_a_complete_parent(rig: Rig) -> None:
    """A sync of which nothing is left out compares no child with its parent."""
    both(rig, SHOPS + ORDERS)
    rig.source.psql("INSERT INTO shops VALUES (1, 'Ulm'); INSERT INTO orders VALUES (10, 1, 'x')")
    rig.sync()
    before = _scans(rig.target)
    rig.sync()
    complete = _scans(rig.target) - before
    rig.sync(without=["shops"])
    assert (complete, _scans(rig.target) - before - complete) == (2, 1)  # MERGE, count; anti join


def _scans(database: Database) -> int:
    """How often the table that is referred to was read."""
    return int(
        database.psql(
            "SELECT pg_stat_force_next_flush(); SELECT seq_scan + coalesce(idx_scan, 0)"
            " FROM pg_stat_all_tables WHERE relname = 'shops'"
        )
    )
