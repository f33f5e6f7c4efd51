"""What a database holds besides rows: large objects and the values of sequences.

Both belong to the final transaction. Nothing is taken away here: large objects that only the
target has stay, and a sequence only ever moves on.
"""

from __future__ import annotations

import logging

import psycopg
from msgspec.structs import replace

from peersync.core.names import TableName, quote_literal
from peersync.core.results import TableResult
from peersync.postgres.errors import translate
from peersync.postgres.load import Loading
from peersync.postgres.sqlfiles import queries
from peersync.postgres.write import words

log = logging.getLogger("peersync.target")


def restore_large_objects(connection: psycopg.Connection, loading: Loading) -> None:
    """Creates the large objects that are missing and rewrites those that differ.

    One that is rewritten stays the same object, with its owner, its rights and its comment.
    """
    stage = loading.large_objects.sql
    connection.execute(
        f"CREATE INDEX ON {stage} (loid, at); ANALYZE {stage};"
        f"DO $peersync$ DECLARE o record; BEGIN"
        f" FOR o IN SELECT s.loid, max(s.at + length(s.data)) AS size FROM {stage} AS s"
        f" GROUP BY s.loid LOOP"
        f" IF NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = o.loid)"
        f" THEN PERFORM pg_catalog.lo_create(o.loid);"
        f" ELSIF length(pg_catalog.lo_get(o.loid, o.size, 1)) = 0 AND NOT EXISTS ("
        f"   SELECT FROM {stage} AS s WHERE s.loid = o.loid"
        f"   AND pg_catalog.lo_get(o.loid, s.at, length(s.data)) <> s.data)"
        f" THEN CONTINUE;"
        f" ELSE PERFORM pg_catalog.lo_truncate64(fd, 0), pg_catalog.lo_close(fd)"
        f" FROM pg_catalog.lo_open(o.loid, 131072) AS fd;"
        f" END IF;"
        f" PERFORM pg_catalog.lo_put(s.loid, s.at, s.data) FROM {stage} AS s"
        f" WHERE s.loid = o.loid AND length(s.data) > 0;"
        f" END LOOP; END $peersync$".encode()
    )


def raise_sequences(
    connection: psycopg.Connection, loading: Loading
) -> dict[TableName | None, list[str]]:
    """Moves each sequence to the further of both values, in its own direction.

    One that this session created gets the very value of the source. setval is not undone by
    a rollback, so this comes last; it only ever moves on. Gives what could not be set, by the
    table that owns the sequence (None: no table).
    """
    failed: dict[TableName | None, list[str]] = {}
    rows = connection.execute(queries("catalog")["sequences"].encode()).fetchall()
    for schema, name, increment, owner_schema, owner_name in rows:
        value = loading.sequences.get(TableName(schema, name))
        if value is None:
            continue
        ident = value.sequence.sql
        further = ">" if increment > 0 else "<"
        called = "true" if value.is_called else "false"
        further_on = (
            f"{value.value} {further} q.last_value OR {value.value} = q.last_value AND {called}"
        )
        try:
            with connection.transaction():
                connection.execute(
                    f"SELECT pg_catalog.setval({quote_literal(ident)}, {value.value}, {called}) "
                    f"FROM {ident} AS q WHERE ({value.value}, {called}) IS DISTINCT FROM "
                    f"(q.last_value, q.is_called) AND "
                    f"({value.sequence in loading.new_sequences} OR {further_on})".encode()
                )
        except (psycopg.DataError, psycopg.ProgrammingError) as exc:
            owner = TableName(owner_schema, owner_name) if owner_name else None
            error = translate(exc, what=f"setting sequence {value.sequence}")
            failed.setdefault(owner, []).append(words(error))
    return failed


def note_sequences(
    results: list[TableResult], failed: dict[TableName | None, list[str]]
) -> list[TableResult]:
    """A sequence that stays behind makes its table "partly": its next insert may collide."""
    noted = []
    for result in results:
        said = failed.pop(TableName(result.schema, result.name), None)
        if said and result.result == "done":
            result = replace(result, result="partly", error="\n".join(said))
        noted.append(result)
    for texts in failed.values():
        log.warning("%s", "; ".join(texts))
    return noted
