"""What `peersync convert` writes, run by psql on real databases."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from peersync.cli.context import Context
from peersync.cli.main import run
from tests.plugins.clusters import Database, GetCluster, MakeDatabase
from tests.plugins.corpus import Corpus

Program = Callable[..., subprocess.CompletedProcess[bytes]]

CORPUS = [
    ("pagila", 18),
    ("chinook_ai", 17),
    ("northwind", 15),
    ("sakila", 15),
    ("sakila", 18),
    ("iso3166", 18),
    ("kitchensink", 15),
]

ODD = r"""
CREATE SCHEMA "sp ace.""q";
CREATE TABLE "sp ace.""q"."таб
лица; COPY x FROM stdin;" (
  "id.1" int GENERATED ALWAYS AS IDENTITY (INCREMENT BY -2) PRIMARY KEY,
  "a""b
c" text, gen int GENERATED ALWAYS AS ("id.1" * 2) STORED, "select" text, "back\slash" text);
INSERT INTO "sp ace.""q"."таб
лица; COPY x FROM stdin;" ("a""b
c", "select") VALUES ('\.', E'\n\\.\n'), (E'a\r\nb\tc\\', '\N'), (NULL, '');
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 3);
CREATE TABLE same_rows (t text, n numeric, j json, p point);
INSERT INTO same_rows SELECT 'x', 1.0, '{"a": 1}', '(1,2)' FROM generate_series(1, 3);
INSERT INTO same_rows VALUES ('x', 1.00, NULL, NULL), ('', NULL, 'null', NULL),
  (NULL, NULL, NULL, NULL);
CREATE TABLE only_key (a int, b text, PRIMARY KEY (a, b));
INSERT INTO only_key SELECT n, n::text FROM generate_series(1, 20) AS n;
CREATE TABLE late (id int PRIMARY KEY DEFERRABLE, v text);
INSERT INTO late SELECT n, 'v' || n FROM generate_series(1, 20) AS n;
CREATE TABLE ruled (id int PRIMARY KEY, v text);
CREATE TABLE rule_log (id int);
INSERT INTO ruled SELECT n, 'v' || n FROM generate_series(1, 20) AS n;
CREATE RULE keep AS ON UPDATE TO ruled DO ALSO INSERT INTO rule_log VALUES (new.id);
CREATE TABLE loose (a int UNIQUE, b text NOT NULL, c text);
CREATE UNIQUE INDEX loose_b ON loose (b);
INSERT INTO loose SELECT NULL, n::text, 'c' FROM generate_series(1, 20) AS n;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE moods (m mood PRIMARY KEY, v numeric);
INSERT INTO moods VALUES ('sad', 1.0), ('ok', 'NaN');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN new.v := 'touched'; RETURN new; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON ruled FOR EACH ROW EXECUTE FUNCTION touch();
CREATE FUNCTION atomic() RETURNS int LANGUAGE sql
  BEGIN ATOMIC; SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 3; END;
CREATE SEQUENCE "o'b\r" START 5;
CREATE SEQUENCE down INCREMENT -1;
SELECT nextval('down') FROM generate_series(1, 4);
SELECT setval('"o''b\r"', 900);
SELECT lo_from_bytea(70000, decode(repeat('00ff41', 30000), 'hex'));
SELECT lo_from_bytea(70001, ''), lo_from_bytea(70002, '\x6162'), lo_from_bytea(70003, '\x01');
"""


def program(database: Database, name: str, *args: str | Path, check: bool = True) -> bytes:
    """A client program of the database's own major; its standard output."""
    command = [database.cluster.bindir / name, "-d", database.conninfo(), *args]
    done = subprocess.run(command, capture_output=True, check=False)
    if check:
        assert done.returncode == 0, done.stderr.decode()
    return done.stdout if check else done.stderr


def contents(database: Database) -> list[bytes]:
    """All the data, in an order that does not depend on where rows are stored."""
    lines = program(database, "pg_dump", "--data-only").splitlines()
    return sorted(line for line in lines if b"restrict " not in line)


def tables(database: Database) -> list[tuple[sql.Composable, int]]:
    """Each table that stores rows, with its oid."""
    with psycopg.connect(database.conninfo()) as connection:
        rows = connection.execute(
            "SELECT n.nspname, c.relname, c.oid FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND c.oid >= 16384 AND n.nspname !~ '^pg_'"
        ).fetchall()
    return [(sql.Identifier(schema, name), oid) for schema, name, oid in rows]


