"""Tells how far a session is: those who watch it here, its durable record, and its source.

Three loops, so that a source which does not answer holds up neither the screen nor the
record. What can't be told is told with the next; the work itself goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from peersync.core.backoff import Backoff
from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord, TableResult
from peersync.postgres.history import History
from peersync.transport.client import PeerClient
from peersync.transport.sse import EventRing
from peersync.wire.messages import FinishRequest, Ok, ProgressReport

log = logging.getLogger("peersync.target")

TICK_S = 0.25
RECORD_EVERY_S = 2.0
REPORT_EVERY_S = 1.0
_GOODBYE_S = 5.0


class Reports:
    """Of one session. `run` until it is cancelled."""

    def __init__(
        self,
        session: str,
        progress: Callable[[], Progress],
        *,
        ring: EventRing,
        history: History,
        client: PeerClient,
    ) -> None:
        self._session = session
        self._progress = progress
        self._ring = ring
        self._history = history
        self._client = client

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, every_s, tell in (
                ("publish", TICK_S, self._publish),
                ("record", RECORD_EVERY_S, self.record),
                ("report", REPORT_EVERY_S, self._report),
            ):
                group.create_task(_repeat(every_s, tell), name=f"{name}-{self._session[:8]}")

    def publish(self) -> None:
        self._ring.publish("progress", self._progress())

    async def _publish(self) -> None:
        self.publish()

    async def record(self) -> None:
        try:
            await self._history.update(self._progress())
        except PeersyncError as exc:
            log.debug("session %s: progress not recorded: %s", self._session, exc)

    async def _report(self) -> None:
        try:
            await self._tell()
        except PeersyncError as exc:
            log.debug("session %s: progress not told: %s", self._session, exc)

    async def _tell(self, error: PeersyncError | None = None) -> None:
        path = f"/api/sync/backups/{self._session}/progress"
        failure = ErrorRecord.of(error) if error else None
        report = ProgressReport(progress=self._progress(), failure=failure)
        await self._client.call("POST", path, report, Ok)

    async def end(
        self,
        error: PeersyncError | None,
        tables: Sequence[TableResult],
        *,
        resumable: bool,
        patience: Backoff,
    ) -> None:
        """Tells the source how it ended: it keeps the backup of what may be resumed.

        A source that is away is told when it is back, as long as `patience` lasts.
        """
        while True:
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    return await (self._tell(error) if resumable else self._finish(error, tables))
            except (PeersyncError, TimeoutError) as exc:
                log.info("session %s: the source was not told of its end: %s", self._session, exc)
                if isinstance(exc, PeersyncError) and not exc.retryable:
                    return None
            pause = patience.next_pause(time.monotonic())
            if pause is None:
                return None
            await asyncio.sleep(pause)

    async def _finish(self, error: PeersyncError | None, tables: Sequence[TableResult]) -> None:
        progress = self._progress()
        state = progress.state
        body = FinishRequest(
            state=state if state in ("done", "partly", "cancelled") else "failed",  # type: ignore[arg-type]
            progress=progress,
            error=str(error) if error else None,
            failure=ErrorRecord.of(error) if error else None,
            tables=tuple(tables),
        )
        await self._client.call("POST", f"/api/sync/backups/{self._session}/finish", body, Ok)


async def _repeat(every_s: float, tell: Callable[[], Awaitable[None]]) -> None:
    while True:
        await tell()
        await asyncio.sleep(every_s)
