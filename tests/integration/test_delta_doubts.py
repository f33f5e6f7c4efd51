"""A delta takes a table whole wherever what it compared may not be what is written."""

from __future__ import annotations

import json
import subprocess

import psycopg
import pytest
from pgcluster import SUPERUSER

from tests.fault.rig import eventually
from tests.integration.test_delta import both, counts, pull, table, waits
from tests.integration.test_join import join, shows
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import assert_same_rows
from tests.plugins.nodes import MakeNode, TwoNodes, introduce

ROWS = 12_000
PAD = "repeat(md5(i::text), 6)"
LABELS = f"""
    CREATE TYPE label AS ENUM ('a', 'b');
    CREATE TABLE events (id int PRIMARY KEY, v int NOT NULL, w int NOT NULL, e label NOT NULL,
                         pad text NOT NULL);
    INSERT INTO events SELECT i, i % 7, i % 5, (ARRAY['a', 'b']::label[])[1 + i % 2], {PAD}
      FROM generate_series(1, {ROWS}) i;
    CREATE TABLE other (LIKE events INCLUDING ALL);
    INSERT INTO other SELECT id, v + 1000, w, e, pad FROM events; ANALYZE;"""
ALTERED = {
    "a column made anew": "ALTER TABLE events DROP v, ADD v int NOT NULL DEFAULT 5",
    "columns exchanged": "ALTER TABLE events RENAME v TO x; ALTER TABLE events RENAME w TO v;"
    "ALTER TABLE events RENAME x TO w",
    "tables exchanged": "ALTER TABLE events RENAME TO gone; ALTER TABLE other RENAME TO events",
    "labels exchanged": "ALTER TYPE label RENAME VALUE 'a' TO 'x';"
    "ALTER TYPE label RENAME VALUE 'b' TO 'a'; ALTER TYPE label RENAME VALUE 'x' TO 'b'",
}


@pytest.mark.parametrize("change", ALTERED)
def test_a_table_that_is_altered_after_it_was_compared_is_sent_whole(
    change: str, pair_18: TwoNodes
) -> None:
    source, target = both(pair_18, LABELS)
    source.database.psql("UPDATE events SET v = 100 WHERE id = 5000")
    arguments = ("pull", "server-a", "--method", "delta", "--tables", "events", "--yes", "--json")
    with psycopg.connect(target.database.conninfo()) as user:
        user.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        with target.popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            eventually("it wants to write", lambda: waits(target.database))
            user.execute(ALTERED[change].encode())
            user.commit()
            out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert table(json.loads(out))["way"] == "full"
    assert rows(target.database) == rows(source.database)


def rows(database: Database) -> str:
    return database.psql("SELECT md5(string_agg((id, v, w, e)::text, '' ORDER BY id)) FROM events")


def test_servers_that_do_not_hash_alike_compare_only_keys_that_are_numbers(
    pair_18: TwoNodes,
) -> None:
    source, target = pair_18
    target.database.psql(
        "CREATE OR REPLACE FUNCTION pg_catalog.getdatabaseencoding() RETURNS name"
        " LANGUAGE sql STABLE AS $$ SELECT 'OTHER'::name $$",
        user=SUPERUSER,
    )
    both(
        pair_18,
        "CREATE DOMAIN number AS int;"
        + "".join(
            f"CREATE TABLE {name} (id {kind} PRIMARY KEY, v int, pad text);"
            f"INSERT INTO {name} SELECT i, 1, {PAD} FROM generate_series(1, {ROWS}) i;"
            for name, kind in (("numbers", "int"), ("texts", "text"), ("domains", "number"))
        )
        + "ANALYZE",
    )
    for name in ("numbers", "texts", "domains"):
        source.database.psql(
            f"UPDATE {name} SET v = 2 WHERE id IN ('5', '6000');"
            f"DELETE FROM {name} WHERE id IN ('11', '500', '6001')"
        )
        target.database.psql(f"DELETE FROM {name} WHERE id IN ('1', '600')")
    done = pull(target, "--mirror")
    ways = {name: table(done, name)["way"] for name in ("numbers", "texts", "domains")}
    assert ways == {"numbers": "delta", "texts": "full", "domains": "full"}
    for name in ways:
        assert counts(done, name) == (2, 2, ROWS - 3 - 4, 0, 3)
    assert_same_rows(source.database, target.database)


