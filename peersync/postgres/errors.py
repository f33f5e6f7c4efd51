"""The one place where a driver's exception becomes one of ours.

Owns what each SQLSTATE means to an operator: which of our classes, whether trying again can
help, and what to do next. The database's own words (message, detail, hint, SQLSTATE, the
object) are kept verbatim, and never any value of a parameter. A bug (TypeError, an assertion)
is not translated and goes on as it is.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import psycopg

from peersync.core.errors import (
    Cancelled,
    DatabaseError,
    DatabaseUnreachable,
    DiskFull,
    Locked,
    PeersyncError,
    PermissionMissing,
    SchemaMismatch,
)

# SQLSTATE, or its first two characters, → class and hint. The longest match wins.
_MEANINGS: Final[dict[str, tuple[type[PeersyncError], str | None]]] = {
    "08": (DatabaseUnreachable, "check host, port and that PostgreSQL is running"),
    "0A000": (DatabaseError, None),
    "23": (DatabaseError, None),
    "25006": (DatabaseError, "the server is read only: a standby? connect to the primary"),
    "28P01": (
        PermissionMissing,
        "the password is wrong: check password_file, ~/.pgpass or the service file",
    ),
    "28": (PermissionMissing, "check the user, and the server's pg_hba.conf"),
    "3D000": (DatabaseError, "create it with createdb, or correct dbname in the conninfo"),
    "3F000": (SchemaMismatch, "peersync init sets a database up"),
    "40001": (DatabaseUnreachable, "another transaction was in the way; it is tried again"),
    "40P01": (DatabaseUnreachable, "another transaction was in the way; it is tried again"),
    "42501": (PermissionMissing, None),
    "42P01": (SchemaMismatch, None),
    "42703": (SchemaMismatch, None),
    "42704": (SchemaMismatch, None),
    "42883": (SchemaMismatch, None),
    "53100": (DiskFull, "make room on the disk of the database server, then try again"),
    "53200": (DatabaseUnreachable, "the server is short of memory: lower full_sync.work_mem"),
    "53300": (
        DatabaseUnreachable,
        "the server has no connection left: raise max_connections or close some",
    ),
    "53": (DatabaseUnreachable, "the server is short of a resource; see its log"),
    "55P03": (Locked, "another session holds the lock: try again, or see pg_locks for who"),
    "55006": (Locked, "another session uses it: try again, or see pg_stat_activity for who"),
    "57014": (Cancelled, None),
    "57": (DatabaseUnreachable, "the server stopped the connection; it is tried again"),
    "58": (DatabaseUnreachable, "the server has trouble with its disk or files; see its log"),
    "XX": (DatabaseError, "PostgreSQL reports an internal error or damaged data; see its log"),
}

_FIELDS: Final = {  # ours → (asyncpg's attribute, psycopg's diag attribute)
    "schema": ("schema_name", "schema_name"),
    "table": ("table_name", "table_name"),
    "column": ("column_name", "column_name"),
    "constraint": ("constraint_name", "constraint_name"),
    "type": ("data_type_name", "datatype_name"),
    "context": ("context", "context"),
}
# asyncpg.InternalClientError: an idle session was told FATAL, and is used before it sees the end.
DRIVERS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    psycopg.Error,
)
_SYSTEM: Final = (OSError, TimeoutError, ssl.SSLError)
_BROKEN: Final = (*_SYSTEM, asyncpg.InternalClientError)
TRANSLATED: Final = (*DRIVERS, *_SYSTEM)


def translate(exc: BaseException, *, what: str) -> PeersyncError:
    """Our error for a driver's one; `what` says what was tried ("reading the catalog").

    `data` has sqlstate, and schema, table, column, constraint, type and context where the
    server named them. One of our own errors comes back as it is.
    """
    if isinstance(exc, PeersyncError):
        return exc
    sqlstate = _sqlstate(exc)
    if sqlstate is None:
        return _without_sqlstate(exc, what)
    message, detail, hint = _words(exc)
    data = _object_of(exc)
    kind, own_hint = _meaning(sqlstate, message, data, what)
    words = "\n".join(line for line in (f"{sqlstate}: {message}", detail, hint) if line)
    return kind(
        f"{what}: {message}", detail=words, hint=own_hint or hint, sqlstate=sqlstate, **data
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Everything a driver raises inside comes out as one of ours; good around `await` too."""
    try:
        yield
    except TRANSLATED as exc:
        raise translate(exc, what=what) from exc


