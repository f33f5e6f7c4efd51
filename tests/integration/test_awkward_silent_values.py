"""What would change values, or lose rows, while everything looks well: it is said, or refused."""

from __future__ import annotations

from typing import Any

from tests.plugins.nodes import Node, Result, TwoNodes

EMPTY = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; "


def _prepare(nodes: TwoNodes, both: str, there: str, here: str) -> tuple[Node, Node]:
    source, target = nodes
    source.database.psql(EMPTY + both + there)
    target.database.psql(EMPTY + both + here)
    return source, target


def _tables(target: Node) -> dict[str, Any]:
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    return {t["name"]: t for t in plan["tables"]}


def _results(done: Result) -> dict[str, Any]:
    return {t["name"]: t for t in done.json["tables"]}


def test_a_large_object_here_is_not_overwritten_without_being_asked(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(
        "CREATE TABLE t (id int PRIMARY KEY); SELECT lo_from_bytea(7001, 'theirs')"
    )
    target.database.psql("SELECT lo_from_bytea(7001, 'MY OWN')")
    shown = target.run("pull", "server-a", "--dry-run")
    assert "large objects here that have the oid of one of the source's are overwritten" in (
        shown.out + shown.err
    )
    assert target.run("pull", "server-a", check=False).code == 2
    read = "SELECT convert_from(lo_get(7001), 'UTF8')"
    assert target.database.psql(read) == "MY OWN"
    target.pull("server-a")
    assert target.database.psql(read) == "theirs"


def test_types_that_are_made_otherwise_here_are_said_before_values_change(
    pair_18: TwoNodes,
) -> None:
    tables = (
        "CREATE TABLE swapped (id int PRIMARY KEY, v c[]); CREATE TABLE nested (id int PRIMARY KEY,"
        " v outer_c); CREATE TABLE rounded (id int PRIMARY KEY, v d); CREATE TABLE few (id int"
        " PRIMARY KEY, v few_e); CREATE TABLE sorted (id int PRIMARY KEY, v sorted_e);"
        " CREATE TABLE more (id int PRIMARY KEY, v more_e);"
    )
    _, target = _prepare(
        pair_18,
        "",
        "CREATE TYPE c AS (x int, y int); CREATE TYPE outer_c AS (a c); CREATE DOMAIN d AS numeric;"
        "CREATE TYPE few_e AS ENUM ('a', 'b'); CREATE TYPE sorted_e AS ENUM ('a', 'b');"
        "CREATE TYPE more_e AS ENUM ('a');"
        + tables
        + "INSERT INTO swapped VALUES (1, '{\"(1,2)\"}');"
        "INSERT INTO rounded VALUES (1, 1.2345); INSERT INTO more VALUES (1, 'a')",
        "CREATE TYPE c AS (y int, x int); CREATE TYPE outer_c AS (a c);"
        "CREATE DOMAIN d AS numeric(10,2); CREATE TYPE few_e AS ENUM ('a');"
        "CREATE TYPE sorted_e AS ENUM ('b', 'a'); CREATE TYPE more_e AS ENUM ('a', 'z');" + tables,
    )
    planned = _tables(target)
    for name in ("swapped", "nested"):
        assert planned[name]["action"] == "blocked"
        assert "(x integer, y integer) there and (y integer, x integer)" in planned[name]["reason"]
    for name, said in (
        ("rounded", "domain public.d is (numeric) there and (numeric(10,2)) here: values may be"),
        ("few", "ALTER TYPE public.few_e ADD VALUE 'b';"),
        ("sorted", "labels in another order"),
    ):
        assert planned[name]["action"] == "upsert"
        assert said in "".join(planned[name]["warnings"])
    assert planned["more"]["warnings"] == []
    done = target.pull("server-a", check=False)
    assert (done.code, _results(done)["swapped"]["result"]) == (3, "blocked")
    assert target.database.psql("SELECT count(*) FROM swapped") == "0"
    assert target.database.psql("SELECT v FROM more") == "a"


def test_a_label_that_misses_here_leaves_out_the_table_and_not_the_sync(
    pair_18: TwoNodes,
) -> None:
    _, target = _prepare(
        pair_18,
        "",
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, v e);"
        "INSERT INTO t VALUES (1, 'b'); CREATE TABLE fine (id int PRIMARY KEY);"
        "INSERT INTO fine VALUES (1)",
        "CREATE TYPE e AS ENUM ('a')",
    )
    assert "ALTER TYPE public.e ADD VALUE 'b';" in _tables(target)["t"]["reason"]
    done = target.pull("server-a", check=False)
    assert (done.code, done.json["result"]) == (3, "partly")
    assert target.database.psql("SELECT count(*) FROM fine") == "1"
    assert target.database.psql("SELECT to_regclass('t') IS NULL") == "t"
    target.database.psql("ALTER TYPE e ADD VALUE 'b'")
    target.pull("server-a")
    assert target.database.psql("SELECT v FROM t") == "b"


