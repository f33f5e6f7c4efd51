"""What peers may ask of this node about full syncs. Each request is authorised on its own.

Every body is decoded against its message with bounds; ids are matched against their
pattern and looked up, never made into a path.
"""

from __future__ import annotations

import time

from aiohttp import web

from peersync import __version__
from peersync.agent.backups import Backups
from peersync.agent.databases import Databases
from peersync.agent.planner import describe
from peersync.agent.workers import Workers
from peersync.core.errors import NotFound
from peersync.transport.app import PEER, json_response
from peersync.transport.body import read_message
from peersync.transport.identity import Identity
from peersync.wire.messages import (
    PROTOCOL,
    BackupRequest,
    DescribeRequest,
    FinishRequest,
    Hello,
    ManifestRequest,
    Ok,
    ProgressReport,
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
        workers: Workers,
    ) -> None:
        self._identity = identity
        self._name = name
        self._databases = databases
        self._backups = backups
        self._workers = workers

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/sync/hello", self._hello),
            web.post("/api/sync/describe", self._describe),
            web.post("/api/sync/initiate-backup", self._initiate),
            web.get("/api/sync/backup-progress", self._progress),
            web.post("/api/sync/backups/{session}/manifest", self._manifest),
            web.get("/api/sync/backups/{session}/chunks/{digest}", self._chunk),
            web.post("/api/sync/backups/{session}/progress", self._report),
            web.post("/api/sync/backups/{session}/finish", self._finish),
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
        request[PEER].require("pull", wanted.database)
        database = await self._databases.ready(wanted.database)
        patterns = self._databases.patterns(wanted.database)
        return json_response(
            await describe(database, patterns, self._name, self._backups, self._workers)
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
        await self._backups.report(request[PEER], session, report.progress)
        return json_response(Ok())

    async def _finish(self, request: web.Request) -> web.Response:
        end = await read_message(request, FinishRequest, limit=SMALL_BYTES)
        await self._backups.finish(request[PEER], request.match_info["session"], end)
        return json_response(Ok())

    async def _progress(self, request: web.Request) -> web.Response:
        backup = self._backups.get(request[PEER], request.query.get("session", ""))
        if backup.progress is None:
            raise NotFound("the target has not reported any progress yet")
        return json_response(backup.progress)
