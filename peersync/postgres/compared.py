"""What is known of a table of which only the rows that differ were sent, and if it still holds.

Everything that a sync does with such a table rests on one comparison, made in a snapshot of this
database: rows that were equal then are not looked at again. So the final transaction first proves,
when nobody can write any more, that the table is what that snapshot saw. Every row version names
the transaction that made it: one that is not older than the snapshot's horizon may be a change;
and a row that was deleted is missing in the count. Asking `pg_visible_in_snapshot` would be wrong
here: it does not know subtransactions. What may have changed is left to `meanwhile`, which looks
at just those rows.

A table can change without its rows: a new column has its default in no row, two columns change
names, another table takes the name, labels of an enum are exchanged. So the catalog's rows of the
table, its columns and their types have to be the same ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from peersync.core.errors import RowsChanged
from peersync.core.names import TableName, quote_literal
from peersync.postgres.catalog import Fetches
from peersync.postgres.meanwhile import LookBack, NotTakenIn, file_sql, recent_sql, take_in

if TYPE_CHECKING:
    from peersync.postgres.load import TableLoad


@dataclass(frozen=True)
class Seen:
    """What a snapshot saw of a table.

    horizon: the oldest transaction that was running, so that all older ones are seen or gone.
    form: a digest of the table itself, its columns and their types (`form_sql`).
    file: where its rows are stored. exported: the snapshot's name, to look back while it is held.
    """

    horizon: int
    form: str
    file: str
    exported: str


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found. `only_here` holds the keys of rows that only this side has.

    wanted: how many rows the other side was asked for, each of which it must have once.
    """

    seen: Seen
    rows_there: int
    rows_here: int
    only_here: TableName
    blocks: int
    differing: int
    wanted: int


async def look(connection: Fetches, table: TableName, exported: str) -> Seen:
    """What the snapshot of the connection's transaction, known as `exported`, sees of a table."""
    row = await connection.fetchrow(
        "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text AS low,"
        f" {file_sql(table)} AS file"
    )
    form = (await connection.fetchrow(form_sql(table)))["form"]
    return Seen(int(row["low"]), form, row["file"], exported)


def bring_up_to_date(
    connection: psycopg.Connection, load: TableLoad, look_back: LookBack | None
) -> None:
    """Makes what is staged hold for the table as it is now; it must be locked. Reads all of it.

    Raises NotTakenIn where all rows have to come instead.
    """
    found, table = load.compared, load.table.name
    assert found is not None
    form = connection.execute(form_sql(table).encode()).fetchone()
    if form != (found.seen.form,):
        raise NotTakenIn("it was altered")
    recent = recent_sql(found.seen.horizon)
    row = connection.execute(
        f"SELECT count(*), count(*) FILTER (WHERE {recent}) FROM ONLY {table.sql} AS t".encode()  # noqa: S608
    ).fetchone()
    if row != (found.rows_here, 0):
        assert row is not None
        take_in(connection, load, row[0], look_back)


def form_sql(table: TableName) -> str:
    """A digest of the catalog's rows: the table, its columns, and all types that they are made of.

    Each row names the transaction that wrote it. A rewrite of the table (VACUUM FULL) alone is no
    change, and one that changes rows makes new versions of them.
    """
    oid = f"pg_catalog.to_regclass({quote_literal(table.sql)})::oid"
    return _FORM.replace("<table>", oid)


