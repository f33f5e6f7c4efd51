"""What peers may ask of this node about full syncs. Each request is authorised on its own.

Every body is decoded against its message with bounds; ids are matched against their
pattern and looked up, never made into a path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.compare import RowHashes
from peersync.agent.databases import Databases
from peersync.agent.delta.api import DeltaApi
from peersync.agent.describing import describe
from peersync.agent.jobs import Jobs
from peersync.agent.jobview import Started
from peersync.agent.push import refuse_others
from peersync.agent.workers import Workers
from peersync.core.errors import NotFound
from peersync.transport.app import PEER, json_response
from peersync.transport.body import read_message
from peersync.transport.identity import Identity
from peersync.transport.problems import clean
from peersync.wire.messages import (
    PROTOCOL,
    BackupRequest,
    DescribeRequest,
    FinishRequest,
    Hello,
    ManifestRequest,
    Ok,
    ProgressReport,
    ReceiveRequest,
    RestoreRequest,
    RowHashRequest,
)

SMALL_BYTES = 64 * 1024


class PeerApi:
    """The handlers; `routes` lists them."""

    def __init__(
        self,
        identity: Identity,
        name: str,
        databases: Databases,
        backups: Backups,
        jobs: Jobs,
        workers: Workers,
    ) -> None:
        self._identity = identity
        self._name = name
        self._databases = databases
        self._backups = backups
        self._jobs = jobs
        self._row_hashes_of = RowHashes(databases, backups)
        self._delta = DeltaApi(backups)
        self._workers = workers

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/sync/hello", self._hello),
            web.post("/api/sync/describe", self._describe),
            web.post("/api/sync/initiate-backup", self._initiate),
            web.post("/api/sync/receive-backup", self._receive),
            web.post("/api/sync/restore-backup", self._restore),
            web.post("/api/sync/row-hashes", self._row_hashes),
            web.get("/api/sync/backup-progress", self._progress),
            web.post("/api/sync/backups/{session}/manifest", self._manifest),
            web.get("/api/sync/backups/{session}/chunks/{digest}", self._chunk),
            web.post("/api/sync/backups/{session}/progress", self._report),
            web.post("/api/sync/backups/{session}/finish", self._finish),
            *self._delta.routes(),
        ]

    async def _hello(self, request: web.Request) -> web.Response:
        peer = request[PEER]
        visible = tuple(n for n in self._databases.names() if peer.may("pull", n))
        return json_response(
            Hello(
                protocol=PROTOCOL,
                version=__version__,
                node_id=self._identity.node_id,
                name=self._name,
                unix_time=time.time(),
                databases=visible,
            )
        )

    async def _describe(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, DescribeRequest, limit=SMALL_BYTES)
        peer = request[PEER]
        await self._backups.offers.require(peer, wanted.database, wanted.session)
        database = self._databases.get(wanted.database)
        patterns = self._databases.patterns(wanted.database)
        return json_response(
            await describe(database, patterns, self._name, self._backups, self._workers, wanted)
        )

    async def _initiate(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, BackupRequest)
        await self._backups.initiate(request[PEER], wanted)
        return json_response(Ok(), status=202)

    async def _manifest(self, request: web.Request) -> web.Response:
        asked = await read_message(request, ManifestRequest, limit=SMALL_BYTES)
        backup = self._backups.get(request[PEER], request.match_info["session"])
        return json_response(await backup.page(asked))

    async def _chunk(self, request: web.Request) -> web.StreamResponse:
        backup = self._backups.get(request[PEER], request.match_info["session"])
        digest = request.match_info["digest"]
        path = await backup.chunk_path(digest, self._workers)
        headers = {"ETag": f'"sha256-{digest}"', "Content-Type": "application/octet-stream"}
        return web.FileResponse(path, headers=headers)

    async def _report(self, request: web.Request) -> web.Response:
        report = await read_message(request, ProgressReport, limit=SMALL_BYTES)
        session = request.match_info["session"]
        await self._backups.report(request[PEER], session, report)
        return json_response(Ok())

    async def _finish(self, request: web.Request) -> web.Response:
        end = await read_message(request, FinishRequest)
        await self._backups.finish(request[PEER], request.match_info["session"], end)
        return json_response(Ok())

    async def _receive(self, request: web.Request) -> web.Response:
        """The peer pushes: what it offers is taken, as if it had been pulled from here."""
        peer = request[PEER]
        wanted = await read_message(request, ReceiveRequest)
        peer.require("push", wanted.database)
        if wanted.dry_run:
            plan, _ = await self._jobs.plan(
                peer.name, wanted.database, wanted.options, offered=wanted.session
            )
            return json_response(Started(plan=plan))
        started = await self._jobs.start(
            peer.name,
            wanted.database,
            wanted.options,
            by=f"{clean(wanted.requested_by)} on {peer.name}".strip(),
            sync_type=wanted.sync_type,
            offered=wanted.session,
        )
        return json_response(started, status=202)

    async def _row_hashes(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, RowHashRequest, limit=4 * SMALL_BYTES)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})

        async def begin() -> Callable[[bytes], Awaitable[None]]:
            await response.prepare(request)
            return response.write

        await self._row_hashes_of.send(request[PEER], asked, begin)
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _restore(self, request: web.Request) -> web.Response:
        """Cancels, or takes up again, what this peer has pushed."""
        peer = request[PEER]
        wanted = await read_message(request, RestoreRequest, limit=SMALL_BYTES)
        entry = await self._jobs.views.entry(wanted.session)
        refuse_others(peer, wanted.session, entry)
        if wanted.action == "cancel":
            by = f"{clean(wanted.requested_by)} on {request[PEER].name}".strip()
            await self._jobs.cancel(wanted.session, by)
        else:
            await self._jobs.resume(wanted.session)
        return json_response(Ok(), status=202)

    async def _progress(self, request: web.Request) -> web.Response:
        backup = self._backups.get(request[PEER], request.query.get("session", ""))
        if backup.progress is None:
            raise NotFound("the target has not reported any progress yet")
        return json_response(backup.progress)
