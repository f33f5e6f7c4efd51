"""What scripts ask of this node, over the Unix socket: safe syncs, history and statistics.

`AdminApi` lists the routes; their forms are in docs/api.md.
"""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.people.guard import require_admin
from peersync.agent.requests import beyond_operators
from peersync.agent.safe import SafeRequest, SafeSyncs
from peersync.agent.statistics import make_statistics
from peersync.core.errors import PeersyncError
from peersync.core.session import State
from peersync.postgres.history import History
from peersync.postgres.samples import forget
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query

log = logging.getLogger("peersync.jobs")

SMALL_BYTES = 64 * 1024
MAX_LIMIT = 1000
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)]


class LimitQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`limit`: at most so many, the newest."""

    limit: Limit = 50


class DatabaseQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`database`: all without it."""

    database: str | None = None


class OfDatabaseQuery(LimitQuery, frozen=True, kw_only=True):
    """The newest, of one database or of all."""

    database: str | None = None


class HistoryQuery(OfDatabaseQuery, frozen=True, kw_only=True):
    """`state`: only those in it."""

    state: State | None = None


class ClearQuery(DatabaseQuery, frozen=True, kw_only=True):
    """`keep_latest`: the newest with each peer stays."""

    keep_latest: bool = False


class ClearedHistory(msgspec.Struct, frozen=True, kw_only=True):
    """How many ended sessions were forgotten and kept; `problems` by database that is down.

    Of the other records: how many were forgotten.
    """

    deleted: int
    kept: int
    problems: dict[str, str]
    complete_syncs: int = 0
    set_runs: int = 0
    link_samples: int = 0


class ScriptApi:
    """The handlers."""

    def __init__(self, node: str, jobs: Jobs, databases: Databases) -> None:
        self._node = node
        self._jobs = jobs
        self._databases = databases
        self._safe = SafeSyncs(jobs, databases)

    async def safe_sync(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SafeRequest, limit=SMALL_BYTES)
        require_admin(request, beyond_operators(wanted))
        answer = await self._safe.start(wanted, request.headers.get("Idempotency-Key"))
        if answer.job is None:
            return json_response(answer, status=409)
        response = json_response(answer, status=202)
        response.headers["Location"] = f"/api/admin/jobs/{answer.job}"
        return response

    async def history(self, request: web.Request) -> web.Response:
        asked = read_query(request, HistoryQuery)
        of = self._database(asked)
        found = await self._jobs.views.list(asked.limit, of=of, state=asked.state)
        return json_response(found)

    async def clear_history(self, request: web.Request) -> web.Response:
        asked = read_query(request, ClearQuery)
        only = self._database(asked)
        deleted = kept = complete = sets = samples = 0
        problems: dict[str, str] = {}
        for database in self._databases:
            if only not in (None, database.name):
                continue
            try:
                cleared = await History(database).clear(keep_latest=asked.keep_latest)
                async with database.acquire("clearing the history") as conn:
                    others = await forget(conn, None)
            except PeersyncError as exc:
                problems[database.name] = exc.message
                continue
            deleted, kept = deleted + len(cleared.sessions), kept + cleared.kept
            complete, sets = complete + others.complete_syncs, sets + others.set_runs
            samples += others.samples
            for session in cleared.sessions:
                self._jobs.forget(session)
        log.info("the history was cleared: %d sessions forgotten, %d kept", deleted, kept)
        return json_response(
            ClearedHistory(
                deleted=deleted,
                kept=kept,
                problems=problems,
                complete_syncs=complete,
                set_runs=sets,
                link_samples=samples,
            )
        )

    async def statistics(self, request: web.Request) -> web.Response:
        only = self._database(read_query(request, DatabaseQuery))
        made = await make_statistics(self._node, self._databases, self._jobs, only)
        return json_response(made)

    def _database(self, asked: DatabaseQuery | HistoryQuery) -> str | None:
        """The database of the query, if there is one. NotFound when it is not configured."""
        name = asked.database
        return self._databases.get(name).name if name is not None else None