_FORM: Final = """
WITH RECURSIVE used (oid) AS (
    SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = <table> AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT n.oid
      FROM used AS u
      JOIN pg_catalog.pg_type AS t ON t.oid = u.oid
      LEFT JOIN pg_catalog.pg_range AS r
        ON r.rngtypid = t.oid
        OR (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid  -- not before PostgreSQL 14
     CROSS JOIN LATERAL (
            VALUES (t.typbasetype), (t.typelem), (r.rngtypid), (r.rngsubtype)
             UNION ALL
            SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
           ) AS n (oid)
     WHERE n.oid <> 0
), line (text) AS (
    SELECT pg_catalog.concat_ws(' ', 'table', c.oid, c.relkind, c.relpersistence)
      FROM pg_catalog.pg_class AS c WHERE c.oid = <table>
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'column', a.attrelid, a.attnum, a.atttypid, a.atttypmod,
                                a.attcollation, a.xmin, a.attname)
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attnum > 0 AND NOT a.attisdropped
       AND (a.attrelid = <table>
            OR a.attrelid IN (SELECT t.typrelid FROM used
                                JOIN pg_catalog.pg_type AS t USING (oid) WHERE t.typrelid <> 0))
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'type', t.oid, t.xmin)
      FROM pg_catalog.pg_type AS t JOIN used USING (oid)
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'label', e.oid, e.enumsortorder, e.xmin, e.enumlabel)
      FROM pg_catalog.pg_enum AS e JOIN used ON used.oid = e.enumtypid
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'range', r.rngtypid, r.xmin)
      FROM pg_catalog.pg_range AS r JOIN used ON used.oid = r.rngtypid
     UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'check', k.oid, k.xmin)
      FROM pg_catalog.pg_constraint AS k JOIN used ON used.oid = k.contypid
)
SELECT pg_catalog.md5(pg_catalog.string_agg(l.text, E'\\n' ORDER BY l.text COLLATE pg_catalog."C"))
       AS form
  FROM line AS l
"""


def refuse_changed(
    connection: psycopg.Connection,
    loads: Sequence[TableLoad],
    look_back: LookBack | None = None,
) -> None:
    """Takes in what was written here to tables since they were compared.

    Raises RowsChanged, naming them, where that can't be, or where not just the rows came that
    were asked for. Call it when they are locked, before anything is written. `look_back` connects
    once more, to see tables as they were.
    """
    changed: dict[TableName, str] = {}
    others = []
    for load in loads:
        found = load.compared
        if found is None or load.error is not None:
            continue
        if load.rows != found.wanted:
            others.append(load.table.name)
            continue
        try:
            bring_up_to_date(connection, load, look_back)
        except NotTakenIn as exc:
            changed[load.table.name] = str(exc)
            continue
        if load.rows and load.merge.key is not None:
            connection.execute(_forget_matched(load).encode())
    if changed:
        why = "; ".join(dict.fromkeys(changed.values()))
        what = "rows of {} were changed here after they had been compared: "
        raise _refused(list(changed), what + why.replace("{", "{{").replace("}", "}}"))
    if others:
        raise _refused(others, "of {} came other rows than those that were asked for")


def _refused(tables: Sequence[TableName], why: str) -> RowsChanged:
    return RowsChanged(
        why.format(", ".join(map(str, tables))),
        hint="They are sent whole in the next attempt.",
        tables=[[name.schema, name.name] for name in tables],
    )


def _forget_matched(load: TableLoad) -> str:
    """Keys that are equal and have other texts (1.0 and 1.00) are not only here."""
    found, merge = load.compared, load.merge
    assert found is not None
    only_here, staged = found.only_here.sql, merge.stage.sql
    return f"DELETE FROM {only_here} AS t USING {staged} AS s WHERE {merge.on()}"  # noqa: S608


@contextmanager
def few_rows(connection: psycopg.Connection, load: TableLoad) -> Iterator[None]:
    """Lets the few rows of a comparison be found by the table's index, one by one.

    An error ends the caller's savepoint, and the setting with it.
    """
    if load.compared is None:
        yield
        return
    connection.execute("SET LOCAL enable_nestloop = on")
    yield
    connection.execute("SET LOCAL enable_nestloop = off")


def count_only_here(connection: psycopg.Connection, load: TableLoad, *, but: str = "true") -> int:
    """How many rows `t` are in the table whose keys only this side had."""
    merge = load.merge
    row = connection.execute(
        f"SELECT count(*) FROM {merge.rows_only_here()} WHERE {but}".encode()  # noqa: S608
    ).fetchone()
    assert row is not None
    return int(row[0])
