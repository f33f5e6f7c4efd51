"""Definitions that collide with what is here: said in the plan, or refused; never half a table."""

from __future__ import annotations

import pytest

from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, TwoNodes

EMPTY = """
DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE fine (id int PRIMARY KEY);
"""
TREE = """
CREATE TABLE p (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (10);
"""
PLAIN = "CREATE TABLE p (id int, at int, PRIMARY KEY (id, at));"
ROWS = "INSERT INTO p VALUES (1, 1), (2, 2);"
COUNTER = "CREATE TABLE counter (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);"
# name: (there, here, what is said, whether the plan knows it and leaves the table out)
TAKEN = {
    "a view": (PLAIN + ROWS, "CREATE VIEW p AS SELECT 1", "public.p is a view here", True),
    "a type": (PLAIN + ROWS, "CREATE TYPE p AS (a int)", "public.p is a composite type here", True),
    "partitioned only here": (PLAIN + ROWS, TREE, "public.p is a partitioned table here", True),
    "partitioned only there": (TREE + ROWS, PLAIN, "partition of public.p there, which is", True),
    "divided further here": (
        TREE + ROWS,
        TREE.replace("(10);", "(10) PARTITION BY RANGE (id);"),
        "public.p_1 is a partitioned table here",
        True,
    ),
    "bounds that overlap": (
        TREE + "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);" + ROWS,
        TREE.replace("(10)", "(15)"),
        "TABLE ATTACH p_2",
        False,
    ),
    "rows in the default partition here": (
        TREE + "CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (10) TO (20);" + ROWS,
        TREE + "CREATE TABLE p_rest PARTITION OF p DEFAULT; INSERT INTO p VALUES (3, 15);",
        "TABLE ATTACH p_2",
        False,
    ),
    "the name of an identity's sequence": (
        COUNTER,
        "CREATE TABLE counter_id_seq (id int)",
        "SEQUENCE counter_id_seq",
        False,
    ),
}


def test_a_name_that_is_taken_here_is_said_and_never_makes_a_half_table(
    two_nodes: TwoNodes,
) -> None:
    source, target = two_nodes
    for there, here, said, planned in TAKEN.values():
        for node, sql in ((source, there), (target, here)):
            node.database.psql(EMPTY + sql)
        source.database.psql("INSERT INTO fine VALUES (1)")
        names = "SELECT array_agg(oid::regclass || relkind::text ORDER BY 1) FROM pg_class"
        before = target.database.psql(names + " WHERE relnamespace = 'public'::regnamespace")
        plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
        blocked = [t["reason"] for t in plan["tables"] if t["action"] == "blocked"]
        assert any(said in reason for reason in blocked) is planned, (said, plan)
        done = target.pull("server-a", check=False)
        if planned:
            assert (done.code, done.json["result"]) == (3, "partly"), (said, done.out)
        else:
            assert (done.code, done.json["result"]) == (1, "failed"), (said, done.out)
            assert said in done.json["error"]["message"]
            assert "Nothing of this sync is left" in done.json["error"]["hint"]
        assert target.database.psql("SELECT count(*) FROM fine") == str(int(planned))
        after = target.database.psql(names + " WHERE relnamespace = 'public'::regnamespace")
        assert after == before


ENUM_HASHED = """
CREATE TYPE e AS ENUM ('a', 'b', 'c'); CREATE TABLE ok (id int PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE ok_0 PARTITION OF ok FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE h (k e, v int) PARTITION BY HASH (k);
CREATE TABLE h_0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE h_1 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (v);
CREATE TABLE h_1_rest PARTITION OF h_1 DEFAULT;
"""


def test_partitions_by_the_hash_of_an_enum_are_left_out_and_said(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(
        ENUM_HASHED + "INSERT INTO ok VALUES (1); INSERT INTO h SELECT k, 1"
        " FROM unnest(enum_range(NULL::e)) k;"
    )
    for _ in range(2):  # into nothing, and into tables that are here
        plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
        assert [t["name"] for t in plan["tables"]] == ["ok_0"]
        reasons = dict(plan["not_copied"])
        assert reasons.keys() == {"public.h_0", "public.h_1_rest"}
        assert "--load-via-partition-root" in reasons["public.h_0"]
        done = target.pull("server-a").json
        assert [t["name"] for t in done["tables"]] == ["ok_0"]
        assert target.database.psql("SELECT count(*) FROM h") == "0"
        assert target.database.psql("SELECT count(*) FROM ok") == "1"


def test_an_event_trigger_here_that_forbids_tables_ends_the_sync_before_it_changes_any(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(18)
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    for database in (source_db, target_db):
        database.psql("CREATE TABLE t (id int PRIMARY KEY)")
    source_db.psql("INSERT INTO t VALUES (1)")
    target_db.psql(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''no tables today''; END';"
        "CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE TABLE',"
        " 'CREATE TABLE AS') EXECUTE FUNCTION no()"
    )
    done = target.pull("server-a", check=False)
    assert done.code == 1
    assert "no tables today" in done.json["error"]["message"]
    assert target_db.psql("SELECT count(*) FROM t") == "0"


COMPRESSED = "CREATE TABLE t (id int PRIMARY KEY, v text COMPRESSION lz4);"


@pytest.mark.parametrize("major", [15, 18])
def test_lz4_arrives_where_the_server_has_it_and_is_refused_where_not(
    major: int, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(major, nth=1)
    knows = (
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    if source_db.psql(knows) == "f":
        pytest.skip("this PostgreSQL has no lz4")
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql(COMPRESSED + "INSERT INTO t VALUES (1, repeat('toast', 100000))")
    done = target.pull("server-a", check=False)
    if target_db.psql(knows) == "t":
        query = "SELECT md5(v), pg_column_compression(v) FROM t"
        assert target_db.psql(query) == source_db.psql(query)
    else:
        assert done.code == 1
        assert "lz4 not supported" in done.json["error"]["detail"]
        assert target_db.psql("SELECT to_regclass('t') IS NULL") == "t"
