"""Restores the definitions that a peer's pg_dump wrote, and takes them back on failure.

This is the one place where SQL of a peer runs, and only a node whose owner gave that peer
the right "schema" comes here. What the session creates is recorded by oid in the very
transaction that creates it, so a crash at any point leaves a list to undo.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import psycopg
from psycopg import errors as pg

from peersync.core.errors import SchemaMismatch
from peersync.core.names import TableName
from peersync.dump.grammar import unquote
from peersync.dump.lexer import split_statements
from peersync.dump.olderform import older_form
from peersync.dump.pieces import Statement, Toc
from peersync.postgres.errors import translate
from peersync.postgres.sqlfiles import queries

log = logging.getLogger("peersync.target")

_IDENT = r'(?:"(?:[^"]|"")+"|[^\s".(;,]+)'
_NAME = rf"({_IDENT})\.({_IDENT})"
_INDEX = re.compile(rf"CREATE (?:UNIQUE )?INDEX {_IDENT} ON (?:ONLY )?{_NAME} ", re.DOTALL)
_INDEX_CONSTRAINT = re.compile(
    rf"ALTER TABLE (?:ONLY )?{_NAME}\s+ADD CONSTRAINT {_IDENT} (?:PRIMARY KEY|UNIQUE|EXCLUDE) ",
    re.DOTALL,
)
_ATTACH = re.compile(
    rf"ALTER (?:FOREIGN )?TABLE (?:ONLY )?{_NAME}\s+ATTACH PARTITION (?P<schema>{_IDENT})"
    rf"\.(?P<name>{_IDENT})",
    re.DOTALL,
)
# Which relation a statement of pg_dump is about.
_ABOUT = tuple(
    re.compile(form, re.DOTALL)
    for form in (
        rf"CREATE (?:UNLOGGED |FOREIGN )?TABLE {_NAME}",
        rf"CREATE (?:OR REPLACE )?(?:MATERIALIZED )?(?:RECURSIVE )?VIEW {_NAME}",
        rf"CREATE (?:UNLOGGED )?SEQUENCE {_NAME}",
        _ATTACH.pattern,
        rf"ALTER (?:FOREIGN )?TABLE (?:ONLY )?{_NAME}",
        rf"ALTER (?:VIEW|MATERIALIZED VIEW|SEQUENCE) {_NAME}",
        rf"REFRESH MATERIALIZED VIEW {_NAME}",
        _INDEX.pattern,
        rf"CREATE (?:CONSTRAINT )?TRIGGER {_IDENT} .*? ON {_NAME} ",
        rf"CREATE RULE {_IDENT} AS\s+ON \w+ TO {_NAME}",
        rf"CREATE POLICY {_IDENT} ON {_NAME}",
        rf"CREATE STATISTICS .* FROM {_NAME};$",
        rf"COMMENT ON (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE|SEQUENCE|COLUMN) {_NAME}",
        rf"COMMENT ON (?:CONSTRAINT|TRIGGER|RULE|POLICY) {_IDENT} ON {_NAME} ",
    )
)
# Settings, what only a superuser may say, what holds passwords, and what a security
# release of 2026 left in the catalog and no other version understands.
_LEFT_OUT = re.compile(
    r"SET |SELECT pg_catalog\.set_config\(|COMMENT ON EXTENSION |CREATE EVENT TRIGGER "
    r"|COMMENT ON EVENT TRIGGER |ALTER EVENT TRIGGER |CREATE (?:PUBLICATION|SUBSCRIPTION) "
    r"|CREATE USER MAPPING |ALTER (?:FOREIGN )?TABLE .*\(pg_attver=\d+\);$"
    # a member's own capture: the triggers on the tables that it keeps in step
    r"|CREATE TRIGGER peersync_.* EXECUTE FUNCTION peersync\."
    r"|ALTER TABLE .* (?:DISABLE|ENABLE [A-Z]+) TRIGGER peersync_",
    re.DOTALL,
)
_KEPT_IF_THERE = (
    pg.DuplicateObject,
    pg.DuplicateFunction,
    pg.DuplicateSchema,
    pg.DuplicateTable,
    pg.UniqueViolation,  # text search objects say it so
)
# A partition that was attached to a parent which is here has the parent's keys already.
_KEY_IS_THERE = (
    pg.InvalidTableDefinition,
    pg.ObjectNotInPrerequisiteState,
    pg.DuplicateTable,
    pg.DuplicateObject,
)


RELATIONS = {  # relkind, in words
    "p": "a partitioned table",
    "f": "a foreign table",
    "v": "a view",
    "m": "a materialized view",
    "S": "a sequence",
    "c": "a composite type",
    "i": "an index",
    "I": "an index",
    "r": "part of an extension",
}


class Created(msgspec.Struct, frozen=True):
    """An object that a session created."""

    classid: int
    objid: int
    type: str
    identity: str


@dataclass(frozen=True)
class PostData:
    """The second half of a schema: what indexes each loaded table gets, and everything else."""

    indexes: dict[TableName, list[Statement]]
    rest: list[Statement]


class Definitions:
    """The peer's definitions, and which of them this database takes.

    What is about a relation that was here before is passed over: it stays as it is. When
    some of the peer's tables were here (`partial`), the others must come, and everything
    else comes where it can: a view of a column that only the peer has is no reason to fail, and
    is told in `notes`. What is about a table that is `left_out` is passed over, too.
    """

    def __init__(self, *, partial: bool, left_out: Container[TableName] = ()) -> None:
        self._partial = partial
        self._left_out = left_out
        self.notes: list[str] = []  # what was not taken over, and why
        self._before: dict[TableName, str] = {}  # every relation that was here, with its kind
        self._tables: frozenset[TableName] = frozenset()
        self._incomplete: dict[TableName, SchemaMismatch] = {}  # a part of it was refused
        self._joined: set[TableName] = set()  # new partitions of tables that were here
        self._kept: Toc | None = None  # what the last statements were about, if it was here
        self.sequences: frozenset[TableName] = frozenset()  # that were created

    def restore_pre_data(
        self, connection: psycopg.Connection, sql: bytes, session: str
    ) -> list[Created]:
        """Creates types, functions, tables … in one transaction, and records what is new."""
        created_sql = queries("created")
        with connection.transaction():
            cursor = psycopg.RawCursor(connection)
            before = set(cursor.execute(created_sql["objects"]).fetchall())
            self._before = _relations(connection)
            for statement in _wanted(sql):
                self._run(connection, statement)
            after = cursor.execute(created_sql["objects"]).fetchall()
            created = _identify(connection, [row for row in after if row not in before])
            now = _relations(connection)
            new = now.keys() - self._before.keys()
            self._tables = frozenset(n for n in new if now[n] in "rp")
            self.sequences = frozenset(n for n in new if now[n] == "S")
            listed = msgspec.json.encode(created).decode()
            cursor.execute(queries("sessions")["record_created"], (session, listed))
        return created

    def split_post_data(self, sql: bytes, loaded: Container[TableName]) -> PostData:
        """Tells the indexes of the tables that are loaded from the rest, which keeps its order.

        Raises SchemaMismatch if one of them could not be created as the source has it: rows in
        a partition that nothing is attached to would be rows that nobody finds.
        """
        self._refuse_incomplete(loaded)
        indexes: dict[TableName, list[Statement]] = {}
        rest: list[Statement] = []
        for statement in _wanted(sql):
            match = _INDEX.match(statement.text) or _INDEX_CONSTRAINT.match(statement.text)
            table = TableName(unquote(match[1]), unquote(match[2])) if match else None
            if table is not None and table in loaded and table not in self._before:
                indexes.setdefault(table, []).append(statement)
            else:
                rest.append(statement)
        return PostData(indexes, rest)

    def _refuse_incomplete(self, loaded: Container[TableName]) -> None:
        for name, kind in self._before.items():
            if name in loaded and kind == "r":
                raise SchemaMismatch(
                    f"{name} is here now, and the plan was to create it",
                    hint="It came after the plan was made, or is an extension's. Start a new sync: "
                    "the plan is then made anew. Nothing of this one is left.",
                )
            if name in loaded:
                raise SchemaMismatch(
                    f"{name} is {RELATIONS.get(kind, 'something else')} here, and an ordinary "
                    "table with rows on the source",
                    hint="Rename or drop what is here, or leave the table out with exclude in the "
                    "configuration; then start again. Nothing of this sync is left.",
                )
        for name, error in self._incomplete.items():
            if name in loaded:
                raise error

    def run(self, connection: psycopg.Connection, statements: Sequence[Statement]) -> None:
        """Runs statements of post-data: each in its own transaction, or all in the caller's."""
        for statement in statements:
            self._run(connection, statement)

    def _run(self, connection: psycopg.Connection, statement: Statement) -> None:
        """Runs one statement; an object that is here already is kept as it is."""
        about = _about(statement.text)
        if self._is_kept(statement, about):
            return
        if (match := _ATTACH.match(statement.text)) is not None:
            parent, child = TableName(*map(unquote, match.groups()[:2])), about
            if parent in self._before and child is not None:
                self._joined.add(child)
        try:
            _execute(connection, statement.text)
        except psycopg.OperationalError as exc:
            if not isinstance(exc, pg.ObjectNotInPrerequisiteState):
                raise
            self._failed(statement, about, exc)
        except psycopg.Error as exc:
            self._failed(statement, about, exc)

    def _is_kept(self, statement: Statement, about: TableName | None) -> bool:
        """Further statements of an entry of the dump, and its comments, come right behind it."""
        if about is not None:
            return about in self._before or about in self._left_out
        toc = statement.toc
        if toc is not self._kept and (toc is None or toc.type != "COMMENT"):
            self._kept = None
        return self._kept is not None

    def _failed(self, statement: Statement, about: TableName | None, exc: psycopg.Error) -> None:
        text = statement.text
        if about is None and text.startswith("CREATE ") and isinstance(exc, _KEPT_IF_THERE):
            self._kept = statement.toc
            return
        if isinstance(exc, _KEY_IS_THERE) and (
            text.startswith("ALTER INDEX ")
            if about is None
            else about in self._joined and (_INDEX_CONSTRAINT.match(text) or _INDEX.match(text))
        ):
            return
        if isinstance(exc, pg.InsufficientPrivilege) and text.startswith("COMMENT ON SCHEMA "):
            self._note(statement, exc)  # only its owner may, and no row depends on it
            return
        table = text.startswith(("CREATE TABLE ", "CREATE UNLOGGED TABLE "))
        if self._partial and not table and about not in self._tables:
            if about is not None:
                self._incomplete.setdefault(about, _refused(statement, exc))
            self._note(statement, exc)
            return
        raise _refused(statement, exc) from exc

    def _note(self, statement: Statement, exc: psycopg.Error) -> None:
        note = f"not taken over: {_what(statement)}: {exc.diag.message_primary or exc}"
        self.notes.append(note)
        log.warning("%s\n%s", note, _excerpt(statement.text))


