"""Every direction between the majors: definitions and rows arrive, and come again unchanged."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.plugins.clusters import MAJORS, Database, MakeDatabase
from tests.plugins.compare import assert_same_rows, extra_rows, schema_of, stored
from tests.plugins.nodes import MakeNode

RICH = (Path(__file__).with_name("sql") / "awkward" / "rich.sql").read_text()
SPOILED = """
UPDATE orders SET note = 'changed here', tags = NULL WHERE id % 3 = 0;
DELETE FROM orders WHERE id > 90; INSERT INTO orders (id, place, note) VALUES (999, 1, 'own');
UPDATE places SET at = NULL; DELETE FROM lines_2; SELECT lo_unlink(60001);
"""


@pytest.mark.parametrize(
    ("there", "here"), list(itertools.product(MAJORS, repeat=2)), ids=lambda major: str(major)
)
def test_a_rich_database_goes_from_every_version_to_every_version(
    there: int, here: int, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db = make_database(there)
    target_db = make_database(here, nth=1 if there == here else 0)
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql(RICH)
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert [v.split(".")[0] for v in (plan["source_version"], plan["target_version"])] == [
        str(there),
        str(here),
    ]
    assert any("newer than this server" in w for w in plan["warnings"]) is (there > here)
    assert target.pull("server-a").json["result"] == "done"
    assert _definitions(target_db) == _definitions(source_db)
    assert_same_rows(source_db, target_db)

    target_db.psql(SPOILED)
    mended = target.pull("server-a").json
    assert (mended["result"], mended["rows"]["skipped"]) == ("done", 0)
    only_here = {table: rows for table, rows in extra_rows(source_db, target_db).items() if rows}
    assert {table: rows.total() for table, rows in only_here.items()} == {"public.orders": 1}
    kept, again = stored(target_db), target.pull("server-a").json
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert stored(target_db) == kept


def _definitions(database: Database) -> list[str]:
    """Before 18 a child's primary key says NOT NULL, and its CREATE TABLE does not."""
    return sorted(text.replace("    NOT NULL id,\n", "") for text in schema_of(database))


# What only a newer server has: the older one refuses it, and keeps nothing of it.
NEWER = "CREATE TABLE newer (id int PRIMARY KEY, b int GENERATED ALWAYS AS (id * 2) VIRTUAL);"


def test_definitions_that_an_older_server_does_not_know_are_refused_whole(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(18), make_database(15)
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql(RICH + NEWER)
    plan = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]
    assert any("newer than this server" in warning for warning in plan["warnings"])
    done = target.pull("server-a", check=False)
    assert done.code == 1
    assert done.json["error"]["message"] == "this server refuses the peer's TABLE newer"
    left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert target_db.psql(left) == "0"


ONLY_15 = """
import peersync.postgres.binaries as binaries
binaries._PLACES = binaries._WHEELS = ()
"""


def test_a_source_without_a_pg_dump_that_fits_is_refused_and_the_package_named(
    tmp_path: Path, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(18), make_database(18, nth=1)
    old = make_database(15).cluster.bindir
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(ONLY_15)
    env = {"PATH": str(old), "PYTHONPATH": str(tmp_path / "python")}
    source = make_node("server-a", source_db, env=env)
    target = make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    for dry in ((), ("--dry-run",)):
        done = target.pull("server-a", *dry, check=False)
        assert done.code not in (0, 3)
        error = done.json["error"]
        assert "server-a cannot make the backup: no pg_dump 18 or newer" in error["message"]
        assert "postgresql-client-18" in f"{error['message']}{error['hint']}"
    assert target_db.psql("SELECT to_regclass('t') IS NULL") == "t"
