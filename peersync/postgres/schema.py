"""Restores the definitions that a peer's pg_dump wrote, and takes them back on failure.

This is the one place where SQL of a peer runs, and only a node whose owner gave that peer
the right "schema" comes here. What the session creates is recorded by oid in the very
transaction that creates it, so a crash at any point leaves a list to undo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from psycopg import errors as pg

from peersync.core.errors import SchemaMismatch
from peersync.core.names import TableName
from peersync.dump.lexer import split_statements
from peersync.dump.pieces import Statement
from peersync.postgres.errors import translate
from peersync.postgres.sqlfiles import queries

_IDENT = r'(?:"(?:[^"]|"")+"|[^\s".(;]+)'
_NAME = rf"(?:({_IDENT})\.)?({_IDENT})"
_INDEX = re.compile(rf"CREATE (?:UNIQUE )?INDEX {_IDENT} ON (?:ONLY )?{_NAME} ", re.DOTALL)
_INDEX_CONSTRAINT = re.compile(
    rf"ALTER TABLE (?:ONLY )?{_NAME}\s+ADD CONSTRAINT {_IDENT} (?:PRIMARY KEY|UNIQUE|EXCLUDE) ",
    re.DOTALL,
)
# Settings, what only a superuser may say, and what a security release of 2026 left in
# the catalog and no other version understands.
_LEFT_OUT = re.compile(
    r"SET |SELECT pg_catalog\.set_config\(|COMMENT ON EXTENSION |CREATE EVENT TRIGGER "
    r"|COMMENT ON EVENT TRIGGER |ALTER EVENT TRIGGER |CREATE (?:PUBLICATION|SUBSCRIPTION) "
    r"|ALTER TABLE [^;]*\(pg_attver=[^;]*;$",
    re.DOTALL,
)
_KEPT_IF_THERE = (
    pg.DuplicateObject,
    pg.DuplicateFunction,
    pg.DuplicateSchema,
    pg.DuplicateTable,
)


class Created(msgspec.Struct, frozen=True):
    """An object that a session created."""

    classid: int
    objid: int
    type: str
    identity: str


@dataclass(frozen=True)
class PostData:
    """The second half of a schema: what indexes each table gets, and everything else."""

    indexes: dict[TableName, list[str]]  # one table's are built one after another
    rest: list[str]


def restore_pre_data(connection: psycopg.Connection, sql: bytes, session: str) -> list[Created]:
    """Creates types, functions, tables … in one transaction, and records what is new."""
    created_sql = queries("created")
    with connection.transaction():
        cursor = psycopg.RawCursor(connection)
        connection.execute(
            "SET LOCAL check_function_bodies = off; SET LOCAL xmloption = content;"
            " SET LOCAL row_security = off"
        )
        before = set(cursor.execute(created_sql["objects"]).fetchall())
        for statement in _wanted(sql):
            _run(connection, statement)
        after = cursor.execute(created_sql["objects"]).fetchall()
        created = _identify(connection, [row for row in after if row not in before])
        cursor.execute(
            queries("sessions")["record_created"], (session, msgspec.json.encode(created).decode())
        )
    return created


def _wanted(sql: bytes) -> Iterable[Statement]:
    return (s for s in split_statements(sql) if not _LEFT_OUT.match(s.text))


def _run(connection: psycopg.Connection, statement: Statement) -> None:
    """Runs one statement; an object that is here already is kept as it is."""
    may_exist = statement.text.startswith("CREATE ") and not statement.text.startswith(
        "CREATE TABLE "
    )
    try:
        if may_exist:
            with connection.transaction():
                connection.execute(statement.text.encode())
        else:
            connection.execute(statement.text.encode())
    except _KEPT_IF_THERE as exc:
        if not may_exist:
            raise _refused(statement, exc) from exc
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        raise _refused(statement, exc) from exc


def _refused(statement: Statement, exc: psycopg.Error) -> SchemaMismatch:
    said = translate(exc, what="restoring the peer's schema")
    what = f"{statement.toc.type} {statement.toc.name}" if statement.toc else "a definition"
    return SchemaMismatch(
        f"this server refuses the peer's {what}",
        detail=f"{said.detail or said.message}\n{_excerpt(statement.text)}",
        hint="Create here what it needs (an extension, a role, a newer PostgreSQL), or create "
        "the tables yourself; then start again. Nothing of this sync is left.",
    )


def _excerpt(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + " …"


def split_post_data(sql: bytes) -> PostData:
    """Tells the indexes, which can be built side by side, from the rest, which keeps its order."""
    indexes: dict[TableName, list[str]] = {}
    rest: list[str] = []
    for statement in _wanted(sql):
        text = statement.text
        match = _INDEX.match(text) or _INDEX_CONSTRAINT.match(text)
        if match:
            name = TableName(_unquoted(match[1]), _unquoted(match[2]))
            indexes.setdefault(name, []).append(text)
        else:
            rest.append(text)
    return PostData(indexes, rest)


def _unquoted(ident: str | None) -> str:
    if ident is None or not ident.startswith('"'):
        return ident or ""
    return ident[1:-1].replace('""', '"')


def build_indexes(connection: psycopg.Connection, statements: Sequence[str]) -> None:
    """Builds one table's indexes, each in its own transaction."""
    for text in statements:
        _run(connection, Statement(text, 0, None))