def _execute(connection: psycopg.Connection, text: str) -> None:
    try:
        with connection.transaction():
            connection.execute(text.encode())
    except pg.SyntaxError:
        older = older_form(text)
        if older is None:
            raise
        with connection.transaction():
            connection.execute(older.encode())


def _about(text: str) -> TableName | None:
    for form in _ABOUT:
        if (match := form.match(text)) is not None:
            found = match.groupdict()
            schema, name = (found["schema"], found["name"]) if found else match.groups()[:2]
            return TableName(unquote(schema), unquote(name))
    return None


def _relations(connection: psycopg.Connection) -> dict[TableName, str]:
    """Every relation of the user's, with its kind as pg_class has it."""
    rows = connection.execute(queries("created")["relations"].encode()).fetchall()
    return {TableName(schema, name): kind for schema, name, kind in rows}


def _wanted(sql: bytes) -> Iterable[Statement]:
    return (s for s in split_statements(sql) if not _LEFT_OUT.match(s.text))


def _refused(statement: Statement, exc: psycopg.Error) -> SchemaMismatch:
    said = translate(exc, what="restoring the peer's schema")
    return SchemaMismatch(
        f"this server refuses the peer's {_what(statement)}",
        detail=f"{said.detail or said.message}\n{_excerpt(statement.text)}",
        hint="Create here what it needs (an extension, a role, a newer PostgreSQL), or create "
        "the tables yourself; then start again. Nothing of this sync is left.",
    )


def _what(statement: Statement) -> str:
    return f"{statement.toc.type} {statement.toc.name}" if statement.toc else "a definition"


def _excerpt(text: str) -> str:
    return text if len(text) <= 400 else text[:400] + " …"


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


_KINDS = {  # pg_identify_object's words for what DROP calls otherwise
    "composite type": "type",
    "statistics object": "statistics",
    "aggregate": "routine",  # DROP AGGREGATE wants (*) where the identity says ()
}


def _dropped(connection: psycopg.Connection, item: Created, left: dict[str, str]) -> bool:
    kind = _KINDS.get(item.type, item.type)
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