def _sqlstate(exc: BaseException) -> str | None:
    if isinstance(exc, asyncpg.PostgresError | psycopg.Error):
        return exc.sqlstate or None
    return None


def _words(exc: BaseException) -> tuple[str, str | None, str | None]:
    """The server's message, detail and hint."""
    if isinstance(exc, psycopg.Error):
        diag = exc.diag
        return diag.message_primary or str(exc), diag.message_detail, diag.message_hint
    found: Any = exc
    message = getattr(found, "message", None) or str(exc)
    return message, getattr(found, "detail", None), getattr(found, "hint", None)


def _object_of(exc: BaseException) -> dict[str, str]:
    psycopgs = isinstance(exc, psycopg.Error)
    source: Any = exc.diag if isinstance(exc, psycopg.Error) else exc
    found = {ours: getattr(source, theirs[psycopgs], None) for ours, theirs in _FIELDS.items()}
    return {ours: value for ours, value in found.items() if value}


def _meaning(
    sqlstate: str, message: str, data: dict[str, str], what: str
) -> tuple[type[PeersyncError], str | None]:
    for prefix in (sqlstate, sqlstate[:2]):
        if prefix in _MEANINGS:
            kind, hint = _MEANINGS[prefix]
            return kind, _grant_hint(message, data, what) if prefix == "42501" else hint
    return DatabaseError, None


_READS: Final = ("reading", "comparing", "dumping", "counting")


def _grant_hint(message: str, data: dict[str, str], what: str) -> str:
    """The GRANT that would help, as far as the message names the object.

    It does not name the right: of a table that was only read, SELECT is missing.
    """
    words = message.replace('"', "").split()
    if "for" in words[:-2]:
        kind, name = words[-2].upper(), words[-1]
        if data.get("schema") and kind == "TABLE":
            name = f"{data['schema']}.{data.get('table', name)}"
        right = {
            "TABLE": "SELECT" if what.startswith(_READS) else None,
            "SEQUENCE": "SELECT, UPDATE",
            "SCHEMA": "USAGE",
            "DATABASE": "CREATE",
            "FUNCTION": "EXECUTE",
        }.get(kind)
        if right:
            return f"as its owner: GRANT {right} ON {kind} {name} TO the role of the conninfo"
    return "grant the missing right to the role of the conninfo: peersync grants --missing names it"


def _without_sqlstate(exc: BaseException, what: str) -> PeersyncError:
    """No answer of the server: the connection failed or broke, or the driver was misused."""
    words = str(exc).strip() or type(exc).__name__
    if isinstance(exc, TimeoutError):
        return DatabaseUnreachable(
            f"{what}: no answer in time", detail=words, hint="check the network and the server"
        )
    if isinstance(exc, psycopg.OperationalError):
        return _connection_failed(words, what)
    # a pool takes back a connection that broke, under the feet of whoever holds it
    gone = ("closed", "lost", "has been released back to the pool")
    broken = "connection" in words and any(word in words for word in gone)
    if isinstance(exc, _BROKEN) or broken:
        return _connection_failed(words, what)
    return DatabaseError(f"{what}: {words}")


def _connection_failed(words: str, what: str) -> PeersyncError:
    """libpq gives no SQLSTATE for a refused login, only the server's sentence."""
    first = words.splitlines()[0]
    for phrase, sqlstate in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("no pg_hba.conf entry", "28000"),
        ("too many clients", "53300"),
        ("remaining connection slots", "53300"),
    ):
        if phrase in words:
            kind, hint = _MEANINGS.get(sqlstate, _MEANINGS[sqlstate[:2]])
            return kind(f"{what}: {first}", detail=words, hint=hint, sqlstate=sqlstate)
    if 'database "' in words and "does not exist" in words:
        kind, hint = _MEANINGS["3D000"]
        return kind(f"{what}: {first}", detail=words, hint=hint, sqlstate="3D000")
    kind, hint = _MEANINGS["08"]
    return kind(f"{what}: {first}", detail=words if words != first else None, hint=hint)