def places(database: Database) -> dict[int, list[tuple[object, ...]]]:
    """Where each version of each row is stored: a row that is rewritten gets another place."""
    found = {}
    with psycopg.connect(database.conninfo()) as connection:
        for table, oid in tables(database):
            query = sql.SQL("SELECT ctid::text, xmin::text FROM ONLY {} ORDER BY 1").format(table)
            found[oid] = connection.execute(query).fetchall()
        found[0] = connection.execute("SELECT * FROM pg_sequences").fetchall()
    return found


def damage(database: Database) -> None:
    """Delete a quarter of the rows and, where there is a key, empty columns of another."""
    with psycopg.connect(database.conninfo()) as connection:
        connection.execute("SET session_replication_role = replica")
        for table, oid in tables(database):
            pick = sql.SQL("('x' || left(md5(t::text), 2))::bit(8)::int % 4")
            query = sql.SQL("DELETE FROM ONLY {} AS t WHERE {} = 0").format(table, pick)
            connection.execute(query)
            names = connection.execute(
                "SELECT attname FROM pg_attribute a JOIN pg_type y ON y.oid = atttypid"
                " WHERE attrelid = %(t)s AND attnum > 0 AND NOT attisdropped AND NOT attnotnull"
                " AND attgenerated = '' AND typtype <> 'd' AND NOT EXISTS (SELECT FROM pg_index"
                "  WHERE indrelid = %(t)s AND indisunique"
                "  AND (attnum = ANY (indkey) OR indexprs IS NOT NULL))"
                " AND NOT EXISTS (SELECT FROM pg_constraint"
                "  WHERE conrelid = %(t)s AND contype = 'c' AND attnum = ANY (conkey))"
                " AND EXISTS (SELECT FROM pg_index WHERE indrelid = %(t)s AND indisunique)",
                {"t": oid},
            ).fetchall()
            if names:
                sets = sql.SQL(", ").join(
                    sql.SQL("{} = NULL").format(sql.Identifier(name)) for (name,) in names
                )
                update = sql.SQL("UPDATE ONLY {} AS t SET {} WHERE {} = 1")
                connection.execute(update.format(table, sets, pick))


def convert(source: Database, directory: Path, *options: str) -> Path:
    dump, script = directory / "dump.sql", directory / "script.sql"
    dump.write_bytes(program(source, "pg_dump"))
    args = ["--quiet", "convert", str(dump), "-o", str(script), *options]
    assert run(args, Context(environ={})) == 0
    return script


def apply(target: Database, script: Path) -> None:
    program(target, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script)


@pytest.mark.parametrize(("name", "major"), CORPUS)
def test_a_damaged_copy_gets_its_rows_back_and_a_second_run_writes_nothing(
    name: str,
    major: int,
    corpus: Corpus,
    clusters: GetCluster,
    make_database: MakeDatabase,
    tmp_path: Path,
) -> None:
    template = corpus.template(name, clusters(major))
    source = make_database(major, template=template)
    target = make_database(major, template=template)
    script = convert(source, tmp_path)
    damage(target)
    wanted = contents(source)
    assert contents(target) != wanted
    apply(target, script)
    assert contents(target) == wanted
    before = places(target)
    apply(target, script)
    assert places(target) == before


@pytest.mark.parametrize("major", [15, 17, 18])
def test_odd_names_values_keys_sequences_and_large_objects_arrive(
    major: int, make_database: MakeDatabase, tmp_path: Path
) -> None:
    source = make_database(major)
    source.psql(ODD)
    target = make_database(major, template=source.name)
    script = convert(source, tmp_path)
    damage(target)
    target.psql(
        "SELECT lo_unlink(70003); SELECT lo_put(70000, 5, 'changed'), lo_put(70001, 0, 'longer'),"
        " lo_put(70002, 60000, 'x'); SELECT setval('down', -1), setval('\"o''b\\r\"', 1, false);"
        " UPDATE moods SET v = 1.00 WHERE m = 'sad'"
    )
    wanted = contents(source)
    assert contents(target) != wanted
    apply(target, script)
    assert contents(target) == wanted
    before = places(target)
    apply(target, script)
    assert places(target) == before


