"""Conflicts in bulk, for people: the list with its filter, and many settled by one request.

Owns the forms, and how much one request does: so many, for so long, and where the next goes on.
What settling one means is in `postgres.log.settling`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import asyncpg
import msgspec
from aiohttp import web

from peersync.agent.script_api import Limit
from peersync.core.errors import BadRequest
from peersync.postgres.log.conflicts import list_conflicts
from peersync.postgres.log.settling import Bulk, Meant, origins_of, settle_all
from peersync.postgres.log.trace import known_tables
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.problems import clean
from peersync.transport.query import read_query

log = logging.getLogger("peersync.periodic")

BODY_BYTES: Final = 64 * 1024
WORK_S: Final = 10.0
MAX_BY: Final = 150

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Time = Annotated[
    str, msgspec.Meta(min_length=1, max_length=40, description="a time like 2026-11-22T03:00:00Z")
]
Id = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
ConflictState = Literal["open", "resolved", "restored"]


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list and a bulk have in common. `since` <= at < `until`.

    `peer`: one of the sides was made there; `before`: only those with a smaller id.
    """

    table: str | None = None
    peer: Word | None = None
    kind: Word | None = None
    strategy: Word | None = None
    since: Time | None = None
    until: Time | None = None
    before: Id | None = None


class ConflictsQuery(Filter, frozen=True, kw_only=True):
    """`open`: only those that nobody has settled."""

    database: str
    limit: Limit = 50
    open: bool = False
    state: ConflictState | None = None


class SettleConflicts(
    Filter, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/admin/conflicts/settle`.

    keep and take are for conflicts that are open, restore for those that were decided.
    """

    database: str
    choice: Bulk
    limit: Limit = 200
    dry_run: bool = False
    requested_by: str = "api"

    @property
    def by(self) -> str:
        return clean(self.requested_by)[:MAX_BY]

    @property
    def state(self) -> ConflictState:
        return "resolved" if self.choice == "restore" else "open"


Connects = Callable[[str, str], AbstractAsyncContextManager[asyncpg.Connection]]


class SettleApi:
    """The handlers; `routes` lists them. `changed`: captured tables may be others now."""

    def __init__(self, connection: Connects, changed: Callable[[str], None]) -> None:
        self._connection = connection
        self._changed = changed

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/conflicts", self._list),
            web.post("/api/admin/conflicts/settle", self._settle),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        asked = read_query(request, ConflictsQuery)
        if asked.open and asked.state not in (None, "open"):
            raise BadRequest(f"those that are {asked.state} are not open")
        state = "open" if asked.open else asked.state
        async with self._connection(asked.database, "listing conflicts") as conn:
            meant = await _meant(conn, asked, state)
            return json_response(await list_conflicts(conn, meant.parameters, limit=asked.limit))

    async def _settle(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SettleConflicts, limit=BODY_BYTES)
        until = time.monotonic() + WORK_S
        async with self._connection(wanted.database, "settling conflicts") as conn:
            done = await settle_all(
                conn,
                wanted.database,
                await _meant(conn, wanted, wanted.state),
                wanted.choice,
                by=wanted.by,
                limit=wanted.limit,
                is_late=lambda: time.monotonic() > until,
                dry_run=wanted.dry_run,
            )
        if done.tried:
            words = (wanted.database, done.settled, done.tried, wanted.choice, wanted.by)
            log.info("%s: %d of %d conflicts settled (%s) by %s", *words)
            self._changed(wanted.database)
        return json_response(done)


async def _meant(conn: asyncpg.Connection, asked: Filter, state: str | None) -> Meant:
    tables = None
    if asked.table is not None:
        tables = [table.tbl for table in await known_tables(conn, asked.table)]
    return Meant(
        tables=tables,
        state=state,
        origins=None if asked.peer is None else await origins_of(conn, asked.peer),
        kind=asked.kind,
        strategy=asked.strategy,
        since=_time("since", asked.since),
        until=_time("until", asked.until),
        before=asked.before,
    )


def _time(name: str, text: str | None) -> datetime | None:
    """Without a zone it is UTC. BadRequest for what is no time."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequest(
            f"{name} is no time: {clean(text)!r}", hint="like 2026-11-22T03:00:00Z, or 2026-11-22"
        ) from error
