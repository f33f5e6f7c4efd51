"""What people ask about periodic sync, over the Unix socket: conflicts, quarantine, tables.

Each request is one transaction of its own in the database; two people who settle the same thing
at once meet at its row, and the second is told what the first has done. Forms: docs/api.md.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.settle_api import SettleApi
from peersync.agent.script_api import Limit
from peersync.core.errors import BadRequest
from peersync.postgres.log import conflicts, quarantine
from peersync.postgres.log.chosen import Action, TableView, change_tables, view_tables
from peersync.postgres.log.conflicts import Choice, SideName
from peersync.postgres.log.quarantine import Tried
from peersync.postgres.log.trace import known_tables
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.problems import clean
from peersync.transport.query import read_query

log = logging.getLogger("peersync.periodic")

BODY_BYTES = 8 * 1024 * 1024  # a value may be large
LOCK_TIMEOUT_S = 10.0
MAX_BY = 150
MAX_ID_DIGITS = 18

SetValues = Annotated[dict[str, str | None], msgspec.Meta(max_length=1700)]


class InDatabaseQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which database."""

    database: str


class TablesQuery(InDatabaseQuery, frozen=True, kw_only=True):
    """`table`: a pattern; all without it."""

    table: str | None = None


class QuarantineQuery(TablesQuery, frozen=True, kw_only=True):
    """`all`: also those that are settled."""

    limit: Limit = 50
    all: bool = False


class OperatorRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """What every request names. `by` is kept with what it settles."""

    database: str
    requested_by: str = "api"

    @property
    def by(self) -> str:
        return clean(self.requested_by)[:MAX_BY]


class RestoreConflict(OperatorRequest, frozen=True):
    """`POST /api/admin/conflicts/ID/restore`; without `side` the one that lost is written."""

    side: SideName | None = None
    force: bool = False


class ResolveConflict(OperatorRequest, frozen=True):
    """`POST /api/admin/conflicts/ID/resolve`; `values` with the choice `set`."""

    choice: Choice
    values: SetValues = {}
    force: bool = False


class RetryQuarantine(OperatorRequest, frozen=True):
    """`POST /api/admin/quarantine/retry`: these ids, or all that wait (of one table)."""

    ids: tuple[int, ...] = ()
    table: str | None = None


class EditQuarantined(OperatorRequest, frozen=True):
    """`POST /api/admin/quarantine/ID/edit`."""

    values: SetValues


class SkipQuarantined(OperatorRequest, frozen=True):
    """`POST /api/admin/quarantine/ID/skip`."""


class ChangeTables(OperatorRequest, frozen=True):
    """`POST /api/admin/tables`; `strategy` with the action of that name."""

    action: Action
    pattern: str | None = None
    strategy: str | None = None


