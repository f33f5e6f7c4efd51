"""Runs plain SQL text over a connection, as psql would, without starting psql.

A test asks its databases dozens of times, and starting a program for each takes longer than
the answer. What only psql understands is left to psql: its own commands, rows in its input,
and texts so long that taking them apart would cost what was saved.
"""

from __future__ import annotations

import os
import re

import psycopg
from psycopg import pq

from peersync.core.errors import PeersyncError
from peersync.dump.lexer import split_statements

_MOST = 4_000
_FOR_PSQL = re.compile(r"\\|\bcopy\b", re.IGNORECASE)


def statements(sql: str) -> list[bytes] | None:
    """What `sql` consists of; None where psql has to read it, or libpq would be redirected."""
    if len(sql) > _MOST or _FOR_PSQL.search(sql) or any(k.startswith("PG") for k in os.environ):
        return None
    ended = sql.rstrip()
    ended += "" if ended.endswith(";") else "\n;"
    try:
        found = [one.text for one in split_statements(ended.encode())]
    except PeersyncError:
        return None
    return [text.encode() for text in found if text.strip(" ;\n")]


def run(conninfo: str, wanted: list[bytes]) -> str:
    """Each in a transaction of its own; rows come as unaligned lines. Raises psycopg.Error."""
    connection = psycopg.connect(conninfo, autocommit=True, client_encoding="UTF8")
    try:
        cursor = connection.cursor()
        lines: list[bytes] = []
        for statement in wanted:
            cursor.execute(statement)
            lines += _lines(cursor.pgresult)
        return b"\n".join(lines).decode().rstrip("\n")
    finally:
        connection.close()


def _lines(result: pq.abc.PGresult | None) -> list[bytes]:
    if result is None or result.status != pq.ExecStatus.TUPLES_OK:
        return []
    return [
        b"|".join(result.get_value(row, column) or b"" for column in range(result.nfields))
        for row in range(result.ntuples)
    ]
