"""`peersync repair` of tables that are not like others, and where something happens in between."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import Node, TwoNodes

ODD = """
CREATE TABLE "*" (id int PRIMARY KEY, v text);
INSERT INTO "*" SELECT n, n FROM generate_series(1, 100) n;
CREATE SCHEMA "Sch.Ema 'q'";
CREATE TABLE "Sch.Ema 'q'"."it's ""Ünï"" {t} %s $1" ("a b" int, "select" text, "ü""ö" text,
    "%s" int, "{x}" text, PRIMARY KEY ("select", "a b"));
INSERT INTO "Sch.Ema 'q'"."it's ""Ünï"" {t} %s $1"
SELECT n, 'k' || n, 'ä' || n, n, '{}' FROM generate_series(1, 100) n;
CREATE TABLE computed (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED,
    c int GENERATED ALWAYS AS (a + 1) VIRTUAL);
INSERT INTO computed SELECT n, n FROM generate_series(1, 100) n;
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
INSERT INTO numbered (v) SELECT n FROM generate_series(1, 100) n;
CREATE TABLE secured (id int PRIMARY KEY, v text);
INSERT INTO secured SELECT n, n FROM generate_series(1, 100) n;
ALTER TABLE secured ENABLE ROW LEVEL SECURITY; ALTER TABLE secured FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON secured USING (id < 10);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE hen (id int PRIMARY KEY,
    egg int NOT NULL REFERENCES egg DEFERRABLE INITIALLY DEFERRED);
BEGIN; INSERT INTO hen SELECT n, n FROM generate_series(1, 100) n;
INSERT INTO egg SELECT n, n FROM generate_series(1, 100) n; COMMIT;
ALTER TABLE egg ADD FOREIGN KEY (hen) REFERENCES hen;
CREATE TABLE keyless (v text);
INSERT INTO keyless SELECT n FROM generate_series(1, 50) n;
CREATE TABLE same (id int PRIMARY KEY);
"""
NAMES = {
    '"*"': "v",
    '"Sch.Ema \'q\'"."it\'s ""Ünï"" {t} %s $1"': '"ü""ö"',
    "computed": "a",
    "numbered": "v",
    "secured": "v",
}
DRIFT = "".join(
    f"UPDATE {name} SET {column} = 7 WHERE ctid IN (SELECT ctid FROM {name} LIMIT 3 OFFSET 20);"
    f"DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM {name} LIMIT 2 OFFSET 50);"
    for name, column in NAMES.items()
)
DRIFT = (
    "SET session_replication_role = replica;"
    + DRIFT
    + "DELETE FROM egg WHERE id = 3; DELETE FROM hen WHERE id = 3;"
    "INSERT INTO hen VALUES (500, 500); INSERT INTO egg VALUES (500, 500);"
    "DELETE FROM keyless WHERE v = '4'; INSERT INTO keyless VALUES ('x');"
)


@pytest.fixture
def pair(pair_18: TwoNodes) -> TwoNodes:
    for node in pair_18:
        node.database.psql(ODD)
    return pair_18


def test_tables_that_are_not_like_others_are_repaired(pair: TwoNodes) -> None:
    source, target = pair
    repair = ("repair", "server-a", "--from", "peer", "--mirror", "--yes", "--json")
    target.database.psql(DRIFT)
    only = target.run(*repair, "--tables", '"*"').json
    assert [table["name"] for table in only["before"]["tables"]] == ["*"]
    assert target.run("verify", "server-a", check=False).code == 4
    assert target.run(*repair).json["after"]["result"] == "identical"
    assert_same_rows(source.database, target.database)


def test_a_table_that_is_dropped_after_the_plan_is_not_made_again(pair: TwoNodes) -> None:
    source, target = pair
    target.database.psql("UPDATE computed SET a = 0 WHERE id = 7")
    dry = ("repair", "server-a", "--from", "peer", "--tables", "computed", "--dry-run", "--json")
    planned = target.run(*dry).json["id"]
    target.database.psql("ALTER TABLE computed RENAME TO away")
    gone = target.run("repair", "--apply", planned, "--yes", check=False)
    assert (gone.code, shown(target, planned)["state"]) == (2, "failed")
    assert "public.computed: not on this server any more; nothing was changed" in gone.err
    assert target.database.psql("SELECT to_regclass('computed')").strip() == ""
    refused = target.run("pull", "server-a", "--tables", "computed", "--yes", check=False)
    assert refused.code == 1, "nobody has cancelled it"
    assert "refuses the peer's CONSTRAINT" in refused.err
    source.kill()
    away = target.run("repair", "server-a", "--from", "peer", "--yes", check=False)
    assert away.code == 5


def shown(node: Node, id_: str) -> Any:
    return node.run("repair", "--show", id_, "--json", check=False).json
