"""A configured database, and the connections that this process has to it.

Owns the settings that every session of ours runs with, whatever the role's or the database's
defaults are: the text form of a value depends on six of them, and a timeout set for an
application must not end a full sync. Opens lazily; what a caller does on a connection is
its own, in transactions of its own. jsonb and json travel as text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from peersync.postgres.conninfo import Resolved
from peersync.postgres.errors import DRIVERS, translate, translated

PINNED: Final = {
    "search_path": "pg_catalog",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",  # the shortest text that reads back as the same number
    "lc_monetary": "C",
    "array_nulls": "on",  # off: a NULL in an array is read as the text 'NULL'
    "transform_null_equals": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",  # on: a type of the user's has another name
    "row_security": "off",  # an error instead of rows that are silently not seen
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    "client_min_messages": "warning",
}
_NEWER: Final = ((14, "idle_session_timeout"), (17, "transaction_timeout"))
CLOSE_TIMEOUT_S: Final = 5.0
CANCEL_AGAIN_S: Final = 0.5
_open: Final[WeakSet[asyncpg.Connection]] = WeakSet()


class Database:
    """One database under its configured name. Close it when the process ends.

    `max_size` bounds the pool; connections of `connect()` come on top of it.
    """

    def __init__(
        self, name: str, resolved: Resolved, *, max_size: int = 4, connect_timeout_s: float = 10.0
    ) -> None:
        self.name = name
        self.resolved = resolved
        self._max_size = max_size
        self._connect_timeout_s = connect_timeout_s
        self._kwargs = {"timeout": connect_timeout_s, **resolved.asyncpg_kwargs()}
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Database({self.name!r}, {self.resolved.display()!r})"

    @asynccontextmanager
    async def acquire(
        self, what: str = "working on the database", *, lock_timeout_s: float = 0
    ) -> AsyncIterator[asyncpg.Connection]:
        """A short use of a pooled connection; `what` starts the message of a failure.

        Raises DatabaseUnreachable and the others of `postgres.errors`.
        """
        with self._opened(what):
            pool = await self._get_pool()
            conn = await pool.acquire(timeout=self._connect_timeout_s)
        try:
            with _used(what):
                await _prepare(conn, lock_timeout_s)
                yield conn
        finally:
            await _give_back(pool, conn)

    @asynccontextmanager
    async def connect(
        self, kind: str, *, what: str = "working on the database", lock_timeout_s: float = 0
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection of one's own; `kind` is seen in pg_stat_activity as peersync/<kind>.

        Cancelled or failed, it is dropped at once: the server rolls back.
        """
        with self._opened(what):
            conn = await asyncpg.connect(connection_class=_Connection, **self._arguments(kind))
        try:
            with _used(what):
                await _prepare(conn, lock_timeout_s)
                yield conn
        except BaseException:
            conn.terminate()
            raise
        else:
            await conn.close(timeout=CLOSE_TIMEOUT_S)

    async def close(self) -> None:
        """Close the pool; what is still in use after 5 seconds is cut."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def _get_pool(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    min_size=0,
                    max_size=self._max_size,
                    connection_class=_Connection,
                    **self._arguments("pool"),
                )
            return self._pool

    def _arguments(self, kind: str) -> dict[str, Any]:
        ours = {**PINNED, "application_name": f"peersync/{kind}"[:63]}
        return {
            **self._kwargs,
            "server_settings": {**self._kwargs["server_settings"], **ours},
            # A cached plan fails after DDL ("cached plan must not change result type").
            "statement_cache_size": 0,
        }

    @contextmanager
    def _opened(self, what: str) -> Iterator[None]:
        with translated(f"{what}: connecting to {self.resolved.display()}"):
            yield


async def _give_back(pool: asyncpg.Pool, conn: asyncpg.Connection) -> None:
    """One that can't be made as new is dropped by the pool; that hides no cancellation."""
    with suppress(TimeoutError, *DRIVERS):
        await pool.release(conn, timeout=CLOSE_TIMEOUT_S)


def cut_connections() -> int:
    """Drops every connection of this process that is in use or waits in a pool; how many."""
    found = [conn for conn in _open if not conn.is_closed()]
    for conn in found:
        conn.terminate()
    return len(found)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Asks the server to cancel a query until it has ended, not only once.

    A busy server may see the request before it has read the query: it forgets the request
    then, and whoever was cancelled would wait, as long as the query takes, to roll back.
    Overrides a method that asyncpg keeps to itself: `sent` lets the next query go out, and
    `ended` is done when the server has answered to the cancelled one.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        _open.add(self)

    async def _cancel(
        self, sent: asyncio.Future[None], ended: asyncio.Future[None] | None = None
    ) -> None:
        try:
            if ended is None:  # an asyncpg before 0.32 does not say
                await super()._cancel(sent)
                return
            while not ended.done():
                await super()._cancel(asyncio.get_running_loop().create_future())
                await asyncio.wait({ended}, timeout=CANCEL_AGAIN_S)
        finally:
            if not sent.done():  # not before: the next request must not meet the next query
                sent.set_result(None)


@contextmanager
def _used(what: str) -> Iterator[None]:
    """Translates what the driver raises, and leaves the caller's own OSErrors alone."""
    try:
        yield
    except (*DRIVERS, ConnectionError) as exc:
        raise translate(exc, what=what) from exc


async def _prepare(conn: asyncpg.Connection, lock_timeout_s: float) -> None:
    """Settings that a startup packet cannot carry: not every server knows them."""
    major = conn.get_server_version().major
    wanted = [f"SET {name} = 0" for since, name in _NEWER if major >= since]
    if lock_timeout_s:
        wanted.append(f"SET lock_timeout = {int(lock_timeout_s * 1000)}")
    if wanted:
        await conn.execute("; ".join(wanted))
