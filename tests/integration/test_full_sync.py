"""A full sync by pull between two real servers, driven as a user drives it."""

from __future__ import annotations

from tests.plugins.nodes import TwoNodes


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