def restore_rest(connection: psycopg.Connection, statements: Sequence[str]) -> None:
    """Foreign keys, triggers, rules, policies, views' contents: in the final transaction."""
    for text in statements:
        _run(connection, Statement(text, 0, None))


def drop_created(connection: psycopg.Connection, created: Sequence[Created]) -> list[str]:
    """Drops what a session created, and says what could not be dropped, and why.

    Never with CASCADE: what somebody else built on top of it meanwhile stays, and is named.
    """
    left: dict[str, str] = {}
    with connection.transaction():
        objects = _identify(connection, [(o.classid, o.objid) for o in created])
        _drop_foreign_keys(connection, objects)
        while objects:
            left = {}
            remaining = [o for o in objects if not _dropped(connection, o, left)]
            if len(remaining) == len(objects):
                break
            objects = remaining
    return [f"{identity}: {reason}" for identity, reason in left.items()]


def _dropped(connection: psycopg.Connection, item: Created, left: dict[str, str]) -> bool:
    kind = {"composite type": "type", "statistics object": "statistics"}.get(item.type, item.type)
    command = f"DROP {kind.replace('-', ' ').upper()} IF EXISTS {item.identity}"
    try:
        with connection.transaction():
            connection.execute(command.encode())
    except psycopg.OperationalError:
        raise
    except psycopg.Error as exc:
        left[item.identity] = str(exc).splitlines()[0]
        return False
    return True


def _drop_foreign_keys(connection: psycopg.Connection, objects: Sequence[Created]) -> None:
    tables = [o.objid for o in objects if o.type == "table"]
    cursor = psycopg.RawCursor(connection)
    rows = cursor.execute(queries("created")["foreign_keys_among"], (tables,)).fetchall()
    for table, name in rows:
        quoted = name.replace('"', '""')
        connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT IF EXISTS "{quoted}"'.encode())


def _identify(connection: psycopg.Connection, ids: Sequence[Any]) -> list[Created]:
    """Newest first, by oid: what was created last depends on what was created before."""
    ordered = sorted(ids, key=lambda row: row[1])
    cursor = psycopg.RawCursor(connection)
    rows = cursor.execute(
        queries("created")["identify"], ([row[0] for row in ordered], [row[1] for row in ordered])
    ).fetchall()
    return [Created(*row) for row in rows]


def drop_stages(connection: psycopg.Connection, prefix: str) -> None:
    """Drops the staging tables of one session."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind = 'r'"
        " AND c.relnamespace = to_regnamespace('peersync')"
        " AND left(c.relname, length(%(prefix)s) + 1) = %(prefix)s || '_'",
        {"prefix": prefix},
    ).fetchall()
    for (name,) in rows:
        connection.execute(f"DROP TABLE IF EXISTS {TableName('peersync', name).sql}".encode())
