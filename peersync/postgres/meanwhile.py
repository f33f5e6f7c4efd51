"""What was written to a table between its comparison and the final lock, looked at by itself.

A comparison holds its snapshot, so the rows that it saw can still be read, whatever became of
them. What changed since is found by the versions of rows alone: those that are there now and that
the snapshot does not see, and those that it sees and that are there no more. A row that was equal
when it was compared is what the other side sent of it, so where it was changed or deleted, its old
image is staged like a row that came; a row that is new, and that neither side of the comparison
knew, is one that only this side has. Then the table ends as if it had been compared under the lock.

Runs when nobody can write to the table, before anything is written by the sync. Refuses, and says
why, what would be too much to look at, and whatever does not add up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from peersync.core.errors import DatabaseError
from peersync.core.names import TableName, quote_literal
from peersync.postgres.merge import Merge, copy_into

if TYPE_CHECKING:
    from peersync.postgres.compared import Comparison
    from peersync.postgres.load import TableLoad

log = logging.getLogger("peersync.target")

LookBack = Callable[[], AbstractContextManager[psycopg.Connection]]

MOST_CHANGED: Final = 300_000  # rows that are looked at under the lock; beyond, all of them come
MOST_LISTED: Final = 2_000_000  # versions among which they are searched
_AT_ONCE: Final = 5_000
_SEEN, _NEW, _WAS = ("pg_temp.peersync_seen", "pg_temp.peersync_new", "pg_temp.peersync_was")
_XID_BITS: Final = 0xFFFFFFFF


class NotTakenIn(Exception):
    """All rows of the table are wanted after all, for this reason."""


def recent_sql(horizon: int) -> str:
    """Whether a row `t` was made by a transaction not older than this one. As ages of xids."""
    return (
        "pg_catalog.age(t.xmin) <= "
        f"(SELECT pg_catalog.age('{horizon & _XID_BITS}'::pg_catalog.xid))"
    )


def take_in(
    connection: psycopg.Connection, load: TableLoad, rows_now: int, look_back: LookBack | None
) -> None:
    """Stages what the sync has to write because of changes since the comparison.

    rows_now: how many rows the table has. Raises NotTakenIn.
    """
    found = load.compared
    assert found is not None
    if look_back is None or not found.seen.exported:
        raise NotTakenIn("what it was can not be looked at any more")
    if _file(connection, load.table.name) != found.seen.file:
        raise NotTakenIn("it was rewritten (VACUUM FULL, TRUNCATE)")
    try:
        with (
            connection.transaction(),
            look_back() as back,
            _as_it_was(back, load.table.name, found.seen.exported),
        ):
            new, gone = _changes(connection, back, load, found, rows_now)
            staged = _stage(connection, back, load, gone)
            only_here = _note_only_here(connection, load.merge)
    except DatabaseError as exc:  # looking back can't be had
        if exc.retryable:
            raise
        raise NotTakenIn(exc.message) from exc
    load.rows += staged
    log.info(
        "%s: %d rows written and %d gone since it was compared; %d are put back, %d are only here",
        load.table.name,
        new,
        len(gone),
        staged,
        only_here,
    )


def _file(connection: psycopg.Connection, table: TableName) -> str:
    row = connection.execute(f"SELECT {file_sql(table)}".encode()).fetchone()
    assert row is not None
    return str(row[0])


def file_sql(table: TableName) -> str:
    """Where the rows of a table are stored: another place once they were all written anew."""
    name = f"pg_catalog.to_regclass({quote_literal(table.sql)})"
    return f"pg_catalog.pg_relation_filenode({name})::text"


@contextmanager
def _as_it_was(back: psycopg.Connection, table: TableName, exported: str) -> Iterator[None]:
    """Never waits for a lock: who is before us in its queue waits for the final transaction."""
    with back.transaction():
        try:
            back.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            back.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(exported)}".encode())
            back.execute(f"LOCK TABLE ONLY {table.sql} IN ACCESS SHARE MODE NOWAIT".encode())
        except psycopg.Error as exc:
            raise NotTakenIn(f"what it was can not be looked at: {exc}") from exc
        yield


# --- which rows ------------------------------------------------------------------------------
def _changes(
    connection: psycopg.Connection,
    back: psycopg.Connection,
    load: TableLoad,
    found: Comparison,
    rows_now: int,
) -> tuple[int, list[str]]:
    """How many versions are new (their keys are in _NEW), and the places of those that are gone.

    A place stays taken while the snapshot is held that sees a row there.
    """
    merge, name = load.merge, load.table.name
    assert merge.key is not None
    recent = recent_sql(found.seen.horizon)
    _list_seen(connection, back, name, recent)
    keys = merge.listed(merge.key.columns, "t")
    connection.execute(f"DROP TABLE IF EXISTS {_NEW}".encode())
    new = connection.execute(
        f"CREATE TEMP TABLE {_NEW} ON COMMIT DROP AS SELECT {keys} FROM ONLY {name.sql} "  # noqa: S608
        f"AS t WHERE {recent} AND NOT EXISTS (SELECT FROM {_SEEN} AS v "
        f"WHERE v.place = t.ctid AND v.made = t.xmin::text) "
        f"LIMIT {MOST_CHANGED + 1}".encode()
    ).rowcount
    connection.execute(f"ANALYZE {_NEW}".encode())
    number = found.rows_here + new - rows_now
    if number < 0:
        raise NotTakenIn("the rows that were compared do not add up with those of now")
    if max(new, number) > MOST_CHANGED:
        raise NotTakenIn(f"more than {MOST_CHANGED} rows of it were changed")
    if number == 0:
        return new, []
    _list_seen(connection, back, name, "t.xmax <> 0")  # deleted, changed, or only locked
    rows = connection.execute(
        f"SELECT v.place::text FROM {_SEEN} AS v WHERE NOT EXISTS (SELECT FROM ONLY {name.sql} "  # noqa: S608
        "AS t WHERE t.ctid = v.place AND t.xmin::text = v.made)".encode()
    )
    gone = [row[0] for row in rows.fetchall()]
    if len(gone) != number:
        raise NotTakenIn("the rows that were compared do not add up with those of now")
    return new, gone


def _list_seen(
    connection: psycopg.Connection, back: psycopg.Connection, name: TableName, which: str
) -> None:
    """Places and makers of those rows that the comparison saw."""
    connection.execute(
        f"DROP TABLE IF EXISTS {_SEEN};"
        f"CREATE TEMP TABLE {_SEEN} (place tid, made text) ON COMMIT DROP".encode()
    )
    query = f"SELECT t.ctid, t.xmin::text FROM ONLY {name.sql} AS t WHERE {which}"  # noqa: S608
    listed = _pour(back, f"{query} LIMIT {MOST_LISTED + 1}", connection, f"COPY {_SEEN} FROM STDIN")
    if listed > MOST_LISTED:
        raise NotTakenIn(f"more than {MOST_LISTED} rows of it may have been changed")
    connection.execute(f"ANALYZE {_SEEN}".encode())


# --- what becomes of them --------------------------------------------------------------------
def _stage(
    connection: psycopg.Connection, back: psycopg.Connection, load: TableLoad, gone: Sequence[str]
) -> int:
    """Stages the old images of rows that were equal and are gone; how many.

    Those that differed are staged already, or only this side had them.
    """
    merge = load.merge
    if not gone:
        return 0
    assert merge.only_here is not None
    was = TableName("pg_temp", _WAS.partition(".")[2])
    connection.execute(
        f"DROP TABLE IF EXISTS {_WAS};"
        f"CREATE TEMP TABLE {_WAS} (LIKE {merge.stage.sql}) ON COMMIT DROP".encode()
    )
    columns = merge.listed(merge.columns, "t")
    for start in range(0, len(gone), _AT_ONCE):
        places = ",".join(f'"{place}"' for place in gone[start : start + _AT_ONCE])
        query = (
            f"SELECT {columns} FROM ONLY {load.table.name.sql} AS t "  # noqa: S608
            f"WHERE t.ctid = ANY ('{{{places}}}'::tid[])"
        )
        _pour(back, query, connection, copy_into(was, merge.columns))
    connection.execute(f"ANALYZE {_WAS}".encode())
    listed = merge.listed(merge.columns)
    staged = connection.execute(
        f"INSERT INTO {merge.stage.sql} ({listed}) SELECT {listed} FROM {_WAS} AS t "  # noqa: S608
        f"WHERE {_unknown(merge)}".encode()
    ).rowcount
    connection.execute(f"ANALYZE {merge.stage.sql}".encode())
    return staged


def _note_only_here(connection: psycopg.Connection, merge: Merge) -> int:
    """New rows that the other side does not have; how many."""
    assert merge.key is not None
    assert merge.only_here is not None
    keys = merge.listed(merge.key.columns)
    added = connection.execute(
        f"INSERT INTO {merge.only_here.sql} ({keys}) SELECT {keys} FROM {_NEW} AS t "  # noqa: S608
        f"WHERE {_unknown(merge)}".encode()
    ).rowcount
    if added:
        connection.execute(f"ANALYZE {merge.only_here.sql}".encode())
    return added


def _unknown(merge: Merge) -> str:
    """The key of `t` is neither staged nor known as only here."""
    assert merge.only_here is not None
    return " AND ".join(
        f"NOT EXISTS (SELECT FROM {table.sql} AS s WHERE {merge.on()})"
        for table in (merge.stage, merge.only_here)
    )


# --- from one connection to another ----------------------------------------------------------
def _pour(back: psycopg.Connection, query: str, connection: psycopg.Connection, into: str) -> int:
    """Rows as `back` sees them into a table of `connection`; how many."""
    cursor = connection.cursor()
    with closing(_copied(back, query)) as pieces, cursor.copy(into.encode()) as copy:
        for piece in pieces:
            copy.write(piece)
    return cursor.rowcount


def _copied(back: psycopg.Connection, query: str) -> Generator[bytes | bytearray | memoryview]:
    try:
        with back.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            yield from copy
    except psycopg.Error as exc:
        raise NotTakenIn(f"what it was could not be read: {exc}") from exc
