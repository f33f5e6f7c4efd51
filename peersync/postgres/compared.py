"""What is known of a table of which only the rows that differ were sent, and if it still holds.

Everything that a sync does with such a table rests on one comparison, made in a snapshot of this
database: rows that were equal then are not looked at again. So the final transaction first proves,
when nobody can write any more, that the table is what that snapshot saw. Every row version names
the transaction that made it: one that is not older than the snapshot's horizon, and that the
snapshot did not see, is a change; and a row that was deleted is missing in the count. Asking
`pg_visible_in_snapshot` would be wrong here: it does not know subtransactions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from peersync.core.errors import RowsChanged
from peersync.core.names import TableName
from peersync.postgres.catalog import Fetches

if TYPE_CHECKING:
    from peersync.postgres.load import TableLoad

_XID_BITS: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Seen:
    """Which row versions a snapshot saw.

    horizon: the oldest transaction that was running, so that all older ones are seen or gone.
    recent: of the rows that were made since then: how many, and a digest of which.
    """

    horizon: int
    recent: tuple[int, str]


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found. `only_here` holds the keys of rows that only this side has."""

    seen: Seen
    rows_there: int
    rows_here: int
    only_here: TableName
    blocks: int
    differing: int


async def look(connection: Fetches, table: TableName) -> Seen:
    """What the snapshot of the connection's transaction sees of a table.

    Read all of it only where some transaction is running: else nothing newer is seen.
    """
    row = await connection.fetchrow(
        "SELECT pg_catalog.pg_snapshot_xmin(s)::text AS low,"
        " pg_catalog.pg_snapshot_xmax(s)::text AS high"
        " FROM pg_catalog.pg_current_snapshot() AS s"
    )
    horizon = int(row["low"])
    if row["low"] == row["high"]:
        return Seen(horizon, (0, "0"))
    found = await connection.fetchrow(_recent(table, horizon))
    return Seen(horizon, (found["recent"], found["digest"]))


def as_compared(connection: psycopg.Connection, table: TableName, found: Comparison) -> bool:
    """Whether the table is still what was compared. Reads all of it; it must be locked."""
    row = connection.execute(_recent(table, found.seen.horizon).encode()).fetchone()
    assert row is not None
    rows, recent, digest = row
    return rows == found.rows_here and (recent, digest) == found.seen.recent


def _recent(table: TableName, horizon: int) -> str:
    """(rows, those made since the horizon, a digest of these). Ages are compared as xids are."""
    recent = (
        "pg_catalog.age(t.xmin) <= "
        f"(SELECT pg_catalog.age('{horizon & _XID_BITS}'::pg_catalog.xid))"
    )
    version = "pg_catalog.hashtextextended(t.ctid::text || ' ' || t.xmin::text, 0)"
    return (
        f"SELECT count(*) AS rows, count(*) FILTER (WHERE {recent}) AS recent, "  # noqa: S608
        f"coalesce(sum({version}) FILTER (WHERE {recent}), 0)::text AS digest "
        f"FROM ONLY {table.sql} AS t"
    )


def refuse_changed(connection: psycopg.Connection, loads: Sequence[TableLoad]) -> None:
    """Raises RowsChanged, naming them, if tables were written to since they were compared.

    Call it when they are locked, before anything is written.
    """
    changed = []
    for load in loads:
        found = load.compared
        if found is None or load.error is not None:
            continue
        if not as_compared(connection, load.table.name, found):
            changed.append(load.table.name)
        elif load.rows and load.merge.key is not None:
            connection.execute(_forget_matched(load).encode())
    if changed:
        names = ", ".join(map(str, changed))
        raise RowsChanged(
            f"rows of {names} were changed here after they had been compared",
            hint="They are sent whole in the next attempt.",
            tables=[[name.schema, name.name] for name in changed],
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
