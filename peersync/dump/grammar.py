"""The statements that pg_dump writes for data, and nothing else.

This is the whole list of what a dump may make us do: fill a table, set a sequence,
write a large object. Every form is matched whole, from its first byte to its
semicolon, as pg_dump 15 to 18 print it; a statement that only resembles one is not
one. What has no effect on data (its SETs, the owner of a large object) is dropped.
"""

from __future__ import annotations

import re

from peersync.core.names import TableName
from peersync.dump.pieces import (
    CopyBegin,
    LargeObject,
    LargeObjectData,
    Piece,
    SequenceValue,
    Statement,
)
from peersync.dump.refusal import refused

IDENT = r'(?:[a-z_][a-z0-9_]*+|"(?:[^"\0]++|"")++")'
_IDENT = re.compile(IDENT)
_QUALIFIED = re.compile(rf"({IDENT})\.({IDENT})")
_COPY = re.compile(
    rf"COPY ({IDENT})\.({IDENT}) (?:\(({IDENT}(?:, {IDENT})*+)\))? FROM stdin;", re.ASCII
)
_SET = re.compile(r"SET ([a-z_]++) = ('[^'\\]*+'|[A-Za-z0-9_]++);", re.ASCII)
_SETTINGS = frozenset(
    {
        "check_function_bodies",
        "client_encoding",
        "client_min_messages",
        "default_table_access_method",
        "default_tablespace",
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "row_security",
        "standard_conforming_strings",
        "statement_timeout",
        "transaction_timeout",
        "xmloption",
    }
)
_REQUIRED = {"client_encoding": ("'UTF8'",), "standard_conforming_strings": ("on",)}
_SEARCH_PATH = "SELECT pg_catalog.set_config('search_path', '', false);"
_SETVAL = re.compile(
    r"SELECT pg_catalog\.setval\( ?(?:'((?:[^']++|'')++)'|E'((?:[^'\\]++|''|\\\\|\\')++)')"
    r", (-?[0-9]{1,19}), (true|false)\);",
    re.ASCII,
)
_LO_CREATE = re.compile(r"SELECT pg_catalog\.lo_create\('([0-9]{1,10})'\);", re.ASCII)
_LO_OPEN = re.compile(r"SELECT pg_catalog\.lo_open\('([0-9]{1,10})', 131072\);", re.ASCII)
_LO_WRITE = re.compile(r"SELECT pg_catalog\.lowrite\(0, '\\x((?:[0-9a-f][0-9a-f])*+)'\);", re.ASCII)
_LO_CLOSE = "SELECT pg_catalog.lo_close(0);"
_LO_OWNER = re.compile(rf"ALTER LARGE OBJECT [0-9]{{1,10}} OWNER TO {IDENT};", re.ASCII)
_MAX_OID, _MAX_VALUE, _MIN_VALUE = 2**32 - 1, 2**63 - 1, -(2**63)


def unquote(identifier: str) -> str:
    """The name that an identifier as pg_dump prints it stands for."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier


def parse_table_name(text: str) -> TableName | None:
    """`schema.name` as pg_dump prints it, each part quoted or not; None if it is not that."""
    match = _QUALIFIED.fullmatch(text)
    return TableName(unquote(match[1]), unquote(match[2])) if match else None


def parse_copy(statement: bytes) -> CopyBegin | None:
    """`COPY … FROM stdin;` as pg_dump prints it; None if it is something else."""
    try:
        match = _COPY.fullmatch(statement.decode("utf-8"))
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    columns = tuple(unquote(name) for name in _IDENT.findall(match[3] or ""))
    return CopyBegin(TableName(unquote(match[1]), unquote(match[2])), columns)


class DataGrammar:
    """Turns statements into pieces. It remembers which large object is open."""

    def __init__(self) -> None:
        self._transaction = False
        self._open: int | None = None

    @property
    def idle(self) -> bool:
        """No transaction and no large object is open."""
        return not self._transaction

    def read(self, statement: Statement) -> list[Piece] | None:
        """The pieces that `statement` stands for, often none; None if it is not data.

        Raises RefusedInput for a data statement in the wrong place or with a wrong value.
        """
        text = statement.text
        if text.startswith("SET "):
            return self._setting(statement)
        if text == _SEARCH_PATH:
            return []
        if text.startswith("SELECT pg_catalog.lo"):
            return self._large_object(statement)
        if (match := _SETVAL.fullmatch(text)) is not None:
            return [self._sequence(match, statement)]
        if text in ("BEGIN;", "COMMIT;"):
            if self._transaction == (text == "BEGIN;") or self._open is not None:
                raise _misplaced(statement)
            self._transaction = not self._transaction
            return []
        return [] if _LO_OWNER.fullmatch(text) else None

    @staticmethod
    def _setting(statement: Statement) -> list[Piece] | None:
        match = _SET.fullmatch(statement.text)
        if match is None or match[1] not in _SETTINGS:
            return None
        if match[2] not in _REQUIRED.get(match[1], (match[2],)):
            hint = "Make the dump with --encoding=UTF8." if match[1] == "client_encoding" else None
            text = statement.text.encode()
            raise refused(f"an unsupported {match[1]}", statement.position, text, hint)
        return []

    @staticmethod
    def _sequence(match: re.Match[str], statement: Statement) -> SequenceValue:
        literal = match[1] if match[1] is not None else re.sub(r"\\([\\'])", r"\1", match[2])
        name = parse_table_name(literal.replace("''", "'"))
        value = int(match[3])
        if name is None or not _MIN_VALUE <= value <= _MAX_VALUE:
            raise _misplaced(statement)
        return SequenceValue(name, value, match[4] == "true")

    def _large_object(self, statement: Statement) -> list[Piece] | None:
        text = statement.text
        if (match := _LO_WRITE.fullmatch(text)) is not None and self._open is not None:
            return [LargeObjectData(self._open, bytes.fromhex(match[1]))]
        if (match := _LO_CREATE.fullmatch(text)) is not None and self._open is None:
            return [LargeObject(_oid(match, statement))]
        if (match := _LO_OPEN.fullmatch(text)) is not None:
            if self._open is None and self._transaction:
                self._open = _oid(match, statement)
                return [LargeObject(self._open)]
        elif text == _LO_CLOSE and self._open is not None:
            self._open = None
            return []
        raise _misplaced(statement)


def _oid(match: re.Match[str], statement: Statement) -> int:
    oid = int(match[1])
    if not 0 < oid <= _MAX_OID:
        raise _misplaced(statement)
    return oid


def _misplaced(statement: Statement) -> Exception:
    why = "a data statement in the wrong place, or with a wrong value"
    return refused(why, statement.position, statement.text.encode())
