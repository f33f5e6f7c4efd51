"""Follows a peer's manifest and brings its chunks into the local spool, several at a time.

Every break of the network is waited out here, up to `retry_for_s`; a source that forgot
the session (its agent was restarted) is asked again, and has its chunks still. When the
source had to begin its dump anew, DumpRestarted ends the attempt: what was loaded belongs
to a view that is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from peersync.agent.stream import PartStream
from peersync.agent.workers import Workers
from peersync.config.model import Network
from peersync.core.backoff import Backoff
from peersync.core.errors import CorruptData, NotFound, PeerFailed, PeersyncError, PeerUnreachable
from peersync.core.progress import Step
from peersync.core.session import SessionRecord
from peersync.transport.client import PeerClient
from peersync.wire.chunks import manifest_digest
from peersync.wire.messages import (
    BackupRequest,
    Baseline,
    Chunk,
    ManifestPage,
    ManifestRequest,
    Ok,
)
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.target")
T = TypeVar("T")

WAIT_S = 10.0
_CORRUPT_TRIES = 3


class DumpRestarted(PeersyncError):
    """The source began its dump again; this attempt's rows are of no use."""

    code, retryable = "dump-restarted", True


class Fetcher:
    """Fetches one backup. `run` ends when every chunk is here and the digests fit."""

    def __init__(
        self,
        client: PeerClient,
        request: BackupRequest,
        spool: Spool,
        record: SessionRecord,
        workers: Workers,
        network: Network,
        in_flight: int,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._request = request
        self._spool = spool
        self._record = record
        self._workers = workers
        self._network = network
        self._in_flight = in_flight
        self._now = now
        self._path = f"/api/sync/backups/{request.session}"
        self._generation: int | None = None
        self._chunks: list[Chunk] = []
        self._streams: dict[int, PartStream] = {}
        self._queue: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._fetched_bytes = 0
        self.parts_known = asyncio.Event()
        self.complete = False
        self.baseline: Baseline | None = None
        self.data_bytes: int | None = None  # of all data parts, once the dump is complete

    @property
    def streams(self) -> list[PartStream]:
        return list(self._streams.values())

    def abort(self) -> None:
        """Wakes whoever waits for a chunk. Harmless at any time."""
        for stream in self._streams.values():
            stream.abort()

    async def run(self) -> None:
        """Raises DumpRestarted, PeerUnreachable when patience ends, and what the source says."""
        self._record.begin(Step.BACKUP, self._now())
        await self._patiently(self._initiate)
        async with asyncio.TaskGroup() as group:
            for number in range(self._in_flight):
                group.create_task(self._fetch_queued(), name=f"fetch-{number}")
            await self._follow()
            for _ in range(self._in_flight):
                self._queue.put_nowait(None)
        self._record.end(Step.TRANSFER, self._now())

    # --- the manifest -------------------------------------------------------------------
    async def _initiate(self) -> None:
        await self._client.call("POST", "/api/sync/initiate-backup", self._request, Ok)

    async def _follow(self) -> None:
        while not self.complete:
            page = await self._patiently(self._next_page)
            self._take_page(page)
        if manifest_digest(self._chunks) != self._expected_digest:
            raise CorruptData(
                f"the manifest of {self._client.peer.name} does not have the digest it announced"
            )

    async def _next_page(self) -> ManifestPage:
        asked = ManifestRequest(
            generation=self._generation or 0, after=len(self._chunks), wait_s=WAIT_S
        )
        try:
            return await self._client.call(
                "POST",
                f"{self._path}/manifest",
                asked,
                ManifestPage,
                read_timeout_s=WAIT_S + self._network.read_timeout_s,
            )
        except NotFound:
            await self._initiate()
            raise PeerUnreachable(f"{self._client.peer.name} was restarted") from None

    def _take_page(self, page: ManifestPage) -> None:
        if page.error:
            raise PeerFailed(
                f"{self._client.peer.name} could not make the backup",
                detail=page.error,
                hint=f"Mend it on {self._client.peer.name}, then start again.",
            )
        if self._generation is None and page.parts:
            self._generation = page.generation
        elif self._generation is not None and page.generation != self._generation:
            raise DumpRestarted(f"{self._client.peer.name} had to begin its dump again")
        if self._generation is None:
            return
        for part in page.parts:
            self._streams.setdefault(part.id, PartStream(part, self._spool))
        self.baseline = page.baseline or self.baseline
        for chunk in page.chunks:
            self._chunks.append(chunk)
            self._queue.put_nowait(chunk)
        for part in page.parts:
            if part.done:
                self._streams[part.id].end(part)
        self.parts_known.set()
        self._count(page)

    def _count(self, page: ManifestPage) -> None:
        self._record.waiting_for = page.waiting_for
        self._record.raw_bytes = page.dumped_bytes
        if page.complete:
            self.complete = True
            self._expected_digest = page.digest
            self.data_bytes = sum(p.raw_bytes for p in page.parts if p.kind == "data")
            self._record.count(Step.BACKUP, page.dumped_bytes, page.dumped_bytes)
            self._record.end(Step.BACKUP, self._now())
            total = sum(chunk.size for chunk in self._chunks)
            self._record.count(Step.TRANSFER, self._fetched_bytes, total)
        else:
            self._record.count(Step.BACKUP, page.dumped_bytes)

    # --- the chunks ---------------------------------------------------------------------
    async def _fetch_queued(self) -> None:
        while (chunk := await self._queue.get()) is not None:
            self._record.begin(Step.TRANSFER, self._now())
            if await self._workers.run(self._spool.has, chunk):
                self._record.saved_bytes += chunk.size
            else:
                await self._patiently(lambda c=chunk: self._fetch(c))  # type: ignore[misc]
                self._record.wire_bytes += chunk.size
            self._fetched_bytes += chunk.size
            self._record.count(Step.TRANSFER, self._fetched_bytes)
            self._streams[chunk.part].offer(chunk)

    async def _fetch(self, chunk: Chunk) -> None:
        path = f"{self._path}/chunks/{chunk.digest}"
        for attempt in range(1, _CORRUPT_TRIES + 1):
            try:
                pieces = [
                    piece
                    async for piece in self._client.download(
                        path, expected_size=chunk.size, digest=chunk.digest
                    )
                ]
            except CorruptData as exc:
                if attempt == _CORRUPT_TRIES:
                    raise
                log.warning("%s; fetching it again", exc)
            else:
                data = b"".join(pieces)
                del pieces
                return await self._workers.run(self._spool.write, chunk.digest, data)
        return None

    # --- patience -----------------------------------------------------------------------
    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats what failed because the peer could not be reached, with growing pauses."""
        backoff = Backoff(maximum_s=self._network.retry_max_s, total_s=self._network.retry_for_s)
        while True:
            try:
                answer = await call()
            except PeerUnreachable as exc:
                pause = backoff.next_pause(self._now())
                if pause is None:
                    raise
                self._record.waiting_for = (
                    f"{exc.message} (try {backoff.failures}, again in {pause:.0f} s)"
                )
                log.warning("%s; trying again in %.1f s", exc, pause)
                await asyncio.sleep(pause)
            else:
                if backoff.failures:
                    log.info(
                        "%s answers again after %d errors", self._client.peer.name, backoff.failures
                    )
                    self._record.waiting_for = None
                return answer
