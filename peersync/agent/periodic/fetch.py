"""One frame of a peer's log on its way here, read ahead of who applies it.

A task of its own reads and unpacks it, so the next frame is asked for, travels, and is ready while
this one is applied. What waits in memory is bounded; beyond that the connection itself holds the
peer back.
Whatever goes wrong on the way is raised where the frame is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from peersync.agent.periodic.hub import Counts
from peersync.core.errors import CorruptData
from peersync.postgres.log.members import Vector
from peersync.transport.client import PeerClient
from peersync.wire.feed import FeedHead, FeedReader, FeedRequest

CHANGES_PATH: Final = "/api/sync/changes"
PIECES_AHEAD: Final = 64  # of at most 128 KiB, unpacked

Item = FeedHead | bytes | Exception | None  # None: the end


class Fetch:
    """`run` in a task; then `head`, then `rows`. `vector` is what was asked from."""

    def __init__(
        self,
        client: PeerClient,
        asked: FeedRequest,
        counts: Counts,
        *,
        ahead: bool,
        read_timeout_s: float,
    ) -> None:
        """`counts` is told of the bytes as they come and as they are used."""
        self.vector: Vector = asked.vector
        self.task: asyncio.Task[None] | None = None
        self.arrived_at = 0.0  # when the head came, by time.time()
        self._client = client
        self._counts = counts
        self._asked = asked
        self._path = f"{CHANGES_PATH}?ahead=1" if ahead else CHANGES_PATH
        self._timeout_s = asked.wait_s + read_timeout_s
        self._queue: asyncio.Queue[Item] = asyncio.Queue(PIECES_AHEAD)

    async def run(self) -> None:
        reader = FeedReader()
        told = False
        try:
            async with self._client.open_stream(
                self._path, method="POST", body=self._asked, read_timeout_s=self._timeout_s
            ) as stream:
                async for piece in stream:
                    self.arrived_at = self.arrived_at or time.time()
                    self._counts.wire_bytes += len(piece)
                    for rows in reader.feed(piece):
                        told = told or await self._tell(reader.head)
                        await self._queue.put(rows)
                        await asyncio.sleep(0)  # who applies goes on meanwhile
                    told = told or await self._tell(reader.head)
            reader.end()
        except Exception as error:
            await self._queue.put(error)  # raised by who uses the frame
        else:
            await self._queue.put(None)

    async def head(self) -> FeedHead:
        """What comes. Raises what the peer or the network did instead."""
        item = await self._next()
        if not isinstance(item, FeedHead):
            raise CorruptData("a feed has no head")
        return item

    async def rows(self) -> AsyncIterator[bytes]:
        """COPY text. Only when this has ended without an error is the frame whole."""
        while isinstance(rows := await self._next(), bytes):
            self._counts.raw_bytes += len(rows)
            yield rows

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def _tell(self, head: FeedHead | None) -> bool:
        if head is not None:
            await self._queue.put(head)
        return head is not None

    async def _next(self) -> FeedHead | bytes | None:
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item
