"""A full sync by pull between two real servers, driven as a user drives it."""

from __future__ import annotations

from tests.plugins.clusters import Pair
from tests.plugins.nodes import MakeNode, TwoNodes


def test_a_pull_into_an_empty_database_brings_schema_and_rows(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(
        "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price numeric);"
        "INSERT INTO items SELECT i, 'item ' || i, i / 7.0 FROM generate_series(1, 1000) i;"
    )
    done = target.pull("server-a").json
    assert done["result"] == "done"
    assert done["rows"]["inserted"] == 1000
    query = "SELECT md5(string_agg(items::text, ',' ORDER BY id)) FROM items"
    assert target.database.psql(query) == source.database.psql(query)


def test_a_second_pull_changes_nothing(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(
        "CREATE TABLE t (id int PRIMARY KEY, v float8); INSERT INTO t VALUES (1, 'NaN')"
    )
    target.pull("server-a")
    before = target.database.psql("SELECT xmin, ctid, id FROM t")
    again = target.pull("server-a").json
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert again["rows"]["unchanged"] == 1
    assert target.database.psql("SELECT xmin, ctid, id FROM t") == before


def test_excluded_tables_neither_leave_nor_come(source_target: Pair, make_node: MakeNode) -> None:
    ddl = "CREATE TABLE {0} (id int PRIMARY KEY); INSERT INTO {0} SELECT generate_series(1, 9);"
    tables = ("orders", "log_a", "private")
    source_target.source.psql("".join(ddl.format(table) for table in tables))
    source_target.target.psql("".join(ddl.format(table) for table in tables))
    source_target.target.psql("TRUNCATE orders, log_a, private")
    source = make_node("server-a", source_target.source, start=False)
    target = make_node("server-b", source_target.target, start=False)
    for node, pattern in ((source, "private"), (target, "public.log_*")):
        text = node.config.read_text()
        node.config.write_text(
            text.replace("[database.shop]", f'[database.shop]\nexclude = ["{pattern}"]')
        )
        node.start()
    target.pair_with(source)
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert [t["name"] for t in plan["tables"]] == ["orders"]
    assert {name for name, _ in plan["not_copied"]} == {"public.private", "public.log_a"}
    assert target.pull("server-a").json["rows"]["inserted"] == 9
    assert target.database.psql("SELECT count(*) FROM private") == "0"
    assert target.database.psql("SELECT count(*) FROM log_a") == "0"
