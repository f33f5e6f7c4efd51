"""`peersync verify`: it says which rows differ, no others, and what it could not compare."""

from __future__ import annotations

from subprocess import PIPE
from typing import Any
from urllib.request import urlopen

import psycopg
from pgcluster import SUPERUSER

from tests.integration.shared_pair import terminal, wait_until
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, TwoNodes, introduce

TABLES = """
CREATE TABLE items (id int PRIMARY KEY, name text, price numeric);
CREATE TABLE bag (a int, b text);
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO items SELECT g, 'item ' || g, g / 7.0 FROM generate_series(1, 2000) g;
INSERT INTO bag SELECT g % 3, 'x' FROM generate_series(1, 30) g;
INSERT INTO computed SELECT g FROM generate_series(1, 64) g;
"""


def _tables(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {table["name"]: table for table in view["tables"]}


def _counts(table: dict[str, Any]) -> tuple[int, int, int]:
    return table["different"], table["missing"], table["extra"]


def test_equal_databases_are_identical_and_a_difference_is_found_to_the_value(
    two_nodes: TwoNodes,
) -> None:
    source, target = two_nodes
    for node in two_nodes:
        node.database.psql(TABLES)
    equal = target.run("verify", "server-a", "--json").json
    assert equal["result"] == "identical"
    assert {t["result"] for t in equal["tables"]} == {"equal"}
    items = _tables(equal)["items"]
    assert (items["rows_there"], items["rows_here"], items["matched"]) == (2000, 2000, 2000)
    assert (equal["tables_done"], equal["tables_total"]) == (4, 4)

    source.database.psql("UPDATE items SET price = 1.0 WHERE id = 7; DELETE FROM items WHERE id=9")
    target.database.psql(
        "UPDATE items SET price = 1.00, name = NULL WHERE id = 7; DELETE FROM items WHERE id = 1;"
        "INSERT INTO bag VALUES (0, 'x')"
    )
    found = target.run("verify", "server-a", "--json", "--rows", "--values", check=False)
    assert found.code == 4
    items, bag = (_tables(found.json)[name] for name in ("items", "bag"))
    assert _counts(items) == (1, 1, 1)
    assert _counts(bag) == (0, 0, 1)
    assert items["keys"] == [
        {"kind": "missing", "key": ["1"], "columns": None,
         "there": {"id": "1", "name": "item 1", "price": "0.14285714285714285714"}, "here": None},
        {"kind": "different", "key": ["7"], "columns": ["name", "price"],
         "there": {"name": "item 7", "price": "1.0"}, "here": {"name": None, "price": "1.00"}},
        {"kind": "extra", "key": ["9"], "columns": None, "there": None,
         "here": {"id": "9", "name": "item 9", "price": "1.2857142857142857"}},
    ]  # fmt: skip
    # what was recorded has the keys, and no values
    shown = target.run("verify", "show", found.json["id"][:8], "--json", check=False).json
    assert [k["columns"] for k in _tables(shown)["items"]["keys"]] == [
        None, ["name", "price"], None,
    ]  # fmt: skip
    assert all(k["there"] is None for k in _tables(shown)["items"]["keys"])


def test_what_cannot_be_compared_is_said_and_never_equal(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    for node in two_nodes:
        node.database.psql(
            "CREATE TYPE mood AS ENUM ('x', 'y'); CREATE DOMAIN posint AS int CHECK (value > 0);"
        )
    source.database.psql(
        "CREATE TABLE only_there (id int);"
        "CREATE TABLE widened (id int PRIMARY KEY, n int, s varchar(10), d posint, m mood);"
        "INSERT INTO widened SELECT g, g, g, g, 'x' FROM generate_series(1, 300) g;"
        "CREATE TABLE other_types (id int PRIMARY KEY, a json, f real, c char(3), n numeric(9,2));"
        "INSERT INTO other_types VALUES (1, '{}', 1, 'a', 1);"
        "CREATE TABLE one_column_less (id int PRIMARY KEY, a text);"
        "INSERT INTO one_column_less VALUES (1, 'a');"
        "CREATE TABLE parted (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (50) TO (500);"
        "INSERT INTO parted SELECT g, g FROM generate_series(0, 199) g;"
        "CREATE TABLE parent (id int PRIMARY KEY, v int); INSERT INTO parent VALUES (1, 1);"
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent); INSERT INTO child VALUES (2, 2);"
        "CREATE TABLE moved (a int, gone int, b text, PRIMARY KEY (a));"
        "ALTER TABLE moved DROP COLUMN gone; INSERT INTO moved VALUES (1, 'x');"
        "CREATE TABLE keyless_here (a int PRIMARY KEY); INSERT INTO keyless_here VALUES (1), (2);"
    )
    target.database.psql(
        "CREATE TABLE only_here (id int);"
        "CREATE TABLE widened (id bigint PRIMARY KEY, n bigint, s text, d int, m text);"
        "INSERT INTO widened SELECT g, g, g, g, 'x' FROM generate_series(1, 300) g;"
        "CREATE TABLE other_types (id int PRIMARY KEY, a jsonb, f float8, c char(4), n numeric);"
        "INSERT INTO other_types VALUES (1, '{}', 1, 'a', 1);"
        "CREATE TABLE one_column_less (id int PRIMARY KEY);"
        "INSERT INTO one_column_less VALUES (1);"
        "CREATE TABLE parted (id int PRIMARY KEY, v text);"
        "INSERT INTO parted SELECT g, g FROM generate_series(0, 199) g;"
        "CREATE TABLE parent (id int PRIMARY KEY, v int); INSERT INTO parent VALUES (1, 1);"
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent); INSERT INTO child VALUES (2, 2);"
        "CREATE TABLE moved (b text, a int, PRIMARY KEY (a)); INSERT INTO moved VALUES ('x', 1);"
        "CREATE TABLE keyless_here (a int); INSERT INTO keyless_here VALUES (1), (2);"
    )
    first = target.run("verify", "server-a", "--json", check=False)
    assert (first.code, first.json["result"]) == (3, "partly")
    tables = _tables(first.json)
    results = {name: table["result"] for name, table in tables.items()}
    assert results == {
        "only_there": "not compared", "only_here": "not compared", "widened": "equal",
        "other_types": "partly", "one_column_less": "partly", "parted": "equal",
        "parent": "equal", "child": "equal", "moved": "equal", "keyless_here": "equal",
    }  # fmt: skip
    assert first.json["not_compared"] == 2
    assert "only on server-a" in tables["only_there"]["reason"]
    assert len(tables["other_types"]["notes"]) == 4
    assert tables["one_column_less"]["notes"] == ["column a is only on server-a"]
    assert (tables["parted"]["rows_there"], tables["parted"]["rows_here"]) == (200, 200)
    assert "whole rows" in tables["keyless_here"]["notes"][0]

    target.database.psql(
        "UPDATE parted SET v = 'x' WHERE id = 60; UPDATE widened SET n = 5000000000 WHERE id = 7;"
        "DELETE FROM widened WHERE id = 300; UPDATE ONLY parent SET v = 2; DELETE FROM keyless_here"
    )
    found = _tables(target.run("verify", "server-a", "--json", check=False).json)
    assert _counts(found["parted"]) == (1, 0, 0)
    assert _counts(found["widened"]) == (1, 1, 0)
    assert _counts(found["parent"]) == (1, 0, 0)
    assert _counts(found["child"]) == (0, 0, 0)
    assert _counts(found["keyless_here"]) == (0, 2, 0)
    words = target.run("verify", "server-a", check=False)
    assert "only_there: it is only on server-a" in words.out
    assert "differ: " in words.out
    assert "--rows" in words.err