def test_keys_that_are_equal_with_other_texts_are_not_compared(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source = make_node("server-a", make_database(15), start=False)
    target = make_node("server-b", make_database(15, nth=1), start=False)
    introduce(target, source)
    collation = (
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
    )
    fill = (
        f"INSERT INTO events SELECT 'k' || i, 1, {PAD} FROM generate_series(1, {ROWS}) i; ANALYZE"
    )
    for node, key in ((source, "text"), (target, "text COLLATE ci")):
        node.database.psql(
            f"{collation} CREATE TABLE events (id {key} PRIMARY KEY, v int, pad text);{fill};"
            "CREATE TABLE documents (id jsonb PRIMARY KEY, pad text);"
            f"INSERT INTO documents SELECT to_jsonb(i), {PAD} FROM generate_series(1, {ROWS}) i"
        )
        node.start()
    source.database.psql("INSERT INTO events VALUES ('K7', 77, 'other')")
    done = target.pull("server-a", "--method", "delta", check=False)
    assert "public.events is taken whole: the collation of its key column id is not" in target.log
    assert "public.documents is taken whole: equal values of its key column id" in target.log
    assert done.code != 0, "two rows of the source are one here, and nobody says so"


def test_long_keys_are_compared_too(pair_18: TwoNodes) -> None:
    source, target = both(
        pair_18,
        "CREATE TABLE events (id text PRIMARY KEY, v int);"
        "INSERT INTO events SELECT lpad(i::text, 6, '0') || repeat('x', 25000), 1"
        " FROM generate_series(1, 4000) i; ANALYZE",
    )
    target.database.psql(
        "UPDATE events SET v = 2 WHERE left(id, 6)::int BETWEEN 1000 AND 1500;"
        "DELETE FROM events WHERE left(id, 6)::int BETWEEN 2000 AND 2200"
    )
    done = pull(target)
    assert (table(done)["way"], counts(done)) == ("delta", (201, 501, 3298, 0, 0))
    assert_same_rows(source.database, target.database)


def test_a_delta_can_be_undone(pair_18: TwoNodes) -> None:
    source, target = both(pair_18, LABELS)
    source.database.psql(
        "UPDATE events SET v = 100 WHERE id = 5000; DELETE FROM events WHERE id = 7"
    )
    target.database.psql(
        "DELETE FROM events WHERE id = 9; INSERT INTO events VALUES (0,0,0,'a','')"
    )
    before = rows(target.database)
    done = pull(target, "--mirror", "--tables", "events")
    assert (table(done)["way"], counts(done)) == ("delta", (1, 1, ROWS - 3, 0, 2))
    assert rows(target.database) == rows(source.database)
    undone = target.run("undo", done["session"][:8], "--yes", "--json").json["tables"]
    assert [(t["name"], t["restored"], t["reinserted"], t["deleted"]) for t in undone] == [
        ("events", 1, 2, 1)
    ]
    assert rows(target.database) == before


def test_a_member_s_rows_that_nobody_has_fetched_stay(pair_18: TwoNodes) -> None:
    source, target = both(pair_18, "")
    source.database.psql(LABELS)
    join(target, source)
    target.run("sync", "now", "--wait", "--timeout", "60")
    for node in pair_18:
        node.run("sync", "pause")
    target.database.psql(
        "UPDATE events SET v = 555 WHERE id = 10; DELETE FROM events WHERE id = 11;"
        "INSERT INTO events VALUES (0, 1, 1, 'a', 'mine')"
    )
    source.database.psql("UPDATE events SET v = 777 WHERE id IN (10, 20)")
    done = pull(target)
    assert table(done)["way"] == "delta"
    kept = "SELECT id, v FROM events WHERE id IN (0, 10, 11, 20) ORDER BY id"
    assert target.database.psql(kept) == "0|1\n10|555\n20|777"
    for node in pair_18:
        node.run("sync", "resume")
    shows(source.database, "SELECT v FROM events WHERE id = 0", "1")
    shows(source.database, "SELECT count(*) FROM events WHERE id = 11", "0")
    target.run("sync", "now", "--wait", "--timeout", "60")
    eventually("both are equal", lambda: rows(target.database) == rows(source.database))
