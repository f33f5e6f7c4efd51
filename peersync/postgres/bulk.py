"""Connections for bulk work: synchronous, used by one thread each, stoppable from others.

A COPY of gigabytes runs in a thread with psycopg, where pushing a 256 KiB piece costs
almost no Python. Whoever cancels the job cancels the statement on the server through the
`Stop` that all its threads share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import errors as pg
from psycopg import sql

from peersync.core.errors import Cancelled
from peersync.postgres.conninfo import Resolved
from peersync.postgres.errors import translated
from peersync.postgres.pool import PINNED

# Settings of a database or a role that would change what our statements mean or do.
_STEADY = {
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "xmloption": "content",
    "row_security": "off",  # an error instead of rows that are silently not seen
    "check_function_bodies": "off",
    "default_transaction_isolation": "read committed",
}


class Stop:
    """One switch for all threads of a job: no new statement, and the running ones cancelled."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._guard = threading.Lock()
        self._connections: set[psycopg.Connection] = set()

    def set(self) -> None:
        self._event.set()
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=5)

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises Cancelled once the switch is set."""
        if self._event.is_set():
            raise Cancelled("the job was stopped")

    @contextmanager
    def watching(self, connection: psycopg.Connection) -> Iterator[None]:
        with self._guard:
            self._connections.add(connection)
        try:
            self.check()
            yield
        finally:
            with self._guard:
                self._connections.discard(connection)


@contextmanager
def connect(
    resolved: Resolved,
    kind: str,
    stop: Stop,
    *,
    what: str,
    settings: dict[str, str] | None = None,
    connect_timeout_s: float = 10.0,
) -> Iterator[psycopg.Connection]:
    """A connection in autocommit with the pinned settings; closed at the end, whatever comes.

    `settings` are further SETs; errors are translated, `what` begins their message.
    """
    with translated(f"{what}: connecting to {resolved.display()}"):
        connection = psycopg.connect(
            resolved.psycopg_conninfo(application_name=f"peersync/{kind}"[:63]),
            autocommit=True,
            connect_timeout=max(2, int(connect_timeout_s)),
            prepare_threshold=None,
        )
    try:
        with translated(what), stop.watching(connection):
            _pin(connection, settings or {})
            yield connection
    finally:
        connection.close()


def _pin(connection: psycopg.Connection, settings: dict[str, str]) -> None:
    wanted = {**PINNED, **_STEADY, **settings}
    if connection.info.server_version >= 140000:
        wanted["idle_session_timeout"] = "0"
    if connection.info.server_version >= 170000:
        wanted["transaction_timeout"] = "0"
    statement = sql.SQL("; ").join(
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
        for name, value in wanted.items()
    )
    connection.execute(statement)
    with suppress(pg.InsufficientPrivilege):  # then rows are counted in another way
        connection.execute(
            "SELECT pg_catalog.set_config('track_counts', 'on', false)"
            " WHERE pg_catalog.current_setting('track_counts') <> 'on'"
        )
