"""What people and scripts of this node may ask, over the Unix socket.

Paths and forms are in docs/api.md. Long work answers 202 with the job, which can be
watched as it runs; nothing here waits for it.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from peersync.agent.backups import Backups
from peersync.agent.checks import Checks
from peersync.agent.jobs import Jobs
from peersync.agent.status import StatusReport, make_status
from peersync.agent.target import Options
from peersync.core.errors import BadRequest, NotFound
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.sse import serve_events

SMALL_BYTES = 64 * 1024
MAX_LIMIT = 1000


class FullSyncRequest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`POST /api/admin/sync/full-sync`."""

    action: str
    peer: str
    database: str
    dry_run: bool = False
    compress: bool = True
    verify: bool = True
    sync_type: str = "manual"
    requested_by: str = "api"


class AdminApi:
    """The handlers; `routes` lists them."""

    def __init__(self, jobs: Jobs, backups: Backups, checks: Checks, report: StatusReport) -> None:
        self._jobs = jobs
        self._backups = backups
        self._checks = checks
        self._report = report

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/admin/sync/full-sync", self._full_sync),
            web.get("/api/sync/backup-progress", self._progress),
            web.get("/api/admin/jobs", self._list),
            web.get("/api/admin/jobs/{job}", self._show),
            web.get("/api/admin/jobs/{job}/events", self._events),
            web.post("/api/admin/jobs/{job}/cancel", self._cancel),
            web.post("/api/admin/jobs/{job}/resume", self._resume),
            web.get("/api/admin/status", self._status),
            web.get("/api/admin/check", self._check),
            web.get("/api/sync/history", self._list),
        ]

    async def _full_sync(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, FullSyncRequest, limit=SMALL_BYTES)
        if wanted.action != "pull":
            raise BadRequest(f"action {wanted.action!r} is not known", hint='Use "pull".')
        if wanted.sync_type not in ("manual", "scheduled", "api"):
            raise BadRequest("syncType must be manual, scheduled or api")
        if wanted.dry_run:
            plan, _ = await self._jobs.plan(wanted.peer, wanted.database)
            return json_response({"plan": plan, "job": None})
        started = await self._jobs.start_pull(
            wanted.peer,
            wanted.database,
            Options(compress=wanted.compress, verify=wanted.verify),
            by=wanted.requested_by[:200],
            sync_type=wanted.sync_type,
        )
        response = json_response(started, status=202)
        response.headers["Location"] = f"/api/admin/jobs/{started.job}"
        return response

    async def _progress(self, request: web.Request) -> web.Response:
        session = request.query.get("session", "")
        for progress in [*self._jobs.running(), *self._backups.running()]:
            if progress.session == session:
                return json_response(progress)
        view = await self._jobs.get(_checked(session))
        if view.progress is None:
            raise NotFound(f"session {session} has no progress yet")
        return json_response(view.progress)

    async def _list(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "50")
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_LIMIT:
            raise BadRequest(f"limit must be a number from 1 to {MAX_LIMIT}")
        return json_response(await self._jobs.list(int(text)))

    async def _show(self, request: web.Request) -> web.Response:
        job = await self._jobs.find(request.match_info["job"])
        return json_response(await self._jobs.get(job))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = await self._jobs.find(request.match_info["job"])
        ring = self._jobs.ring(job)
        if ring is None:
            raise NotFound(
                f"job {job[:8]} does not run here any more",
                hint=f"See how it ended: peersync jobs show {job[:8]}",
            )
        return await serve_events(request, ring)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = await self._jobs.find(request.match_info["job"])
        return json_response(await self._jobs.cancel(job), status=202)

    async def _resume(self, request: web.Request) -> web.Response:
        job = await self._jobs.find(request.match_info["job"])
        return json_response(await self._jobs.resume(job), status=202)

    async def _status(self, _request: web.Request) -> web.Response:
        return json_response(await make_status(self._report))

    async def _check(self, _request: web.Request) -> web.Response:
        return json_response(await self._checks.run())


def _checked(session: str) -> str:
    if len(session) != 32 or not set(session) <= set("0123456789abcdef"):
        raise BadRequest("session must be the id of a session: 32 hexadecimal digits")
    return session