def test_a_difference_is_in_status_metrics_and_history_until_it_is_gone(pair_18: TwoNodes) -> None:
    source, target = pair_18
    source.database.psql(TABLES)
    target.pull("server-a")
    before = target.run("status", "--json").json["links"][0]
    assert before["proof"] is None
    assert target.run("verify", "--all", "-q").out == ""
    proof = target.run("status", "--json").json["links"][0]["proof"]
    assert proof["proved_at"] == proof["checked_at"]
    assert (proof["tables"], proof["differing"], proof["not_compared"]) == (4, 0, 0)
    assert "identical" in target.run("status").out

    target.database.psql("UPDATE items SET name = 'x' WHERE id = 1")
    assert target.run("verify", "server-a", "--tables", "bag", "--json").json["tables_total"] == 1
    assert target.run("verify", "server-a", check=False).code == 4
    status = target.run("status", check=False)
    assert status.code == 1
    assert "differs from server-a" in status.out
    told = target.run("verify", "tables", "--json").json["tables"]
    (items,) = (t for t in told if t["name"] == "items")
    assert (items["result"], items["proved_at"]) == ("differs", proof["proved_at"])
    assert items["differs_since"] == items["checked_at"]
    assert 'peersync_verify_differing_tables{database="shop",peer="server-a"} 1.0' in _metrics(
        target
    )
    # another agent of this database knows it from the record
    target.stop()
    target.start()
    wait_until(lambda: target.run("status", "--json", check=False).json["links"][0]["proof"])
    assert "differs since" in target.run("status", check=False).out

    target.database.psql("UPDATE items SET name = 'item 1' WHERE id = 1")
    with terminal(target, "verify", "server-a") as tty:
        assert tty.end() == 0
    assert "shop here and on server-a are identical (4 tables" in "\n".join(tty.screen)
    assert target.run("status").code == 0
    runs = target.run("verify", "list", "--json").json["verifications"]
    assert [run["result"] for run in runs] == ["identical", "differs", "identical", "identical"]
    assert runs[0]["tables"] == []


