"""Definitions: what a full sync creates, what it leaves as it is, and what it takes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.plugins import least
from tests.plugins.clusters import MakeDatabase
from tests.plugins.compare import (
    assert_same_rows,
    assert_same_schema,
    extra_rows,
    pg_dump,
    rows_of,
    schema_of,
    spoil,
    stored,
)
from tests.plugins.nodes import MakeNode, Node, TwoNodes

SQL = Path(__file__).with_name("sql")
EVERYTHING = (SQL / "objects.sql").read_text()
HAS_SOME = (SQL / "some_objects_here.sql").read_text()
HAS_ALL = (SQL / "all_objects_there.sql").read_text()


def _result(target: Node) -> Any:
    done = target.pull("server-a", check=False)
    assert done.code == 0, [
        (t["name"], t["note"], t["error"]) for t in done.json["tables"] if t["result"] != "done"
    ] or done.err
    return done.json


@least.needs_more("an operator family is made by a superuser")
def test_every_kind_of_object_is_created_and_its_rows_are_mended(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(EVERYTHING)
    _result(target)
    there = [text for text in schema_of(source.database) if "LARGE OBJECT" not in text]
    assert [text for text in schema_of(target.database) if "LARGE OBJECT" not in text] == there
    assert_same_rows(source.database, target.database)
    for view in ("made", "from_grouped"):
        query = f"SELECT count(*) FROM {view}"
        assert target.database.psql(query) == source.database.psql(query)

    spoil(target.database)
    target.database.psql(
        "SELECT lo_unlink(90001), lo_put(90002, 0, 'CHANGED HERE'), lo_put(90003, 0, 'not empty');"
        "SELECT lo_put(90004, 3000000, 'x'); SELECT lo_truncate(lo_open(90005, 131072), 100000);"
        "SELECT lo_from_bytea(90009, 'own'); COMMENT ON LARGE OBJECT 90002 IS 'kept';"
        "SELECT setval('app.down', -500), setval('app.fresh', 1000), setval('app.not_called', 3);"
    )
    _result(target)
    extra_rows(source.database, target.database)
    here, there_rows = rows_of(target.database), rows_of(source.database)
    assert here.large_objects.pop(90009) == b"own".hex()
    assert here.large_objects == there_rows.large_objects
    assert "COMMENT ON LARGE OBJECT 90002 IS 'kept'" in pg_dump(target.database)
    assert here.sequences["'app.down'"] == (-500, True)
    assert here.sequences["'app.fresh'"] == (1000, True)
    assert here.sequences["'app.not_called'"] == (50, False)
    assert here.sequences["'app.cycle'"] == there_rows.sequences["'app.cycle'"]
    assert target.database.psql("SELECT count(*) FROM touched WHERE at > '2020-01-02'") == "0"
    assert target.database.psql("SELECT count(*) FROM ruled_log") == "0"
    kept, again = stored(target.database), _result(target)
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert stored(target.database) == kept


@least.needs_more("a partition is attached by the owner of its parent")
def test_what_is_missing_is_created_and_what_is_here_stays_as_it_is(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(HAS_ALL)
    target.database.psql(HAS_SOME)
    mine = schema_of(target.database)
    _result(target)
    now = schema_of(target.database)
    assert [text for text in mine if text not in now] == []  # all that was here is as it was
    new = "\n".join(set(now) - set(mine))
    assert "base_mine" not in new
    assert "theirs" not in new
    assert "TRIGGER" not in new
    for expected in (
        "CREATE TYPE app.new",
        "CREATE TABLE public.more",
        "CREATE INDEX more_f",
        "CREATE VIEW public.fresh_view",
        "CREATE TABLE app.parts_2",
        "ATTACH PARTITION app.parts_2",
        "FOREIGN KEY (base)",
        "COMMENT ON TABLE public.more",
    ):
        assert expected in new, expected
    here = target.database.psql
    assert here("SELECT id, v FROM app.parts ORDER BY 1") == source.database.psql(
        "SELECT id, v FROM app.parts ORDER BY 1"
    )
    assert here("SELECT m, f, base FROM more") == "n|2|1"
    assert here("SELECT * FROM base ORDER BY 1") == "1|there\n9|own"
    assert here("SELECT id FROM app.other") == "1"


IMPOSSIBLE = {
    "a role in a policy": (
        "CREATE POLICY p ON t TO nobody_here USING (true)",
        'role "nobody_here" does not exist',
    ),
    "an extension": ("CREATE EXTENSION adminpack", "adminpack"),
}
CATALOGS = (
    "pg_class", "pg_type", "pg_proc", "pg_operator", "pg_opfamily", "pg_opclass", "pg_cast",
    "pg_collation", "pg_ts_config", "pg_ts_dict", "pg_namespace", "pg_extension",
    "pg_statistic_ext", "pg_constraint", "pg_trigger", "pg_policy", "pg_rewrite",
)  # fmt: skip
OBJECTS = "; ".join(f"SELECT '{c}', array_agg(oid ORDER BY oid) FROM {c}" for c in CATALOGS)


@least.needs_more("an operator family is made by a superuser")
@pytest.mark.parametrize("what", list(IMPOSSIBLE))
def test_p14_definitions_that_are_refused_leave_nothing_behind(
    what: str, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    sql, words = IMPOSSIBLE[what]
    source_db, target_db = make_database(15), make_database(18)
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.cluster.createrole("nobody_here", "NOLOGIN")
    source_db.psql(EVERYTHING + "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);")
    source_db.psql(sql)
    target_db.psql("CREATE TABLE own (id int); CREATE VIEW v AS SELECT * FROM own")
    before = target_db.psql(OBJECTS)
    result = target.pull("server-a", check=False)
    assert result.code not in (0, 3)
    error = result.json["error"]
    assert "this server refuses the peer's" in error["message"]
    assert words in error["detail"]
    assert "left behind" not in error["detail"]
    assert "Create here what it needs" in error["hint"]
    assert target_db.psql(OBJECTS) == before


# --- a role that owns its database and is no superuser ------------------------------------
OWNERS = """
CREATE TABLE parent (id int PRIMARY KEY, v text);
CREATE TABLE kid (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self);
CREATE TABLE stamped (id int PRIMARY KEY, v text, n int DEFAULT 0);
CREATE TABLE numbered (k int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE follows (k int REFERENCES numbered ON DELETE CASCADE);
CREATE TABLE secured (id int PRIMARY KEY, v text);
CREATE SEQUENCE tickets; CREATE TYPE kind AS ENUM ('x'); CREATE TABLE kinds (k kind PRIMARY KEY);
"""


def test_an_owner_without_superuser_syncs_and_is_warned_of_triggers(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db = make_database(15, owner="app_owner")
    target_db = make_database(18, owner="app_owner")
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql(
        OWNERS + "INSERT INTO parent SELECT i, 'v' || i FROM generate_series(1, 9) i;"
        "INSERT INTO kid SELECT i, 10 - i FROM generate_series(1, 9) i;"
        "INSERT INTO self SELECT i, nullif(i - 1, 0) FROM generate_series(1, 9) i;"
        "INSERT INTO stamped SELECT i, 'v' || i FROM generate_series(1, 9) i;"
        "INSERT INTO numbered (k) SELECT i FROM generate_series(1, 3) i;"
        "INSERT INTO secured VALUES (1, 'x'); INSERT INTO kinds VALUES ('x');"
        "SELECT setval('tickets', 40);"
    )
    _result(target)
    assert_same_schema(source_db, target_db)
    assert_same_rows(source_db, target_db)
    target_db.psql(
        "UPDATE parent SET v = 'old' WHERE id < 4; DELETE FROM kid WHERE id > 5;"
        "DELETE FROM self WHERE id = 9; UPDATE stamped SET v = 'old' WHERE id = 1;"
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END $$;"
        "CREATE TABLE audit (id int);"
        "CREATE TRIGGER stamp BEFORE UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();"
        "ALTER FUNCTION stamp() SET search_path = public;"
        "UPDATE numbered SET n = DEFAULT WHERE k = 2; INSERT INTO follows VALUES (2);"
    )
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert "session_replication_role" in plan["warnings"][0]
    stamped = next(t for t in plan["tables"] if t["name"] == "stamped")
    assert stamped["warnings"] == ["its triggers will fire"]
    result = target.pull("server-a", check=False)
    assert result.code == 3
    done = {t["name"]: t for t in result.json["tables"]}
    assert {n for n, t in done.items() if t["result"] != "done"} == {"numbered"}
    assert "ON DELETE" in done["numbered"]["error"]
    assert "session_replication_role" in done["numbered"]["error"]
    assert target_db.psql("SELECT count(*) FROM follows") == "1"
    assert target_db.psql("SELECT * FROM audit") == "1"
    for table in ("parent", "kid", "self", "stamped"):
        query = f"SELECT * FROM {table} ORDER BY id"
        assert target_db.psql(query) == source_db.psql(query)