class OperatorApi:
    """The handlers; `routes` lists them. `changed` is told that captured tables may be others."""

    def __init__(
        self, databases: Databases, changed: Callable[[str], None] = lambda _database: None
    ) -> None:
        self._databases = databases
        self._changed = changed

    def routes(self) -> list[web.RouteDef]:
        return [
            *SettleApi(self.connection, self._changed).routes(),
            web.get("/api/admin/conflicts/{id}", self._conflict),
            web.post("/api/admin/conflicts/{id}/restore", self._restore),
            web.post("/api/admin/conflicts/{id}/resolve", self._resolve),
            web.get("/api/admin/quarantine", self._quarantine),
            web.get("/api/admin/quarantine/{id}", self._quarantined),
            web.post("/api/admin/quarantine/retry", self._retry),
            web.post("/api/admin/quarantine/{id}/edit", self._edit),
            web.post("/api/admin/quarantine/{id}/skip", self._skip),
            web.get("/api/admin/tables", self._tables),
            web.post("/api/admin/tables", self._change_tables),
        ]

    # --- conflicts ------------------------------------------------------------------------
    async def _conflict(self, request: web.Request) -> web.Response:
        number = number_of(request)
        name = read_query(request, InDatabaseQuery).database
        async with self.connection(name, "reading a conflict") as conn:
            return json_response(await conflicts.get_conflict(conn, number))

    async def _restore(self, request: web.Request) -> web.Response:
        number = number_of(request)
        wanted = await read_message(request, RestoreConflict, limit=BODY_BYTES)
        async with self.connection(wanted.database, f"restoring of conflict {number}") as conn:
            settled = await conflicts.restore(
                conn, number, side=wanted.side, force=wanted.force, by=wanted.by
            )
        log.info("%s: conflict %d was restored by %s", wanted.database, number, wanted.by)
        return json_response(settled)

    async def _resolve(self, request: web.Request) -> web.Response:
        number = number_of(request)
        wanted = await read_message(request, ResolveConflict, limit=BODY_BYTES)
        if (wanted.choice == "set") != bool(wanted.values):
            raise BadRequest('values belong to the choice "set", which needs some')
        async with self.connection(wanted.database, f"resolving conflict {number}") as conn:
            settled = await conflicts.resolve(
                conn,
                number,
                choice=wanted.choice,
                values=wanted.values,
                force=wanted.force,
                by=wanted.by,
            )
        log.info("%s: conflict %d was resolved by %s", wanted.database, number, wanted.by)
        self._changed(wanted.database)
        return json_response(settled)

    # --- quarantine -----------------------------------------------------------------------
    async def _quarantine(self, request: web.Request) -> web.Response:
        asked = read_query(request, QuarantineQuery)
        async with self.connection(asked.database, "listing the quarantine") as conn:
            tables = await _numbers(conn, asked.table)
            found = await quarantine.list_quarantine(
                conn, tables=tables, all_states=asked.all, limit=asked.limit
            )
        return json_response(found)

    async def _quarantined(self, request: web.Request) -> web.Response:
        number = number_of(request)
        name = read_query(request, InDatabaseQuery).database
        async with self.connection(name, "reading the quarantine") as conn:
            return json_response(await quarantine.get_quarantined(conn, number))

    async def _retry(self, request: web.Request) -> web.Response:
        """One by one, each in its own transaction; with no id, what cannot be tried is a result."""
        wanted = await read_message(request, RetryQuarantine, limit=BODY_BYTES)
        results: list[Tried] = []
        async with self.connection(wanted.database, "retrying") as conn:
            tables = await _numbers(conn, wanted.table)
            for number in wanted.ids or await quarantine.waiting(conn, tables):
                try:
                    results.append(await quarantine.retry(conn, number, by=wanted.by))
                except BadRequest as refusal:
                    if wanted.ids:
                        raise
                    results.append(await quarantine.not_tried(conn, number, refusal.message))
        log.info("%s: %d of quarantine tried by %s", wanted.database, len(results), wanted.by)
        return json_response(results)

    async def _edit(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, EditQuarantined, limit=BODY_BYTES)
        if not wanted.values:
            raise BadRequest("which column is to be changed, and to what?")

        async def edit(conn: asyncpg.Connection, number: int) -> Tried:
            return await quarantine.edit(conn, number, wanted.values, by=wanted.by)

        return await self._settle(request, wanted, edit)

    async def _skip(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SkipQuarantined, limit=BODY_BYTES)

        async def skip(conn: asyncpg.Connection, number: int) -> Tried:
            return await quarantine.skip(conn, number, by=wanted.by)

        return await self._settle(request, wanted, skip)

    async def _settle(
        self,
        request: web.Request,
        wanted: OperatorRequest,
        settle: Callable[[asyncpg.Connection, int], Awaitable[Tried]],
    ) -> web.Response:
        number = number_of(request)
        async with self.connection(wanted.database, f"writing {number} of quarantine") as conn:
            tried = await settle(conn, number)
        log.info("%s: %d of quarantine: %s by %s", wanted.database, number, tried.result, wanted.by)
        return json_response(tried)

    # --- tables ---------------------------------------------------------------------------
    async def _tables(self, request: web.Request) -> web.Response:
        asked = read_query(request, TablesQuery)
        async with self.connection(asked.database, "listing the tables") as conn:
            return json_response(await view_tables(conn, asked.table))

    async def _change_tables(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, ChangeTables, limit=BODY_BYTES)
        patterns = self._databases.patterns(wanted.database)
        async with self.connection(wanted.database, "changing the tables") as conn:
            changed: list[TableView] = await change_tables(
                conn, patterns, wanted.action, pattern=wanted.pattern, strategy=wanted.strategy
            )
        log.info("%s: tables %s by %s", wanted.database, wanted.action, wanted.by)
        self._changed(wanted.database)
        return json_response(changed)

    @asynccontextmanager
    async def connection(self, name: str, what: str) -> AsyncIterator[asyncpg.Connection]:
        """A connection to a database that has this version's tables."""
        database = await self._databases.ready(name)
        async with database.acquire(what, lock_timeout_s=LOCK_TIMEOUT_S) as conn:
            yield conn


async def _numbers(conn: asyncpg.Connection, pattern: str | None) -> list[int] | None:
    if pattern is None:
        return None
    return [table.tbl for table in await known_tables(conn, pattern)]


def number_of(request: web.Request) -> int:
    """The id in the path. BadRequest for what is no number."""
    text = request.match_info["id"]
    if not text.isascii() or not text.isdigit() or len(text) > MAX_ID_DIGITS:
        raise BadRequest(f"{text[:50]!r} is no id: ids are numbers")
    return int(text)
