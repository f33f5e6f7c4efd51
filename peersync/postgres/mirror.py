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
from peersync.postgres.foreign_keys import ForeignKey, Unit
from peersync.postgres.tables import TableWork
from peersync.postgres.write import REFUSALS, refusal_words

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
            for oid, current in mine.items():
                query = current.load.merge.delete_gone()
                deleted[oid] = connection.execute(query.encode()).rowcount
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
    connection.execute(f"DROP TABLE IF EXISTS {merge.gone.sql}".encode())
    connection.execute(merge.create_gone(sorted(referred), spare_aside=spare).encode())
    connection.execute(f"ANALYZE {merge.gone.sql}".encode())


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
            f" AND NOT EXISTS (SELECT FROM {child.load.merge.gone.sql} AS g "
            "WHERE g.peersync_at = c.ctid)"
        )
    return (
        f"DELETE FROM {parent.load.merge.gone.sql} AS p WHERE EXISTS "
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