def _metrics(node: Node) -> str:
    with urlopen(f"http://{node.admin}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_peer_that_is_away_and_tables_that_are_not_there(pair_18: TwoNodes) -> None:
    source, target = pair_18
    for node in pair_18:
        node.database.psql("CREATE TABLE a (id int PRIMARY KEY)")
    missing = target.run("verify", "server-a", "--tables", "nothing_*", check=False)
    assert missing.code == 2
    assert target.run("verify", check=False).code == 2
    nothing = target.run("verify", "--all", check=False)  # nothing ever went between them
    assert (nothing.code, "never" in nothing.err or "nothing" in nothing.err) == (2, True)
    assert target.run("verify", "server-a", "--timeout", "60").code == 0
    source.stop()
    away = target.run("verify", "server-a", "--json", check=False)
    assert (away.code, away.json["state"]) == (5, "failed")
    assert target.run("verify", "list", "--json").json["verifications"][0]["result"] == "identical"


def test_what_a_filter_hides_stays_hidden_and_rows_only_here_do_not_count(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    filters = '[[database.shop.filter]]\ntable = "public.people"\nwhere = "region = \'north\'"\n'
    filters += 'exclude_columns = ["secret"]\n'
    filters += '[[database.shop.filter]]\ntable = "public.bad"\nwhere = "1 / (id - 1) > 0"\n'
    source = make_node("server-a", make_database(18), settings=filters, start=False)
    target = make_node("server-b", make_database(18, nth=1), start=False)
    introduce(target, source)
    for node in (source, target):
        node.database.psql(
            "CREATE TABLE people (id int PRIMARY KEY, region text, secret text);"
            "CREATE TABLE bad (id int PRIMARY KEY); INSERT INTO bad VALUES (1)"
        )
    source.database.psql(
        "INSERT INTO people VALUES (1, 'north', 'a'), (2, 'south', 'b'), (3, 'north', 'c')"
    )
    target.database.psql("INSERT INTO people VALUES (1, 'north', NULL), (9, 'west', NULL)")
    source.start()
    target.start()
    found = target.run("verify", "server-a", "--json", "--values", check=False)
    bad, table = found.json["tables"]
    assert (bad["result"], "division" in found.out) == ("failed", False)
    assert (found.code, _counts(table)) == (4, (0, 1, 0))
    assert [key["there"] for key in table["keys"]] == [{"id": "3", "region": "north"}]
    assert "south" not in found.out
    target.database.psql("INSERT INTO people VALUES (3, 'north', 'other')")
    again = target.run("verify", "server-a", "--json", "--tables", "people").json
    assert again["result"] == "identical"
    assert any("1 row is only here" in note for note in again["tables"][0]["notes"])


def test_a_verification_that_waits_can_be_cancelled_and_leaves_no_record(
    pair_18: TwoNodes,
) -> None:
    target = pair_18.target
    for node in pair_18:
        node.database.psql("CREATE TABLE a (id int PRIMARY KEY)")
    with psycopg.connect(target.database.conninfo()) as connection:
        connection.execute("LOCK TABLE a")
        waiting = target.popen("verify", "server-a", stdout=PIPE, stderr=PIPE)
        runs: list[dict[str, Any]] = []

        def started() -> bool:
            runs[:] = target.run("verify", "list", "--json").json["verifications"]
            return [run["state"] for run in runs] == ["running"]

        wait_until(started)
        again = target.run("verify", "server-a", check=False)
        assert (again.code, runs[0]["id"][:8] in again.err) == (6, True)
        assert target.run("verify", "cancel", runs[0]["id"][:8]).code == 0
        _, err = waiting.communicate(timeout=30)
        assert waiting.returncode == 130, err
    assert target.run("verify", "list", "--json").json["verifications"] == []
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'peersync/verify'"
    wait_until(lambda: target.database.psql(sessions) == "0")


def test_a_table_that_may_not_be_read_whole_is_not_compared(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source = make_node("server-a", make_database(18), start=False)
    limited = make_database(18, nth=1, owner="limited")
    target = make_node("server-b", limited, start=False)
    introduce(target, source)
    tables = "CREATE TABLE closed (id int PRIMARY KEY); CREATE TABLE hidden (id int PRIMARY KEY);"
    tables += "INSERT INTO closed VALUES (1); INSERT INTO hidden VALUES (1);"
    source.database.psql(tables)
    limited.psql(
        f"{tables} GRANT SELECT ON hidden TO limited; ALTER TABLE hidden ENABLE ROW LEVEL SECURITY",
        user=SUPERUSER,
    )
    source.start()
    target.start()
    found = target.run("verify", "server-a", "--json", check=False)
    assert (found.code, found.json["result"], found.json["not_compared"]) == (3, "partly", 2)
    reasons = {name: table["reason"] for name, table in _tables(found.json).items()}
    assert "GRANT SELECT" in reasons["closed"]
    assert "BYPASSRLS" in reasons["hidden"]
