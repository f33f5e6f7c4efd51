"""Locks the tables of the final transaction, and says who is in the way when it can't.

A lock that is not had in time is asked about at once, while its holder is most likely still
there. Also the place where a table is found to be another than the one that was planned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors as pg

from peersync.core.errors import Locked, SchemaMismatch
from peersync.core.names import TableName
from peersync.postgres.catalog import Table
from peersync.postgres.load import TableLoad
from peersync.postgres.sqlfiles import queries

log = logging.getLogger("peersync.target")

_LOCKED_AT_ONCE = 200
# What keeps others from SHARE ROW EXCLUSIVE; and SELECT … FOR UPDATE, which holds single rows.
_CONFLICTING = (
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
_ROWS = ("RowShareLock", *_CONFLICTING)
_ANEW = "Start again: the plan is then made anew."


def lock_tables(
    connection: psycopg.Connection,
    loads: Sequence[TableLoad],
    neighbours: Mapping[int, TableName],
    timeout_s: int,
) -> None:
    """Keeps other writers out until the commit: a MERGE beside an INSERT fails on a new key.

    `neighbours` (oid → name) are not written, but must not change while foreign keys are
    checked against them: nobody else checks ours then. A table that was dropped or changed
    since the plan gets an `error` instead of a lock. Raises Locked, naming the holders.
    """
    _note_dropped(connection, loads)
    ordered = sorted((x.table for x in loads if x.error is None), key=lambda t: t.name)
    for start in range(0, len(ordered), _LOCKED_AT_ONCE):
        batch = ordered[start : start + _LOCKED_AT_ONCE]
        names = ", ".join(f"ONLY {t.name.sql}" for t in batch)
        by_oid = {t.oid: t.name for t in batch}
        with _naming_holders(connection, by_oid, _CONFLICTING, timeout_s):
            connection.execute(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE".encode())
    for oid, name in sorted(neighbours.items(), key=lambda item: item[1]):
        try:
            with _naming_holders(connection, {oid: name}, _CONFLICTING, timeout_s):
                connection.execute(f"LOCK TABLE {name.sql} IN SHARE MODE".encode())
        except pg.InsufficientPrivilege as exc:
            log.warning("foreign keys with %s are checked without locking it: %s", name, exc)
    _note_changed(connection, loads)


@contextmanager
def rows_are_locked(
    connection: psycopg.Connection, tables: Sequence[Table], timeout_s: int
) -> Iterator[None]:
    """Around work on tables that are locked: what it may still wait for are single rows."""
    with _naming_holders(connection, {t.oid: t.name for t in tables}, _ROWS, timeout_s):
        yield


@contextmanager
def _naming_holders(
    connection: psycopg.Connection,
    tables: Mapping[int, TableName],
    modes: Sequence[str],
    timeout_s: int,
) -> Iterator[None]:
    try:
        with connection.transaction():  # after its end the connection can be asked again
            yield
    except pg.LockNotAvailable as exc:
        raise _locked(connection, tables, modes, timeout_s) from exc
    except pg.UndefinedTable as exc:
        raise SchemaMismatch(
            f"a table of the plan was dropped here meanwhile: {exc.diag.message_primary}",
            hint=f"Nothing was changed. {_ANEW}",
        ) from exc


def _locked(
    connection: psycopg.Connection,
    tables: Mapping[int, TableName],
    modes: Sequence[str],
    timeout_s: int,
) -> Locked:
    rows = (
        psycopg.RawCursor(connection)
        .execute(queries("catalog")["lock_holders"], (list(tables), list(modes)))
        .fetchall()
    )
    if not rows:
        some = [str(name) for name in tables.values()][:3]
        names = ", ".join(some) + (" …" if len(tables) > 3 else "")
        return Locked(
            f"a lock on {names} was not had within {timeout_s} s; its holder has ended meanwhile",
            hint="Nothing was changed. Start again.",
            table=some[0] if some else "",
        )
    table = TableName(rows[0][0], rows[0][1])
    holders = list(dict.fromkeys(_holder(row) for row in rows if row[1] == table.name))
    pids = list(dict.fromkeys(row[2] for row in rows if row[2] is not None))
    ends = "; ".join(f"SELECT pg_terminate_backend({pid});" for pid in pids[:3])
    return Locked(
        f"{table} is locked by {', '.join(holders)}; waited {timeout_s} s",
        hint="Nothing was changed. Wait until it has ended, or end it"
        + (f": {ends}" if ends else " (ROLLBACK PREPARED)")
        + " Then start again, or raise full_sync.lock_timeout_s.",
        table=str(table),
        pids=pids,
    )


def _holder(row: Any) -> str:
    _, _, pid, application, user, state, since = row
    if pid is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    said = [application, f"user {user}" if user else None, state, f"since {since} UTC"]
    known = ", ".join(x for x in said[: 4 if since else 3] if x)
    return f"pid {pid} ({known})" if known else f"pid {pid}"


def _note_dropped(connection: psycopg.Connection, loads: Sequence[TableLoad]) -> None:
    tables = [load.table for load in loads]
    arguments = (
        [t.oid for t in tables],
        [t.name.schema for t in tables],
        [t.name.name for t in tables],
    )
    rows = (
        psycopg.RawCursor(connection).execute(queries("catalog")["existing"], arguments).fetchall()
    )
    there = {row[0] for row in rows}
    for load in loads:
        if load.table.oid not in there and load.error is None:
            load.error = SchemaMismatch(
                f"{load.table.name} was dropped or renamed here meanwhile", hint=_ANEW
            )


def _note_changed(connection: psycopg.Connection, loads: Sequence[TableLoad]) -> None:
    rows = (
        psycopg.RawCursor(connection)
        .execute(queries("catalog")["columns"], ([load.table.oid for load in loads],))
        .fetchall()
    )
    now: dict[int, set[tuple[str, str, bool]]] = {}
    for oid, name, kind, _not_null, generated, *_ in rows:
        now.setdefault(oid, set()).add((name, kind, generated))
    for load in loads:
        planned = {(c.name, c.type, c.generated) for c in load.table.columns}
        if load.error is None and now.get(load.table.oid, set()) != planned:
            changed = sorted({c[0] for c in now.get(load.table.oid, set()) ^ planned})
            load.error = SchemaMismatch(
                f"{load.table.name} was changed here meanwhile: column {', '.join(changed)}",
                hint=_ANEW,
            )
