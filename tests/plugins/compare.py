"""Says whether two databases are the same, by what pg_dump prints of them and nothing else.

Both sides are dumped by the newest pg_dump that is here, so that versions write alike. Rows
are compared as lines of COPY's text, sorted; definitions as statements, sorted.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pgcluster

from peersync.dump.lexer import split_statements
from tests.plugins.clusters import Database

_COPY = re.compile(r"COPY (.+?) (?:\((.*?)\) )?FROM stdin;\n", re.S)
_LARGE_OBJECT = re.compile(r"pg_catalog\.(?:lo_create|lo_open)\('(\d+)'|lowrite\(0, '\\x(\w*)'")
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\((.*?), (-?\d+), (true|false)\);", re.S)
_NOT_NULL = re.compile(r' CONSTRAINT (?:"[^"]*_not_null"|\w*_not_null) NOT NULL')
_QUERY = re.compile(
    r"CREATE (OR REPLACE )?(MATERIALIZED )?VIEW |CREATE FUNCTION .*BEGIN ATOMIC", re.S
)
_NOT_COPIED = re.compile(
    r"SET |SELECT pg_catalog\.set_config|COMMENT ON EXTENSION|.* EVENT TRIGGER |CREATE PUBLICATION"
    r"|ALTER PUBLICATION|ALTER (?:FOREIGN )?TABLE (?s:.*)\(pg_attver=\d+\);$"
)

# In every table that allows it: half of the rows gone, others changed, three of our own.
_UNHURRIED = "SET statement_timeout = 0;"  # a test's database may have one, for us to overcome
_SPOIL = """
SET session_replication_role = replica;
DO $$
DECLARE t record; c record; key name;
BEGIN
  FOR t IN SELECT oid, oid::regclass AS name FROM pg_class WHERE relkind = 'r'
           AND relnamespace::regnamespace::text !~ '^(pg_|information_schema|peersync)' ORDER BY 1
  LOOP
    FOR c IN SELECT attname, atttypid, EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = t.oid
               AND k.contype = 'f' AND attnum = ANY (k.conkey)) AS refers
             FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0
             AND NOT attisdropped AND attgenerated = '' AND attnum <> ALL (coalesce(
               (SELECT conkey FROM pg_constraint WHERE conrelid = t.oid AND contype = 'p'), '{}'))
    LOOP
      BEGIN
        -- a row that is only here must not refer to a value that the source then takes away
        IF c.refers AND c.atttypid IN ('text'::regtype, 'varchar'::regtype) THEN CONTINUE;
        ELSIF c.atttypid IN ('text'::regtype, 'varchar'::regtype) THEN
          EXECUTE format('UPDATE ONLY %s SET %I = ''changed'' WHERE ctid::text LIKE ''%%3)''',
                         t.name, c.attname);
        ELSIF c.atttypid IN ('numeric'::regtype, 'int'::regtype, 'timestamptz'::regtype) THEN
          EXECUTE format('UPDATE ONLY %s SET %I = NULL WHERE ctid::text LIKE ''%%5)''',
                         t.name, c.attname);
        END IF;
      EXCEPTION WHEN integrity_constraint_violation OR data_exception THEN NULL; END;
    END LOOP;
    BEGIN
      SELECT attname INTO STRICT key FROM pg_constraint k JOIN pg_attribute a
        ON a.attrelid = conrelid AND a.attnum = ALL (conkey)
        WHERE conrelid = t.oid AND contype = 'p' AND cardinality(conkey) = 1
          AND a.atttypid IN ('int'::regtype, 'bigint'::regtype);
      EXECUTE format('INSERT INTO %1$s OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(x,
         jsonb_build_object(%2$L, %2$I + 1000000))).* FROM ONLY %1$s AS x LIMIT 3', t.name, key);
    EXCEPTION WHEN OTHERS THEN NULL; END;
    EXECUTE format('DELETE FROM ONLY %s WHERE ctid::text LIKE ''%%[02468])''', t.name);
    EXECUTE format('DELETE FROM ONLY %s WHERE ctid::text ~ ''[02468].$''', t.name);
  END LOOP;
END $$;
"""


@dataclass(frozen=True)
class Rows:
    """What a database holds. A table is named as pg_dump writes it."""

    tables: dict[str, Counter[str]]
    columns: dict[str, str]
    sequences: dict[str, tuple[int, bool]]
    large_objects: dict[int, str]  # oid → content as hexadecimal digits


def pg_dump(database: Database, *options: str) -> str:
    """The output of the newest pg_dump, without peersync's own schema."""
    newest = list(pgcluster.find_installations().values())[-1]
    command: list[str | Path] = [
        newest.bindir / "pg_dump", "-O", "-x", "-N", "peersync", "-E", "UTF8", *options,
        "-d", database.conninfo(user=pgcluster.SUPERUSER),
    ]  # fmt: skip
    env = {**os.environ, "PGOPTIONS": "-c bytea_output=hex -c lc_monetary=C -c TimeZone=UTC"}
    return subprocess.run(command, check=True, capture_output=True, env=env).stdout.decode()


