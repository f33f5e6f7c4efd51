"""The routes by which the target of a delta asks its source. Each belongs to the peer's backup."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from peersync.agent.backups import Backups
from peersync.agent.source import SourceBackup
from peersync.core.errors import root_error
from peersync.transport.app import PEER, json_response
from peersync.transport.body import read_message
from peersync.wire.delta import MAX_ASKED_BYTES, BlocksRequest, RowsRequest, Wanted, pack
from peersync.wire.messages import Ok

PULSE_S: Final = 5.0


class DeltaApi:
    """The handlers; `routes` lists them."""

    def __init__(self, backups: Backups) -> None:
        self._backups = backups

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/sync/backups/{session}/blocks", self._blocks),
            web.post("/api/sync/backups/{session}/rows", self._rows),
            web.post("/api/sync/backups/{session}/wanted", self._wanted),
        ]

    def _backup(self, request: web.Request) -> SourceBackup:
        return self._backups.get(request[PEER], request.match_info["session"])

    async def _blocks(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, BlocksRequest, limit=MAX_ASKED_BYTES)
        return await _stream(request, self._backup(request).giver.blocks(asked))

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        asked = await read_message(request, RowsRequest, limit=MAX_ASKED_BYTES)
        return await _stream(request, self._backup(request).giver.rows(asked))

    async def _wanted(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, Wanted, limit=MAX_ASKED_BYTES)
        await self._backup(request).want(wanted)
        return json_response(Ok())


async def _stream(request: web.Request, frames: AsyncIterator[bytes]) -> web.StreamResponse:
    """The frames as they come, and empty ones while the database is at work.

    What fails before the first of them is answered as an error.
    """
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    preparing = asyncio.Lock()

    async def write(frame: bytes) -> None:
        async with preparing:
            if not response.prepared:
                await response.prepare(request)
        await response.write(frame)

    async def pulse() -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            await write(pack([]))

    try:
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(pulse(), name="delta-pulse")
            async for frame in frames:
                await write(frame)
            beating.cancel()
    except BaseExceptionGroup as errors:
        raise root_error(errors) from errors
    await write(pack([]))
    await response.write_eof()
    return response
