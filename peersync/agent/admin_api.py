"""What people and scripts of this node may ask, over the Unix socket.

Paths and forms are in docs/api.md. Long work answers 202 with the job, which can be
watched as it runs; nothing here waits for it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from peersync.agent.backups import Backups
from peersync.agent.checks import Checks
from peersync.agent.jobs import Jobs
from peersync.agent.people.guard import require_admin
from peersync.agent.requests import FullSyncRequest, UndoRequest, beyond_operators, start
from peersync.agent.script_api import LimitQuery, ScriptApi
from peersync.agent.status import StatusReport, make_status
from peersync.agent.undo import Undo
from peersync.core.errors import NotFound
from peersync.transport.app import json_response
from peersync.transport.body import ASKER, read_message
from peersync.transport.problems import clean
from peersync.transport.query import read_query
from peersync.transport.sse import serve_events
from peersync.wire.messages import SessionId

SMALL_BYTES = 64 * 1024


class ProgressQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`session`: the whole id."""

    session: Annotated[SessionId, msgspec.Meta(description="32 hexadecimal digits")]


class CancelQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`by`: who asks, where nobody is logged in."""

    by: Annotated[str, msgspec.Meta(max_length=150)] = "api"


class AdminApi:
    """The handlers; `routes` lists them."""

    def __init__(
        self, jobs: Jobs, backups: Backups, checks: Checks, report: StatusReport, undo: Undo
    ) -> None:
        self._jobs = jobs
        self._backups = backups
        self._checks = checks
        self._report = report
        self._undo = undo
        self._scripts = ScriptApi(report.node, jobs, report.databases)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/admin/sync/full-sync", self._full_sync),
            web.get("/api/sync/backup-progress", self._progress),
            web.get("/api/admin/jobs", self._list),
            web.get("/api/admin/jobs/{job}", self._show),
            web.get("/api/admin/jobs/{job}/events", self._events),
            web.post("/api/admin/jobs/{job}/cancel", self._cancel),
            web.post("/api/admin/jobs/{job}/resume", self._resume),
            web.post("/api/admin/jobs/{job}/undo", self._undo_job),
            web.get("/api/admin/status", self._status),
            web.get("/api/admin/check", self._check),
            web.post("/api/sync/safe", self._scripts.safe_sync),
            web.get("/api/sync/history", self._scripts.history),
            web.delete("/api/sync/history", self._scripts.clear_history),
            web.get("/api/sync/statistics", self._scripts.statistics),
        ]

    async def _full_sync(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, FullSyncRequest, limit=SMALL_BYTES)
        require_admin(request, beyond_operators(wanted))
        await self._checks.require_spool()
        started = await start(self._jobs, wanted)
        if started.job is None:
            return json_response(started)
        response = json_response(started, status=202)
        response.headers["Location"] = f"/api/admin/jobs/{started.job}"
        return response

    async def _progress(self, request: web.Request) -> web.Response:
        session = read_query(request, ProgressQuery).session
        for progress in [*self._jobs.views.running(), *self._backups.running()]:
            if progress.session == session:
                return json_response(progress)
        view = await self._jobs.views.get(session)
        if view.progress is None:
            raise NotFound(f"session {session} has no progress yet")
        return json_response(view.progress)

    async def _list(self, request: web.Request) -> web.Response:
        return json_response(await self._jobs.views.list(read_query(request, LimitQuery).limit))

    async def _show(self, request: web.Request) -> web.Response:
        job = await self._jobs.views.find(request.match_info["job"])
        return json_response(await self._jobs.views.get(job))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = await self._jobs.views.find(request.match_info["job"])
        ring = self._jobs.views.ring(job)
        if ring is None:
            raise NotFound(
                f"job {job[:8]} does not run here any more",
                hint=f"See how it ended: peersync jobs show {job[:8]}",
            )
        return await serve_events(request, ring)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = await self._jobs.views.find(request.match_info["job"])
        by = request.get(ASKER) or clean(read_query(request, CancelQuery).by)
        return json_response(await self._jobs.cancel(job, by), status=202)

    async def _resume(self, request: web.Request) -> web.Response:
        job = await self._jobs.views.find(request.match_info["job"])
        await self._checks.require_spool()
        return json_response(await self._jobs.resume(job), status=202)

    async def _undo_job(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, UndoRequest, limit=SMALL_BYTES)
        job = await self._jobs.views.find(request.match_info["job"])
        return json_response(await self._undo.run(job, dry_run=wanted.dry_run))

    async def _status(self, _request: web.Request) -> web.Response:
        return json_response(await make_status(self._report))

    async def _check(self, _request: web.Request) -> web.Response:
        return json_response(await self._checks.run())
