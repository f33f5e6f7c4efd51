"""Values, names and keys that are hard to carry: each must arrive as it was, and stay so."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pgcluster
import pytest

from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.compare import (
    assert_same_rows,
    assert_same_schema,
    extra_rows,
    spoil,
    stored,
)
from tests.plugins.nodes import MakeNode, Node, TwoNodes

SQL = Path(__file__).with_name("sql")
TYPES = (SQL / "types.sql").read_text()
KEYS_EVERYWHERE = (SQL / "keys.sql").read_text()


@pytest.fixture
def pair_15_18(make_database: MakeDatabase, make_node: MakeNode) -> TwoNodes:
    """What does not depend on the pair of versions is tried with one."""
    source = make_node("server-a", make_database(15))
    target = make_node("server-b", make_database(18))
    target.pair_with(source)
    return TwoNodes(source, target)


def _pull(target: Node) -> Any:
    """The result of a pull that must have brought everything."""
    done = target.pull("server-a", check=False)
    assert done.code == 0, [
        (t["name"], t["note"], t["error"]) for t in done.json["tables"] if t["result"] != "done"
    ] or done.err
    return done.json


def _bring_and_mend(source: Node, target: Node) -> None:
    _pull(target)
    assert_same_schema(source.database, target.database)
    assert_same_rows(source.database, target.database)
    spoil(target.database)
    _pull(target)
    extra_rows(source.database, target.database)
    kept, again = stored(target.database), _pull(target)
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)
    assert stored(target.database) == kept


def test_values_of_every_kind_arrive_as_they_were(two_nodes: TwoNodes) -> None:
    source, target = two_nodes
    source.database.psql(TYPES)
    for node, settings in (
        (source, ("DateStyle = 'German, DMY'", "TimeZone = 'Europe/Berlin'",
                  "bytea_output = escape", "IntervalStyle = iso_8601", "extra_float_digits = -5",
                  "standard_conforming_strings = off")),
        (target, ("DateStyle = 'SQL, MDY'", "TimeZone = 'America/St_Johns'", "xmloption = document",
                  "IntervalStyle = sql_standard", "standard_conforming_strings = off",
                  "statement_timeout = 20", "default_transaction_read_only = off",
                  "default_transaction_isolation = serializable")),
    ):  # fmt: skip
        for setting in settings:
            node.database.psql(f"ALTER DATABASE {node.database.name} SET {setting}")
    try:
        _bring_and_mend(source, target)
    finally:
        target.database.cluster.psql(f"ALTER DATABASE {target.database.name} RESET ALL")


ODD_NAMES = [
    'Ca"ps', "it's", "a b", "line\nbreak", "dot.ted", "Ünï😀", "select", "x" * 63, "100%s %(x)s",
    "back\\slash", "do$lar$$", "star*?", "pipe|[a-z]+(x){2}^", "tab\t", "semi;--", "ends\\", "$1",
    "名" * 21, "-t", "%", "COPY x FROM stdin;", ":x", "a,b", "{0}", "peersync",
]  # fmt: skip


def _ident(name: str) -> str:
    return pgcluster.identifier(name)


def test_names_with_anything_in_them_arrive(pair_15_18: TwoNodes) -> None:
    source, target = pair_15_18
    script = []
    for number, name in enumerate(ODD_NAMES):
        q, other = _ident(name), _ident(ODD_NAMES[number - 1])
        schema = _ident(name) if name != "peersync" else "other"
        sequence = f"{schema}.{_ident(name[:15] + 'sq')}"
        script.append(
            f"CREATE SCHEMA {schema}; CREATE SEQUENCE {sequence};"
            f"SELECT setval({pgcluster.literal(sequence)}, {number + 5});"
            f"CREATE TABLE {schema}.{q} ({q} serial, {other} text, PRIMARY KEY ({q}));"
            f"CREATE INDEX {_ident(name[:15] + 'ix')} ON {schema}.{q} ({other});"
            f"INSERT INTO {schema}.{q} ({other}) SELECT {pgcluster.literal(name)} || i"
            f" FROM generate_series(1, {10 + number}) i;"
        )
    for name in ('Big "one".*$', "big\nline %s\\", "größe"):
        script.append(
            "CREATE TABLE {0} ({0} int, v text, PRIMARY KEY ({0}));".format(_ident(name))
            + f"INSERT INTO {_ident(name)} SELECT i, (SELECT string_agg(md5((i*999+j)::text), '')"
            " FROM generate_series(1, 120) j) FROM generate_series(1, 5500) i;"
        )
    source.database.psql("\n".join(script))
    _bring_and_mend(source, target)


def test_rows_are_told_apart_by_every_kind_of_key(pair_15_18: TwoNodes) -> None:
    source, target = pair_15_18
    source.database.psql(KEYS_EVERYWHERE)
    _bring_and_mend(source, target)


def test_keys_that_are_equal_and_yet_differ_are_rewritten(pair_15_18: TwoNodes) -> None:
    source, target = pair_15_18
    shape = (
        "CREATE EXTENSION citext; CREATE TABLE n (id numeric PRIMARY KEY, v text);"
        "CREATE TABLE c (id citext PRIMARY KEY, v text);"
        "CREATE TABLE f (id float8 PRIMARY KEY, v text);"
        "CREATE TABLE copies (v text); CREATE TABLE o (a int, b int, PRIMARY KEY ({key}));"
    )
    source.database.psql(
        shape.format(key="a, b") + "INSERT INTO n VALUES (1.0, 'x'), (2.00, 'y');"
        "INSERT INTO c VALUES ('AbC', 'x'); INSERT INTO f VALUES ('-0', 'x');"
        "INSERT INTO copies VALUES ('a'), ('a'), ('a'), ('b'), (NULL);"
        "INSERT INTO o VALUES (1, 2), (3, 4);"
    )
    target.database.psql(
        shape.format(key="b, a") + "INSERT INTO n VALUES (1.00, 'x'), (2.00, 'y');"
        "INSERT INTO c VALUES ('aBc', 'x'); INSERT INTO f VALUES ('0', 'x');"
        "INSERT INTO copies VALUES ('a'), ('b'), ('b'), ('c');"
        "INSERT INTO o VALUES (1, 2), (9, 9);"
    )
    planned = target.run("pull", "server-a", "--dry-run", "--json").json["plan"]["tables"]
    keyless = next(t for t in planned if t["name"] == "copies")
    assert keyless["action"] == "insert"
    assert "rows that are only here stay" in keyless["warnings"][0]
    done = target.pull("server-a").json
    assert done["result"] == "done"
    assert target.database.psql("SELECT id FROM n ORDER BY 1") == "1.0\n2.00"
    assert target.database.psql("SELECT id FROM c") == "AbC"
    assert target.database.psql("SELECT id FROM f") == "-0"
    assert target.database.psql("SELECT v, count(*) FROM copies GROUP BY 1 ORDER BY 1") == (
        "a|3\nb|2\nc|1\n|1"
    )
    assert target.database.psql("SELECT count(*) FROM o") == "3"
    again = target.pull("server-a").json
    assert (again["rows"]["inserted"], again["rows"]["updated"]) == (0, 0)


UNUSUAL_KEYS = """
CREATE TABLE k_generated (a int, id int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY, v text);
CREATE TABLE k_expression (id text, v text); CREATE UNIQUE INDEX ON k_expression (lower(id));
CREATE TABLE k_partial (id int, v text, w bool); CREATE UNIQUE INDEX ON k_partial (id) WHERE w;
"""


def test_rows_whose_key_no_statement_can_use_are_left_out_and_said(pair_15_18: TwoNodes) -> None:
    source, target = pair_15_18
    for database in (source.database, target.database):
        database.psql(UNUSUAL_KEYS)
    rows = (
        "INSERT INTO k_generated (a, v) VALUES (1, '{0}'), (2, 'same'), ({1}, 'own');"
        "INSERT INTO k_expression VALUES ('A', '{0}'), ('b', 'same'), ('{0}', 'own');"
        "INSERT INTO k_partial VALUES (1, '{0}', true), (2, 'same', true), (1, '{0}', false);"
    )
    source.database.psql(rows.format("there", 7))
    target.database.psql(rows.format("here", 8))
    result = target.pull("server-a", check=False)
    assert result.code == 3
    for table in result.json["tables"]:
        assert (table["result"], table["skipped"], table["unchanged"]) == ("partly", 1, 1), table
        assert "left out" in table["note"]
        assert "duplicate key" in table["error"]
        assert "hint: " in table["error"]
    here = "SELECT v FROM k_expression ORDER BY v"
    assert target.database.psql(here) == "here\nown\nown\nsame"


def test_keys_of_other_collations_tell_rows_apart(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(15, nth=1)
    if source_db.psql("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'") == "0":
        pytest.skip("this PostgreSQL has no ICU")
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    source_db.psql(
        "CREATE COLLATION nd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        'CREATE TABLE icu (id text COLLATE "und-x-icu" PRIMARY KEY, v text);'
        "CREATE TABLE loose (id text COLLATE nd PRIMARY KEY, v text);"
        "INSERT INTO icu SELECT chr(i), 'v' || i FROM generate_series(33, 90) i;"
        "INSERT INTO loose VALUES ('Case', 'x'), ('Ärger', 'y'), ('straße', 'z');"
    )
    _bring_and_mend(source, target)
    target_db.psql("UPDATE loose SET id = 'cASE' WHERE id = 'case'")
    assert _pull(target)["rows"]["updated"] == 1
    assert target_db.psql("SELECT id FROM loose WHERE v = 'x'") == "Case"


def test_money_is_not_read_by_another_currency(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, target_db = make_database(15), make_database(18)
    locales = subprocess.run(["locale", "-a"], check=True, capture_output=True, text=True).stdout
    other = next((x for x in locales.split() if x.startswith(("de_DE", "en_GB", "en_US"))), "C")
    source_db.psql("CREATE TABLE m (id int PRIMARY KEY, v money); INSERT INTO m VALUES (1, 1234.5)")
    source_db.psql(f"ALTER DATABASE {source_db.name} SET lc_monetary = '{other}'")
    source, target = make_node("server-a", source_db), make_node("server-b", target_db)
    target.pair_with(source)
    _pull(target)
    assert target_db.psql("SELECT v::numeric FROM m") == "1234.50"


def test_a_database_of_another_encoding_gets_the_same_letters(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    source_db, near = make_database(15), make_database(18)
    latin = Database(near.cluster, near.name + "_latin1")
    near.cluster.psql(
        f"CREATE DATABASE {latin.name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
    )
    try:
        table = 'CREATE TABLE "Größe" (id int PRIMARY KEY, "ä" text)'
        source_db.psql(f"{table}; INSERT INTO \"Größe\" VALUES (1, 'Ünïcode'), (2, 'same')")
        latin.psql(f"{table}; INSERT INTO \"Größe\" VALUES (1, 'été'), (2, 'same')")
        source, target = make_node("server-a", source_db), make_node("server-b", latin)
        target.pair_with(source)
        assert _pull(target)["rows"]["updated"] == 1
        assert latin.psql('SELECT "ä" FROM "Größe" ORDER BY id') == "Ünïcode\nsame"
        source_db.psql("INSERT INTO \"Größe\" VALUES (3, '😀')")
        result = target.pull("server-a", check=False)
        assert result.code == 1  # the only table failed, so nothing was done
        assert "no equivalent in encoding" in result.json["error"]["detail"]
    finally:
        target.close()
        near.cluster.dropdb(latin.name)
