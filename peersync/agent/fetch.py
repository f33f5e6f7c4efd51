"""Brings a peer's chunks into the local spool, several at a time, as its manifest grows.

Every break of the network is waited out here, up to `retry_for_s`; a source that forgot
the session (its agent was restarted) is asked again, and has its chunks still. A chunk
goes on at the byte where it broke off. When the source had to begin its dump anew,
DumpRestarted ends the attempt: what was loaded belongs to a view that is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from peersync.agent.manifest import Manifest
from peersync.agent.stream import PartStream
from peersync.agent.workers import Workers
from peersync.config.model import Network
from peersync.core.backoff import Backoff
from peersync.core.errors import (
    CorruptData,
    Denied,
    DumpRestarted,
    NotFound,
    PeerFailed,
    PeerUnreachable,
)
from peersync.core.progress import Step
from peersync.core.session import SessionRecord
from peersync.core.throttle import Throttle
from peersync.transport.client import PeerClient
from peersync.transport.problems import clean
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
_BREAK_S = 0.1
_AHEAD = 1000  # chunks that are known and not yet fetched: more of the manifest waits
_MAX_BYTES = 1 << 60
_MAX_WORDS = 300


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
        *,
        planned_bytes: int,
        throttle: Throttle,
    ) -> None:
        self._client = client
        self._request = request
        self._spool = spool
        self._record = record
        self._workers = workers
        self._network = network
        self._in_flight = in_flight
        self._now = now
        self._throttle = throttle
        self._path = f"/api/sync/backups/{request.session}"
        self._manifest = Manifest(
            request,
            peer=client.peer.name,
            peer_id=client.peer.node_id,
            planned_bytes=planned_bytes,
        )
        self._streams: dict[int, PartStream] = {}
        self._queue: asyncio.Queue[Chunk | None] = asyncio.Queue(_AHEAD)
        self._fetched_bytes = 0
        self.parts_known = asyncio.Event()
        self.compared_bytes = 0  # of tables, about, that were compared before their rows come

    @property
    def streams(self) -> list[PartStream]:
        return list(self._streams.values())

    @property
    def generation(self) -> int:
        """Of the source's backup, once its parts are known."""
        return self._manifest.generation or 0

    @property
    def baseline(self) -> Baseline | None:
        return self._manifest.baseline

    @property
    def data_bytes(self) -> int | None:
        """Of all data parts, once the dump is complete."""
        return self._manifest.data_bytes if self._manifest.complete else None

    def abort(self) -> None:
        """Wakes whoever waits for a chunk. Harmless at any time."""
        for stream in self._streams.values():
            stream.abort()

    async def run(self) -> None:
        """Raises DumpRestarted, PeerUnreachable when patience ends, and what the source says."""
        self._record.begin(Step.BACKUP, self._now())
        await self.patiently(self.initiate)
        async with asyncio.TaskGroup() as group:
            for number in range(self._in_flight):
                group.create_task(self._fetch_queued(), name=f"fetch-{number}")
            await self._follow()
            for _ in range(self._in_flight):
                await self._queue.put(None)
        self._record.end(Step.TRANSFER, self._now())

    # --- the manifest -------------------------------------------------------------------
    async def initiate(self) -> None:
        """Asks for the backup; harmless while it is made."""
        await self._client.call("POST", "/api/sync/initiate-backup", self._request, Ok)

    async def _follow(self) -> None:
        while not self._manifest.complete:
            page = await self.patiently(self._next_page)
            if page.error:
                raise PeerFailed(
                    f"{self._client.peer.name} could not make the backup",
                    detail=clean(page.error),
                    hint=f"Mend it on {self._client.peer.name}, then start again.",
                )
            await self._take_page(page)

    async def _next_page(self) -> ManifestPage:
        asked = ManifestRequest(
            generation=self._manifest.generation or 0,
            after=len(self._manifest.chunks),
            wait_s=WAIT_S,
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
            await self.initiate()
            raise self._forgot() from None

    def _forgot(self) -> PeerUnreachable:
        return PeerUnreachable(f"{self._client.peer.name} was restarted")

    async def _take_page(self, page: ManifestPage) -> None:
        chunks = self._manifest.take(page)
        for part in self._manifest.parts.values():
            stream = self._streams.setdefault(part.id, PartStream(part, self._spool))
            if part.done:
                stream.end(part)
        if self._streams:
            self.parts_known.set()
        self._count(page)
        for chunk in chunks:
            await self._queue.put(chunk)

    def _count(self, page: ManifestPage) -> None:
        told = page.waiting_for
        self._record.waiting_for = clean(told)[:_MAX_WORDS] if told else None
        dumped = min(page.dumped_bytes, _MAX_BYTES)
        self._record.raw_bytes = dumped
        dumped += self.compared_bytes
        if self._manifest.complete:
            self._record.count(Step.BACKUP, dumped, dumped)
            self._record.end(Step.BACKUP, self._now())
            self._record.count(Step.TRANSFER, self._fetched_bytes, self._manifest.wire_bytes)
        else:
            self._record.count(Step.BACKUP, dumped)

    # --- the chunks ---------------------------------------------------------------------
    async def _fetch_queued(self) -> None:
        while (chunk := await self._queue.get()) is not None:
            self._record.begin(Step.TRANSFER, self._now())
            if await self._workers.run(self._spool.has, chunk):
                self._record.saved_bytes += chunk.size
            else:
                data = await self._fetch(chunk)
                await self._workers.run(self._spool.write, chunk.digest, data)
                del data
            self._fetched_bytes += chunk.size
            self._record.count(Step.TRANSFER, self._fetched_bytes)
            self._streams[chunk.part].offer(chunk)

    async def _fetch(self, chunk: Chunk) -> bytes:
        """The chunk's bytes, proved. What came damaged is fetched again, from its beginning."""
        for attempt in range(1, _CORRUPT_TRIES + 1):
            data = bytearray()
            while len(data) < chunk.size:
                if not await self.patiently(lambda d=data: self._read_on(chunk, d)):  # type: ignore[misc]
                    break
            if len(data) == chunk.size and await self._workers.run(_digest, data) == chunk.digest:
                return bytes(data)
            name = self._client.peer.name
            error = CorruptData(
                f"{name} sent chunk {chunk.number} damaged: its length or its SHA-256 is not "
                "the one that was announced",
                hint=f"Check the disk of the spool directory on {name}.",
            )
            if attempt == _CORRUPT_TRIES:
                raise error
            log.warning("%s; fetching it again", error)
        raise AssertionError("unreachable")

    async def _read_on(self, chunk: Chunk, data: bytearray) -> bool:
        """Reads from where `data` ends; False when the peer says that this was all.

        A break that let bytes through is no failure.
        """
        begun = len(data)
        headers = {"Range": f"bytes={begun}-"} if begun else {}
        try:
            async with self._client.open_stream(
                f"{self._path}/chunks/{chunk.digest}", headers=headers
            ) as stream:
                if begun and not stream.headers.get("Content-Range", "").startswith(
                    f"bytes {begun}-"
                ):
                    data.clear()
                async for piece in stream:
                    data += piece[: chunk.size + 1 - len(data)]
                    self._record.wire_bytes += len(piece)
                    if pause := self._throttle.take(len(piece)):
                        await asyncio.sleep(pause)
                    if len(data) > chunk.size:
                        break
        except NotFound:
            await self._ask_again()
        except PeerUnreachable as exc:
            if len(data) <= begun:
                raise
            log.info("%s; going on at byte %d of chunk %d", exc, len(data), chunk.number)
            await asyncio.sleep(_BREAK_S)
            return True
        return False

    async def _ask_again(self) -> None:
        """The peer has lost the chunk: it was restarted, or dumps anew."""
        await self.initiate()
        asked = ManifestRequest(wait_s=0)
        page = await self._client.call("POST", f"{self._path}/manifest", asked, ManifestPage)
        if page.generation != self._manifest.generation:
            raise DumpRestarted(f"{self._client.peer.name} had to begin its dump again")
        raise self._forgot()

    # --- patience -----------------------------------------------------------------------
    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeats what failed because the peer could not be reached, with growing pauses."""
        backoff = Backoff(maximum_s=self._network.retry_max_s, total_s=self._network.retry_for_s)
        refused = False
        while True:
            try:
                answer = await call()
            except PeerUnreachable as exc:
                await self._pause(backoff, exc)
            except Denied as exc:
                # Seen from here, a peer that comes up in the middle of a handshake looks like
                # one that does not trust us: the second such answer is believed.
                if refused or "fingerprint" not in exc.data:
                    raise
                refused = True
                await self._pause(backoff, exc)
            else:
                if backoff.failures:
                    name = self._client.peer.name
                    log.info("%s answers again after %d errors", name, backoff.failures)
                    self._record.waiting_for = None
                return answer

    async def _pause(self, backoff: Backoff, exc: PeerUnreachable | Denied) -> None:
        pause = backoff.next_pause(self._now())
        if pause is None:
            raise exc
        self._record.waiting_for = f"{exc.message} (try {backoff.failures}, again in {pause:.0f} s)"
        log.warning("%s; trying again in %.1f s", exc, pause)
        await asyncio.sleep(pause)


def _digest(data: bytearray) -> str:
    return hashlib.sha256(data).hexdigest()