def rows_of(database: Database, *options: str) -> Rows:
    """Everything that is data in a database."""
    text = pg_dump(database, "--data-only", *options)
    tables: dict[str, Counter[str]] = {}
    columns: dict[str, str] = {}
    at = 0
    rest = []
    while (match := _COPY.search(text, at)) is not None:
        rest.append(text[at : match.start()])
        end = text.index("\\.\n", match.end() - 1)
        while text[end - 1] != "\n":
            end = text.index("\\.\n", end + 1)
        lines = text[match.end() : end].split("\n")[:-1]
        tables[match[1]] = Counter(lines)
        columns[match[1]] = match[2] or ""
        at = end + 3
    rest.append(text[at:])
    between = "".join(rest)
    sequences = {m[1]: (int(m[2]), m[3] == "true") for m in _SETVAL.finditer(between)}
    return Rows(tables, columns, sequences, _large_objects(between))


def _large_objects(text: str) -> dict[int, str]:
    found: dict[int, str] = {}
    oid = 0
    for match in _LARGE_OBJECT.finditer(text):
        if match[1]:
            oid = int(match[1])
            found.setdefault(oid, "")
        else:
            found[oid] += match[2]
    return found


def assert_same_rows(source: Database, target: Database, *options: str) -> None:
    """Rows, sequences and large objects are equal, table by table."""
    there, here = rows_of(source, *options), rows_of(target, *options)
    assert here.columns == there.columns
    for table, lines in there.tables.items():
        _assert_same(table, lines, here.tables[table])
    assert here.sequences == there.sequences
    assert here.large_objects == there.large_objects


def _assert_same(table: str, there: Counter[str], here: Counter[str]) -> None:
    missing, extra = there - here, here - there
    assert not missing, f"{table}: {missing.total()} rows are missing: {_some(missing)}"
    assert not extra, f"{table}: {extra.total()} rows are too many: {_some(extra)}"


def extra_rows(source: Database, target: Database) -> dict[str, Counter[str]]:
    """The rows that only the target has; every row of the source must be there."""
    there, here = rows_of(source), rows_of(target)
    found = {}
    for table, lines in there.tables.items():
        missing = lines - here.tables[table]
        assert not missing, f"{table}: {missing.total()} rows are missing: {_some(missing)}"
        found[table] = here.tables[table] - lines
    return found


def _some(lines: Iterable[str]) -> str:
    return "\n".join(sorted(lines)[:3])[:600]


def schema_of(database: Database) -> list[str]:
    """The definitions of a database, without what no full sync copies."""
    text = pg_dump(database, "--schema-only")
    found = [s.text for s in split_statements(text.encode()) if not _NOT_COPIED.match(s.text)]
    return sorted(_alike(text) for text in found)


def _alike(text: str) -> str:
    """A definition as every version prints it.

    Before 18 a NOT NULL has no name, where 18 prints the standard one if it was cut off; and
    columns of a query over one table are qualified before 16, and not after it.
    """
    if _QUERY.match(text):
        head, word, query = text.partition("\n")
        return head + word + re.sub(r"\b\w+\.(?=\w)", "", query)
    return _NOT_NULL.sub(" NOT NULL", text)


def assert_same_schema(source: Database, target: Database) -> None:
    """The definitions are equal, statement by statement."""
    there, here = Counter(schema_of(source)), Counter(schema_of(target))
    missing, extra = there - here, here - there
    assert not missing and not extra, "\n".join(
        [*(f"- {text}" for text in sorted(missing)), *(f"+ {text}" for text in sorted(extra))]
    )


def stored(database: Database) -> str:
    """Where every row version lies and who wrote it: equal only if nothing was rewritten."""
    return database.psql(
        _UNHURRIED
        + "SELECT format('SELECT %L, md5(coalesce(string_agg(xmin || ctid::text, '','' ORDER BY"
        " ctid), ''-'')) FROM ONLY %s', c.oid::regclass, c.oid::regclass) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
        " AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'peersync')"
        " ORDER BY c.oid \\gexec"
    )


def spoil(database: Database) -> None:
    """Changes the rows of every table in ways that a full sync has to mend."""
    database.cluster.psql(_UNHURRIED + _SPOIL, database.name)
