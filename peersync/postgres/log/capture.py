"""Capture: which tables of a database have triggers that log their changes, and keeping it so.

Owns the triggers on the user's tables and their generated functions (sql/functions/capture*.sql
says how they work and why they can't fail). Each table is made ready in short transactions of
its own, under a lock timeout: a busy table is said to be locked and tried again by the next
call, the others go on. What is as it should be costs one query and no lock.

Rows that a table already has are not logged, they travel by the full sync that a member joins
with. Only where this database is an active member, and the table was made since, are they logged
as inserts: nobody else can have them. That a table is recorded as seen means no less than that its
triggers were made, or that it was left out on purpose; who gave it its number means nothing. What a
dump has recorded of the database that it was made of is told by the home of that database.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import asyncpg

from peersync.core.errors import DatabaseError
from peersync.core.names import TableName, quote_ident
from peersync.core.patterns import Patterns
from peersync.postgres.errors import translated
from peersync.postgres.log.members import read_home
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("capture")
LOCKED: Final = "locked: another transaction uses the table; it is tried again"
BY_OPERATOR: Final = "left out by an operator: peersync tables add takes it back"
UNLOGGED: Final = "it is unlogged: a crash of the server empties it"
_NO_RIGHT: Final = "the right is missing"
_LEFT_OUT: Final = "left out by the configuration"
_MORE_S: Final = 0.3  # than autovacuum needs to see that somebody waits
_OF_EXTENSION: Final = "it belongs to an extension"


@dataclass(frozen=True)
class TableState:
    """What periodic sync does with a table: captured, excluded, refused, gone, unknown.

    `reason` says why where it is not captured. `tbl` and `shape` are its numbers in the log.
    """

    name: TableName
    state: str
    reason: str | None
    tbl: int | None = None
    shape: int | None = None
    strategy: str = "newer_wins"
    parked: str | None = None


@dataclass(frozen=True)
class _Want:
    """What a table should be; `relations` are to be made ready for it."""

    name: TableName
    root: int
    shape: int
    state: str
    reason: str | None
    relations: tuple[Any, ...]


async def enrol(
    conn: asyncpg.Connection, patterns: Patterns, *, lock_timeout_s: float
) -> list[TableState]:
    """Captures every table that the patterns mean, and stops capturing those they do not.

    `conn` is outside a transaction. Raises what the database raises for all tables; what fails
    for one is that table's state and reason. A partitioned table stands for its partitions.
    """
    with translated("capturing changes"):
        home = await read_home(conn)
        rows = await conn.fetch(_SQL["relations"], home)
        groups = groupby(rows, key=lambda row: TableName(row["schema"], row["name"]))
        wants = [_judge(name, tuple(group), patterns) for name, group in groups]
        for want in wants:
            await _make_so(conn, want, home, lock_timeout_s)
        names = [want.name for want in wants]
        await conn.execute(_SQL["gone"], [n.schema for n in names], [n.name for n in names])
        for row in await conn.fetch(_SQL["orphans"]):
            await conn.execute(f"DROP FUNCTION IF EXISTS {row['function']}")
        await _listen_to_ddl(conn)
    return await table_states(conn)


async def remove(
    conn: asyncpg.Connection,
    names: Iterable[TableName] | None = None,
    *,
    lock_timeout_s: float = 0,
) -> None:
    """Drops the triggers and functions of these tables, or of all. 0 waits for locks for ever."""
    schemas, tables = _columns(names)
    with translated("removing the capture of changes"):
        for row in await conn.fetch(_SQL["functions"], schemas, tables):
            await _drop(conn, row["function"], lock_timeout_s)
        if names is None:
            await _drop_event_trigger(conn)
        await conn.execute(_SQL["removed"], schemas, tables)


async def table_states(conn: asyncpg.Connection) -> list[TableState]:
    """Every table that is known, by name. A captured one whose triggers are off is refused."""
    with translated("reading which tables are captured"):
        rows = await conn.fetch(_SQL["states"])
    return [
        TableState(
            name=TableName(row["schema_name"], row["table_name"]),
            state=row["state"],
            reason=row["reason"],
            tbl=row["tbl"],
            shape=row["shape"],
            strategy=row["strategy"],
            parked=row["parked"],
        )
        for row in rows
    ]


async def keyless_tables(conn: asyncpg.Connection) -> list[TableName]:
    """Captured tables without a key: bags of rows."""
    with translated("reading which tables have no key"):
        rows = await conn.fetch(_SQL["keyless"])
    return [TableName(row["schema_name"], row["table_name"]) for row in rows]


async def catalog_stamp(conn: asyncpg.Connection) -> str:
    """Another text whenever a table, column, key, trigger or strategy changed; cheap to ask."""
    with translated("looking for changed tables"):
        stamp: str = await conn.fetchval(_SQL["catalog_stamp"])
    return stamp


# --- what should be -------------------------------------------------------------------------
def _judge(name: TableName, rows: tuple[Any, ...], patterns: Patterns) -> _Want:
    """`rows`: the relation of this name first, then its partitions."""
    root = rows[0]
    state, reason = "captured", None
    if not patterns.match(name):
        state, reason = "excluded", _LEFT_OUT
    elif (root["state"], root["reason"]) == ("excluded", BY_OPERATOR):
        state, reason = "excluded", BY_OPERATOR
    elif root["extension"]:
        state, reason = "excluded", _OF_EXTENSION
    elif root["is_foreign"]:
        state, reason = "excluded", "a foreign table: its rows are on another server"
    elif root["unlogged"]:
        state, reason = "excluded", UNLOGGED
    elif reason := _refusal(rows):
        state = "refused"
    return _Want(name, root["root"], root["shape"], state, reason, rows)


def _refusal(rows: Sequence[Any]) -> str | None:
    if rows[0]["empty"]:
        return "it has no columns"
    if rows[0]["bad_key"]:
        return (
            f"equal values of its key column {rows[0]['bad_key']} can be written in many ways, so "
            "rows can't be told apart by it: give the table another unique key, not null"
        )
    for row in rows:
        if row["is_foreign"]:
            return (
                f"its partition {row['own']} is a foreign table: "
                "changes through the parent can't be seen"
            )
        if not row["may"] and not row["current"]:
            return f"{_NO_RIGHT}: GRANT TRIGGER, SELECT ON {row['own']}"
        if row["off"]:
            return (
                f"its trigger {row['off']} on {row['own']} is switched off or fires always: "
                "ALTER TABLE … ENABLE TRIGGER"
            )
    return None


# --- making it so ---------------------------------------------------------------------------
async def _make_so(conn: asyncpg.Connection, want: _Want, home: str, lock_timeout_s: float) -> None:
    root = want.relations[0]
    state, reason, relation = want.state, want.reason, want.root
    try:
        if state == "captured":
            await _install(conn, want, lock_timeout_s)
        elif state == "excluded":
            for row in want.relations:
                if row["has_function"]:
                    await _drop(conn, f"peersync.capture_{row['oid']}()", lock_timeout_s)
    except asyncpg.LockNotAvailableError:
        state, reason = "refused", LOCKED
    except asyncpg.InsufficientPrivilegeError as exc:
        state, reason = "refused", f"{_NO_RIGHT}: {exc}"
    except asyncpg.ObjectNotInPrerequisiteStateError as exc:
        state, reason = "refused", str(exc)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedObjectError):
        return  # dropped just now: the next call says so
    recorded = (root["state"], root["reason"], root["known_shape"], root["known"])
    if recorded == (state, reason, want.shape, True):
        return
    # a table that could not be captured at its first sight is new to the others when it is
    passing = reason == LOCKED or (reason or "").startswith(_NO_RIGHT)
    for_now = state == "refused" or reason in (UNLOGGED, _OF_EXTENSION)
    waits = passing or (for_now and root["active"])
    seen = None if waits and not root["known"] else relation
    if recorded != (state, reason, want.shape, seen is not None):
        await conn.execute(_SQL["record"], *want.name, seen, want.shape, state, reason, home)


async def _install(conn: asyncpg.Connection, want: _Want, lock_timeout_s: float) -> None:
    for row in want.relations:
        if row["current"]:
            continue
        vacuum_ms = await conn.fetchval(_SQL["vacuum_gives_way"], row["oid"])
        timeout_s = max(lock_timeout_s, vacuum_ms / 1000 + _MORE_S) if vacuum_ms else lock_timeout_s
        async with conn.transaction(isolation="read_committed"):
            await _set_timeout(conn, timeout_s)
            await conn.execute(_SQL["add_number"], *want.name)
            tbl = await conn.fetchval(_SQL["number"], *want.name)
            ours = row["active"] and not row["moved"]
            if await conn.fetchval(_SQL["install"], row["oid"], tbl, ours) is None:
                raise DatabaseError(f"{want.name} has no number in the log")


async def _drop(conn: asyncpg.Connection, function: str, lock_timeout_s: float) -> None:
    """CASCADE takes its triggers along: that needs no ownership of the table."""
    async with conn.transaction():
        await _set_timeout(conn, lock_timeout_s)
        await conn.execute(f"DROP FUNCTION IF EXISTS {function} CASCADE")


async def _set_timeout(conn: asyncpg.Connection, seconds: float) -> None:
    await conn.execute(f"SET LOCAL lock_timeout = {int(seconds * 1000)}")


_EVENT_TRIGGER: Final = quote_ident("peersync_ddl")
_TAGS: Final = "'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE INDEX'"


async def _listen_to_ddl(conn: asyncpg.Connection) -> None:
    """Only a superuser may have event triggers; without, the agent looks by itself."""
    row = await conn.fetchrow(_SQL["event_trigger"])
    if row["may"] and not row["made"]:
        await conn.execute(
            f"CREATE EVENT TRIGGER {_EVENT_TRIGGER} ON ddl_command_end WHEN TAG IN ({_TAGS}) "
            "EXECUTE FUNCTION peersync.ddl_noticed()"
        )


async def _drop_event_trigger(conn: asyncpg.Connection) -> None:
    row = await conn.fetchrow(_SQL["event_trigger"])
    if row["made"] and row["may"]:
        await conn.execute(f"DROP EVENT TRIGGER {_EVENT_TRIGGER}")


def _columns(names: Iterable[TableName] | None) -> tuple[list[str] | None, list[str] | None]:
    if names is None:
        return None, None
    found = list(names)
    return [name.schema for name in found], [name.name for name in found]
