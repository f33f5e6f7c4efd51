"""Deletes the rows that only the target has: what `--mirror` adds to a full sync.

A row that is still referred to by a row which stays is not deleted: neither may a foreign key
be left broken, which nobody would notice under the replica role, nor may ON DELETE CASCADE or
SET NULL reach rows that are no part of the sync. So what is deleted is closed: whoever refers
to it goes with it. Children come first; the caller sees to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import psycopg

from peersync.core.errors import VerifyFailed
from peersync.core.names import TableName, quote_ident
from peersync.postgres.aside import is_aside
from peersync.postgres.foreign_keys import ForeignKey, Unit
from peersync.postgres.merge import Merge
from peersync.postgres.tables import TableWork
from peersync.postgres.write import REFUSALS, column, refusal_words

_RETAINED = "{} rows that the source does not have stay, because rows of {} refer to them"


def delete_only_here(
    connection: psycopg.Connection, unit: Unit, works: Sequence[TableWork], *, replica_role: bool
) -> None:
    """Deletes from the tables of one unit, and counts; a refusal leaves all of them as they are.

    Tables that failed, that this session created or of which the source keeps rows to itself
    are passed over.
    """
    for work in works:
        if work.partial:
            work.retained_by = ["rows that are only here stay: the source keeps rows to itself"]
    mine = {w.load.table.oid: w for w in works if _is_mirrored(w)}
    current: TableWork | None = None
    deleted: dict[int, int] = {}
    try:
        with connection.transaction():
            for current in mine.values():
                _note_gone(connection, unit, current)
            current = None
            retained = _spare(connection, unit, mine)
            for oid, current in mine.items():  # all of them first: a delete may take others along
                load = current.load
                if load.journal is not None:
                    load.journal.take_deletes(load, _gone(load.merge))
                deleted[oid] = int(column(connection, _count(load.merge))[0])
            for current in reversed(list(mine.values())):  # children first
                connection.execute(_delete(current.load.merge).encode())
    except REFUSALS as exc:
        for work in mine.values():
            blamed = current or work
            said = refusal_words(exc, blamed.load, replica_role=replica_role)
            work.error = f"rows that are only here could not be deleted: {said}"
        return
    for oid, work in mine.items():
        work.deleted += deleted[oid]
        work.retained = retained[oid].total()
        work.retained_by = [
            _RETAINED.format(n, child) for child, n in sorted(retained[oid].items())
        ]


def _is_mirrored(work: TableWork) -> bool:
    return not (work.failed or work.load.created or work.partial)


def _note_gone(connection: psycopg.Connection, unit: Unit, work: TableWork) -> None:
    """Notes the rows that are only here, with the columns by which others refer to them."""
    merge = work.load.merge
    oid = work.load.table.oid
    referred = {c for key in unit.keys if oid in key.parents for c in key.parent_columns}
    spare = work.aside.any and merge.key is not None
    note_only_here(connection, merge, sorted(referred), spare_aside=spare)


def note_only_here(
    connection: psycopg.Connection, merge: Merge, columns: Sequence[str] = (), *, spare_aside: bool
) -> TableName:
    """Makes a table of the places (peersync_at) of rows that are only here, with these columns."""
    gone = _gone(merge)
    connection.execute(f"DROP TABLE IF EXISTS {gone.sql}".encode())
    connection.execute(_create(merge, columns, spare_aside=spare_aside).encode())
    connection.execute(f"ANALYZE {gone.sql}".encode())
    return gone


def _spare(
    connection: psycopg.Connection, unit: Unit, works: Mapping[int, TableWork]
) -> dict[int, Counter[str]]:
    """Takes back what rows that stay refer to, until there is no more: a circle goes whole."""
    retained: dict[int, Counter[str]] = {oid: Counter() for oid in works}
    number = 1
    while number:
        number = 0
        for key in unit.keys:
            for oid in sorted(key.parents & works.keys()):
                query = _spare_sql(key, works[oid], works.get(key.child))
                spared = connection.execute(query.encode()).rowcount
                retained[oid][str(key.child_name)] += spared
                number += spared
    return {oid: +counts for oid, counts in retained.items()}


def _spare_sql(key: ForeignKey, parent: TableWork, child: TableWork | None) -> str:
    stays = ""
    if child is not None:
        stays = (
            f" AND NOT EXISTS (SELECT FROM {_gone(child.load.merge).sql} AS g "
            "WHERE g.peersync_at = c.ctid)"
        )
    return (
        f"DELETE FROM {_gone(parent.load.merge).sql} AS p WHERE EXISTS "
        f"(SELECT FROM {key.child_sql} AS c WHERE {key.matches('p', 'c')}{stays})"
    )


def check_mirrored(work: TableWork) -> None:
    """Raises VerifyFailed if a verified table has rows of its own that nothing keeps here."""
    if work.target_only is None or work.error is not None or not _is_mirrored(work):
        return
    if work.target_only != work.retained:
        raise VerifyFailed(
            f"{work.load.table.name}: {work.target_only - work.retained} rows that only this "
            "database has were not deleted; everything was rolled back",
            hint="A trigger or a rule here may keep rows from being deleted.",
        )


def _gone(merge: Merge) -> TableName:
    """Where the places of rows are that will be deleted."""
    return TableName(merge.stage.schema, f"{merge.stage.name}_gone")


def _create(merge: Merge, columns: Sequence[str], *, spare_aside: bool) -> str:
    """The places (peersync_at) of the rows that only this table has, with these columns.

    Without a key they are the copies that are too many.
    """
    begin = f"CREATE UNLOGGED TABLE {_gone(merge).sql} AS SELECT "
    if merge.key is None:
        more = "".join(f", z.{quote_ident(c)}" for c in columns)
        own = "".join(f", x.{quote_ident(c)}" for c in columns)
        return (
            f"{begin}z.peersync_at{more} FROM (SELECT x.ctid AS peersync_at{own}, "
            f"{merge.text} AS peersync_text, row_number() OVER (PARTITION BY {merge.text}) "
            f"AS peersync_copy FROM ONLY {merge.table.name.sql} AS x) AS z "
            f"LEFT JOIN {merge.copies(merge.stage)} AS s ON s.r = z.peersync_text "
            "WHERE z.peersync_copy > coalesce(s.n, 0)"
        )
    more = "".join(f", t.{quote_ident(c)}" for c in columns)
    if merge.only_here is not None:
        spared = f"NOT {is_aside(merge, 't')}" if spare_aside else "true"
        return f"{begin}t.ctid AS peersync_at{more} FROM {merge.rows_only_here()} WHERE {spared}"
    return (
        f"{begin}t.ctid AS peersync_at{more} FROM ONLY {merge.table.name.sql} AS t "
        f"WHERE NOT EXISTS (SELECT FROM {merge.stage.sql} AS s WHERE {merge.on()})"
        + (f" AND NOT {is_aside(merge, 't')}" if spare_aside else "")
    )


def _count(merge: Merge) -> str:
    return f"SELECT count(*) FROM {_gone(merge).sql}"


def _delete(merge: Merge) -> str:
    return (
        f"DELETE FROM ONLY {merge.table.name.sql} AS t USING {_gone(merge).sql} AS g "
        "WHERE t.ctid = g.peersync_at"
    )
