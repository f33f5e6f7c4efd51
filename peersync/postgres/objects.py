"""What a database holds besides rows: large objects and the values of sequences.

Both belong to the final transaction. Nothing is taken away here: large objects that only the
target has stay, and a sequence only ever moves on.
"""

from __future__ import annotations

import psycopg
from msgspec.structs import replace

from peersync.core.names import TableName, quote_ident, quote_literal
from peersync.core.results import TableResult
from peersync.dump.pieces import SequenceValue
from peersync.postgres.catalog import Table
from peersync.postgres.errors import translate
from peersync.postgres.load import Loading
from peersync.postgres.sqlfiles import queries
from peersync.postgres.write import words


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


def raise_sequences(connection: psycopg.Connection, loading: Loading) -> dict[TableName, list[str]]:
    """Moves each sequence to the further of both values, in its own direction.

    One that this session created gets the very value of the source; one of which the source says
    nothing, but whose column got rows, is moved past them. setval is not undone by a rollback, so
    this comes last; it only ever moves on. Gives what could not be set, by the table of this sync
    that owns the sequence, or by the sequence.
    """
    failed: dict[TableName, list[str]] = {}
    filled = _filled(loading)
    rows = connection.execute(queries("catalog")["sequences"].encode()).fetchall()
    for schema, name, increment, owner_schema, owner_name, owner_column in rows:
        sequence = TableName(schema, name)
        owner = TableName(owner_schema, owner_name) if owner_name else None
        value = loading.sequences.get(sequence)
        table = filled.get(owner) if owner else None
        try:
            if value is not None:
                _raise_to(connection, value, increment, new=sequence in loading.new_sequences)
            elif owner is not None and table is not None and _counts(table, owner_column):
                only = "" if owner != table.name else "ONLY "
                rows_of = f"{only}{owner.sql}"
                _raise_past_rows(connection, sequence, increment, rows_of, owner_column)
        except (psycopg.DataError, psycopg.ProgrammingError) as exc:
            error = translate(exc, what=f"setting sequence {sequence}")
            known = owner if owner in loading.tables else None
            failed.setdefault(known or sequence, []).append(words(error))
    return failed


def _filled(loading: Loading) -> dict[TableName, Table]:
    """The tables that were here and got rows; the parent of such a partition has them, too."""
    tables = [x.table for x in loading.tables.values() if x.loaded and not (x.created or x.error)]
    parents = {t.parent: t for t in tables if t.parent is not None}
    return parents | {t.name: t for t in tables}


def _counts(table: Table, column: str) -> bool:
    """A sequence may own a column of another type, whose values it only has a part in."""
    found = table.column(column)
    return found is not None and found.type in ("smallint", "integer", "bigint")


def _raise_to(
    connection: psycopg.Connection, value: SequenceValue, increment: int, *, new: bool
) -> None:
    ident = value.sequence.sql
    further = ">" if increment > 0 else "<"
    called = "true" if value.is_called else "false"
    further_on = (
        f"{value.value} {further} q.last_value OR {value.value} = q.last_value AND {called}"
    )
    with connection.transaction():
        connection.execute(
            f"SELECT pg_catalog.setval({quote_literal(ident)}, {value.value}, {called}) "
            f"FROM {ident} AS q WHERE ({value.value}, {called}) IS DISTINCT FROM "
            f"(q.last_value, q.is_called) AND ({new} OR {further_on})".encode()
        )


def _raise_past_rows(
    connection: psycopg.Connection, sequence: TableName, increment: int, rows_of: str, column: str
) -> None:
    """In whole steps of its own, so that servers which count in turns still do."""
    furthest, beyond = ("max", ">") if increment > 0 else ("min", "<")
    ident = sequence.sql
    with connection.transaction():
        connection.execute(
            f"SELECT pg_catalog.setval({quote_literal(ident)}, (q.last_value + {increment} * "
            f"pg_catalog.ceil((r.n - q.last_value) / {increment}::numeric))::bigint, true) "
            f"FROM {ident} AS q, (SELECT {furthest}({quote_ident(column)})::numeric AS n "
            f"FROM {rows_of}) AS r "
            f"WHERE r.n {beyond} q.last_value OR r.n = q.last_value AND NOT q.is_called".encode()
        )


def note_sequences(
    results: list[TableResult], failed: dict[TableName, list[str]]
) -> list[TableResult]:
    """A sequence that stays behind makes its table "partly": its next insert may collide.

    One without a table has a line of its own.
    """
    noted = []
    for result in results:
        said = failed.pop(TableName(result.schema, result.name), None)
        if said and result.result == "done":
            result = replace(result, result="partly", error="\n".join(said))
        noted.append(result)
    noted += [
        TableResult(
            schema=name.schema,
            name=name.name,
            result="partly",
            note="a sequence, which stays as it was",
            error="\n".join(said),
        )
        for name, said in failed.items()
    ]
    return noted
