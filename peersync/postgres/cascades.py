"""Keeps a change of one table from changing rows of another behind our back.

Where the role may set `session_replication_role`, ON DELETE and ON UPDATE of foreign keys stay
quiet. Any other role would set them off: rows would go or change uncounted, unjournalled and
unasked for. So what they would reach is looked for first, and the table refused if there is any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import errors as pg

from peersync.core.names import TableName
from peersync.postgres.sqlfiles import queries


class Cascade(NamedTuple):
    """A foreign key of `child` (c) to `columns` of the table (t)."""

    child: str
    name: str
    on_delete: bool
    on_update: bool
    columns: Sequence[str]
    meets: str


def read_cascades(connection: psycopg.Connection, oid: int) -> list[Cascade]:
    rows = psycopg.RawCursor(connection).execute(queries("cascades")["cascades"], (oid,)).fetchall()
    return [Cascade(*row) for row in rows]


def refuse_cascade(
    connection: psycopg.Connection, table: TableName, cascade: Cascade, rows: str, deed: str
) -> None:
    """Raises when rows of another table refer to rows of this one that will be changed.

    `rows` is what else is joined, to say which rows `t` of the table are meant.
    """
    found = connection.execute(
        f"SELECT count(*) FROM {cascade.child} AS c JOIN ONLY {table.sql} AS t "
        f"ON {cascade.meets} {rows}".encode()
    ).fetchone()
    if found is not None and found[0]:
        child = cascade.child.removeprefix("ONLY ")
        raise pg.InsufficientPrivilege(
            f"{found[0]} rows of {child} refer to rows of {table} that would be {deed}, and the "
            f"foreign key {cascade.name} would then change them, too; this role would have to be "
            "allowed to keep it quiet: GRANT SET ON PARAMETER session_replication_role TO it"
        )
