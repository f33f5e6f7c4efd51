"""What the options of a sync do, asked for on the command line."""

from __future__ import annotations

import pytest

from tests.plugins.nodes import TwoNodes

TABLES = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bag (v text);"


@pytest.fixture
def pair(pair_18: TwoNodes) -> TwoNodes:
    source, target = pair_18
    source.database.psql(TABLES + "INSERT INTO t VALUES (1, 'a'), (2, 'b');")
    source.database.psql("INSERT INTO bag VALUES ('x'), ('x')")
    target.database.psql(TABLES + "INSERT INTO t VALUES (2, 'old'), (3, 'mine');")
    target.database.psql("INSERT INTO bag VALUES ('x'), ('x'), ('x'), ('y')")
    return pair_18


def rows(pair: TwoNodes) -> tuple[str, str]:
    here = pair.target.database.psql
    return here("SELECT string_agg(id || v, ' ' ORDER BY id) FROM t"), here(
        "SELECT string_agg(v, ' ' ORDER BY v) FROM bag"
    )


def test_a_plan_of_chosen_tables_says_nothing_of_the_others(pair: TwoNodes) -> None:
    source, target = pair
    for node in pair:
        node.database.psql(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)"
        )
    target.database.psql("CREATE TABLE own (id int PRIMARY KEY)")
    pull = ("pull", source.name, "--dry-run", "--json")
    assert target.run(*pull).json["plan"]["only_here"] == ["public.own"]
    assert target.run(*pull, "--tables", "a").json["plan"]["only_here"] == []


def test_without_mirror_rows_that_are_only_here_stay(pair: TwoNodes) -> None:
    pair.target.pull("server-a")
    assert rows(pair) == ("1a 2b 3mine", "x x x y")


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_mirror_deletes_what_is_only_here_and_says_so_first(pair: TwoNodes, verb: str) -> None:
    node, peer = (pair.target, "server-a") if verb == "pull" else (pair.source, "server-b")
    words = node.run(verb, peer, "--dry-run", "--mirror").err
    assert "DELETED" in words
    refused = node.run(verb, peer, "--mirror", check=False)
    assert refused.code == 2  # nobody is there to ask
    done = node.run(verb, peer, "--mirror", "--yes", "--json").json
    assert rows(pair) == ("1a 2b", "x x")
    deleted = {t["name"]: t["deleted"] for t in done["tables"]}
    assert deleted == {"t": 1, "bag": 2}


def test_one_transaction_a_table_keeps_what_went_well(pair: TwoNodes) -> None:
    pair.target.database.psql("ALTER TABLE t ADD CHECK (v <> 'b')")
    done = pair.target.pull("server-a", "--per-table", "--mirror", check=False)
    assert done.code == 3
    assert {t["name"]: t["result"] for t in done.json["tables"]} == {"t": "failed", "bag": "done"}
    assert rows(pair)[1] == "x x"


def test_rows_come_by_copy_where_there_is_no_pg_dump(pair: TwoNodes) -> None:
    done = pair.target.pull("server-a", "--method", "http").json
    assert done["result"] == "done"
    assert rows(pair)[0] == "1a 2b 3mine"


def test_the_sync_type_is_in_the_history(pair: TwoNodes) -> None:
    pair.target.pull("server-a", "--sync-type", "scheduled")
    kept = pair.target.database.psql("SELECT sync_type FROM peersync.full_sync_sessions")
    assert kept == "scheduled"


def test_a_wrong_option_is_refused_before_anything(pair: TwoNodes) -> None:
    for options in (
        ("--bandwidth", "fast"),
        ("--parallel", "0"),
        ("--method", "magic"),
        ("--tables", ""),
        ("--tables", "a.b.c"),
        ("--sync-type", "never"),
    ):
        refused = pair.target.run("pull", "server-a", "--yes", *options, check=False)
        assert refused.code == 2, options
        assert "Traceback" not in refused.err
        assert rows(pair) == ("2old 3mine", "x x x y"), options