def test_equal_rows_without_a_key_are_counted(make_database: MakeDatabase, tmp_path: Path) -> None:
    source = make_database(18)
    source.psql("CREATE TABLE t (v text, n numeric)")
    target = make_database(18, template=source.name)
    source.psql("INSERT INTO t VALUES ('x', 1), ('x', 1), ('x', 1), (NULL, 1.0), ('', NULL)")
    target.psql("INSERT INTO t VALUES ('x', 1), (NULL, 1.00), ('ours', 1), ('ours', 1)")
    script = convert(source, tmp_path)
    for _ in range(2):
        apply(target, script)
        counts = target.psql("SELECT v, n, count(*) FROM t GROUP BY v, n::text, n")
        wanted = ["||1", "|1.00|1", "|1.0|1", "ours|1|2", "x|1|3"]
        assert sorted(counts.split("\n")) == sorted(wanted)


def test_rows_that_only_the_target_has_stay_and_its_sequences_never_go_back(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    source = make_database(18)
    source.psql(
        "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('theirs')"
    )
    target = make_database(18, template=source.name)
    target.psql("INSERT INTO t (v) VALUES ('ours'), ('ours too'); UPDATE t SET v = 'x' WHERE id=1")
    apply(target, convert(source, tmp_path))
    assert target.psql("SELECT id, v FROM t ORDER BY id") == "1|theirs\n2|ours\n3|ours too"
    assert target.psql("SELECT last_value FROM t_id_seq") == "3"


def test_a_script_that_fails_or_is_cut_off_changes_no_row(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    source = make_database(18)
    source.psql(
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100);"
        "CREATE TABLE z (id int PRIMARY KEY); INSERT INTO z VALUES (1), (-1)"
    )
    script = convert(source, tmp_path)
    target = make_database(18)
    target.psql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE z (id int CHECK (id > 0))")
    error = program(target, "psql", "-X", "-q", "-f", script, check=False)
    assert b"z_id_check" in error or b"violates check" in error or b"ON CONFLICT" in error
    assert target.psql("SELECT count(*) FROM a") == "0"
    whole = script.read_bytes()
    target.psql("DROP TABLE z; CREATE TABLE z (id int PRIMARY KEY)")
    for end in (len(whole) // 2, whole.index(b"COMMIT;"), whole.index(b"\n50\n") + 1):
        script.write_bytes(whole[:end])
        program(target, "psql", "-X", "-q", "-f", script, check=False)
        assert target.psql("SELECT count(*) FROM a") == "0"
    script.write_bytes(whole)
    apply(target, script)
    assert target.psql("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM z)") == "100|2"


def test_rules_stop_the_script_where_the_role_cannot_switch_them_off(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    source = make_database(18, owner="plain_owner")
    source.psql(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);"
        "CREATE TABLE other (id int); CREATE RULE r AS ON INSERT TO t DO INSTEAD"
        " INSERT INTO other VALUES (new.id)"
    )
    script = convert(source, tmp_path)
    target = make_database(18, template=source.name, owner="plain_owner")
    target.psql("DELETE FROM t")
    error = program(target, "psql", "-X", "-q", "-f", script, check=False)
    assert b"would change the rows" in error
    assert target.psql("SELECT count(*) FROM other") == "0"


def test_a_dump_of_data_only_takes_its_keys_from_a_file(
    make_database: MakeDatabase, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_database(18)
    source.psql(
        'CREATE TABLE "Order" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);'
        "INSERT INTO \"Order\" (v) VALUES ('a'), ('b')"
    )
    target = make_database(18, template=source.name)
    target.psql('UPDATE "Order" SET v = \'x\'; DELETE FROM "Order" WHERE id = 2')
    dump, script, keys = (tmp_path / name for name in ("dump.sql", "script.sql", "keys.toml"))
    dump.write_bytes(program(source, "pg_dump", "--data-only"))
    args = ["convert", str(dump), "-o", str(script), "--json"]
    assert run(args, Context(environ={})) != 0
    assert not script.exists()
    assert "--keys" in capfd.readouterr().err
    keys.write_text('"public.Order" = ["id"]\n')
    assert run([*args, "--keys", str(keys)], Context(environ={})) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["schema_version"] == 1
    assert report["rows"] == 2
    assert report["tables"][0]["key"] == ["id"]
    apply(target, script)
    assert contents(target) == contents(source)