def test_columns_that_are_computed_otherwise_here_are_said(pair_18: TwoNodes) -> None:
    _, target = _prepare(
        pair_18,
        "",
        "CREATE TABLE t (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED,"
        " h int GENERATED ALWAYS AS (id + 1) STORED, i int GENERATED ALWAYS AS (id + 1) STORED,"
        " j int)",
        "CREATE TABLE t (id int PRIMARY KEY, g int DEFAULT 7,"
        " h int GENERATED ALWAYS AS (id + 5) STORED, i int GENERATED ALWAYS AS (id + 1) STORED,"
        " j int GENERATED ALWAYS AS (id) STORED)",
    )
    said = _tables(target)["t"]["warnings"]
    assert [words.split(" here")[0] for words in said] == [
        "column g is computed there and not",
        "column h is computed by another expression",
        "column j is computed",
    ]


def test_partitions_whose_place_differs_are_said(pair_18: TwoNodes) -> None:
    tree = (
        "CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);"
        "CREATE TABLE q (id int PRIMARY KEY) PARTITION BY HASH (id);"
        "CREATE TABLE same PARTITION OF p FOR VALUES FROM (100) TO (200);"
    )
    _, target = _prepare(
        pair_18,
        tree,
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);"
        "CREATE TABLE q1 PARTITION OF q FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE alone (id int, k int, PRIMARY KEY (id, k))",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5);"
        "CREATE TABLE p2 (id int, k int, PRIMARY KEY (id, k));"
        "CREATE TABLE q1 PARTITION OF q FOR VALUES WITH (MODULUS 4, REMAINDER 0);"
        "CREATE TABLE alone PARTITION OF p FOR VALUES FROM (50) TO (60)",
    )
    planned = _tables(target)
    for name, said in (
        ("p1", "FOR VALUES FROM (0) TO (5) OF public.p BY RANGE (id) here"),
        ("p2", "and a table of its own here"),
        ("q1", "FOR VALUES WITH (modulus 4, remainder 0) OF public.q BY HASH (id) here"),
        ("alone", "and none there"),
    ):
        assert said in "".join(planned[name]["warnings"])
    assert planned["same"]["warnings"] == []


def test_rows_that_a_trigger_drops_are_not_counted_as_done(pair_18: TwoNodes) -> None:
    _, target = _prepare(
        pair_18,
        "CREATE TABLE t (id int PRIMARY KEY);",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no();"
        "ALTER TABLE t ENABLE ALWAYS TRIGGER no",
    )
    done = target.pull("server-a", check=False)
    assert (done.code, done.json["error"]["code"]) == (4, "verify-failed")
    assert "2 rows are missing" in done.json["error"]["message"]


def test_a_key_of_a_composite_type_whose_fields_are_all_null_is_a_key(pair_18: TwoNodes) -> None:
    wide = ", ".join(f"c{n} int" for n in range(800))
    _, target = _prepare(
        pair_18,
        "CREATE TYPE c AS (x int, y int); CREATE TABLE t (k c PRIMARY KEY, v int);"
        f"CREATE TABLE wide (k c PRIMARY KEY, {wide});",
        "INSERT INTO t VALUES (ROW(NULL, NULL)::c, 1), ((1, 2), 2);"
        "INSERT INTO wide (k, c1) VALUES (ROW(NULL, NULL)::c, 1), ((1, 2), 2)",
        "INSERT INTO t VALUES (ROW(NULL, NULL)::c, 9), ((3, NULL), 3)",
    )
    found = _results(target.pull("server-a"))
    counts = ("inserted", "updated", "target_only")
    assert [found["t"][c] for c in counts] == [1, 1, 1]
    assert [found["wide"][c] for c in counts] == [2, 0, 0]
    assert target.database.psql("SELECT v FROM t ORDER BY v") == "1\n2\n3"


def test_columns_named_like_ours_do_not_disturb_a_table_without_a_key(pair_18: TwoNodes) -> None:
    _, target = _prepare(
        pair_18,
        "CREATE TABLE t (peersync_text text, peersync_copy int, peersync_copy_ int, r int, n int);"
        "INSERT INTO t VALUES ('a', 1, 1, 1, 1);",
        "INSERT INTO t VALUES ('a', 1, 1, 1, 1), ('b', 2, 2, 2, 2)",
        "INSERT INTO t VALUES ('own', 0, 0, 0, 0)",
    )
    assert _results(target.pull("server-a"))["t"]["inserted"] == 2
    mirrored = _results(target.pull("server-a", "--mirror"))["t"]
    assert (mirrored["deleted"], mirrored["target_only"]) == (1, 0)
    assert target.database.psql("SELECT count(*) FROM t") == "3"
