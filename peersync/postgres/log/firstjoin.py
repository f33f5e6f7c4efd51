"""What a database that joins a group must have, and what of its own it brings along.

A member claims to have every change up to its vector. So a join that could not take in all rows,
or that leaves rows which nobody else has, is refused; with `merge` such rows are made changes of
this database instead, as if they were inserted now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from peersync.core.errors import DatabaseError, VerifyFailed
from peersync.core.words import counted
from peersync.postgres.mirror import note_only_here
from peersync.postgres.sqlfiles import queries
from peersync.postgres.tables import TableWork

_SQL: Final = queries("baseline")


def refuse_incomplete(works: Sequence[TableWork], *, mirrored: bool, sent: bool) -> None:
    """Raises VerifyFailed for tables that would not be the same on both sides."""
    for work in works:
        name = work.load.table.name
        if work.failed or work.error or work.outcome.absent or work.dropped or work.aside.rows:
            raise VerifyFailed(
                f"{name} could not be taken over whole, so this database can't join",
                detail=_why(work) or None,
                hint="Mend that, or leave the table out on both sides (exclude = [...] of the "
                "database in the configuration). Nothing was changed.",
            )
        if work.target_only and not mirrored and not sent:
            raise VerifyFailed(
                f"{name} has {counted(work.target_only, 'row')} that only this server has",
                hint="Send them to the others: peersync merge PEER. Or delete them: "
                "peersync join PEER --mirror. Nothing was changed.",
            )


def _why(work: TableWork) -> str:
    if work.error:
        return work.error
    words = "; ".join([*work.aside.words, *work.notes])
    return "\n".join(filter(None, (words, work.outcome.error)))


def send_only_here(connection: psycopg.Connection, works: Sequence[TableWork]) -> int:
    """Makes a change of each row that the source does not have; gives their number.

    Raises DatabaseError for a table whose changes are not captured.
    """
    number = 0
    for work in works:
        if work.load.created or work.target_only == 0:
            continue
        table = work.load.table
        row = psycopg.RawCursor(connection).execute(_SQL["captured_as"], (table.oid,)).fetchone()
        if row is None:
            raise DatabaseError(
                f"changes of {table.name} are not captured, so its rows can't be sent",
                hint="See why: peersync tables list. Nothing was changed.",
            )
        tbl, shape, root, key = row
        places = note_only_here(connection, work.load.merge, spare_aside=work.aside.any)
        number += connection.execute(
            f"INSERT INTO peersync.change (tbl, shape, op, key, image) "
            f"SELECT {int(tbl)}, {int(shape)}, 'I', {key or 'NULL'},"
            f" t::text FROM {root} AS t JOIN {places.sql} AS g ON g.peersync_at = t.ctid "
            f"WHERE t.tableoid = {int(table.oid)}".encode()
        ).rowcount
    return number
