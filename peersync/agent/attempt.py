"""One attempt of a full sync: fetching and loading side by side, then the final transaction.

It changes nothing that was there before its last step, and cleans up nothing: what it
leaves is its session's to clear, whether it ended well, badly or in the middle.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from peersync.agent.fetch import Fetcher
from peersync.agent.loader import Loader
from peersync.agent.periodic.joining import capture_created
from peersync.agent.plan import Plan
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.progress import Step, StepState
from peersync.core.results import TableResult
from peersync.core.session import SessionRecord
from peersync.core.throttle import Throttle
from peersync.postgres.pool import Database
from peersync.transport.client import PeerClient
from peersync.wire.messages import BackupRequest, JoinRequest, Options, TableRef
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.target")


class Attempt:
    """`run` once. `stop_reading` at any time, also when it has ended."""

    def __init__(
        self,
        record: SessionRecord,
        plan: Plan,
        options: Options,
        *,
        client: PeerClient,
        database: Database,
        spool: Spool,
        workers: Workers,
        config: Config,
        join: JoinRequest | None = None,
    ) -> None:
        self._record = record
        self._database = database
        self._config = config
        self._join = join
        self._plan = plan
        self._options = options
        self._fetcher = Fetcher(
            client,
            self._request(),
            spool,
            record,
            workers,
            config.network,
            config.full_sync.in_flight,
            time.monotonic,
            planned_bytes=plan.size_bytes,
            throttle=Throttle(options.bandwidth_bytes_s, time.monotonic),
        )
        settings = msgspec.structs.replace(
            config.full_sync, parallel=options.parallel or config.full_sync.parallel
        )
        self._loader = Loader(
            plan, record.session, database, record, workers, options, settings, time.monotonic
        )

    def count(self) -> None:
        """Brings the session's record up to date."""
        self._loader.count(self._fetcher.data_bytes)

    def stop_reading(self) -> None:
        self._fetcher.abort()

    async def run(self, fence: int, *, replica_role: bool) -> list[TableResult]:
        """When it returns, the target is what the source was."""
        fetcher, loader = self._fetcher, self._loader
        async with asyncio.TaskGroup() as group:
            group.create_task(fetcher.run(), name=f"fetch-{self._record.session[:8]}")
            await fetcher.parts_known.wait()
            await loader.load(fetcher.streams)
        if fetcher.baseline is None:
            raise PeersyncError("the source sent no baseline")
        if self._join is not None:
            await capture_created(self._database, self._config)
        self.count()
        results = await loader.commit(fence, fetcher.baseline, replica_role=replica_role)
        self.count()
        now = time.monotonic()
        self._record.end(Step.RESTORE, now)
        verified = StepState.DONE if self._options.verify else StepState.SKIPPED
        self._record.end(Step.VERIFY, now, verified)
        return results

    async def gather_statistics(self) -> None:
        """What is left to do once the session has ended well, and nobody waits for any more."""
        try:
            await self._loader.gather_statistics()
        except PeersyncError as exc:
            session = self._record.session
            log.warning("session %s: ANALYZE: %s; autovacuum will do it", session, exc)

    def _request(self) -> BackupRequest:
        plan = self._plan
        wanted = plan.wanted()
        create = tuple(_ref(t.schema, t.name) for t in wanted if t.action == "create")
        return BackupRequest(
            session=self._record.session,
            database=plan.database,
            tables=tuple(_ref(t.schema, t.name) for t in wanted),
            schema=plan.schema_scope,
            schema_tables=create if plan.schema_scope == "tables" else (),
            codec="zstd" if self._options.compress else "none",
            large_objects=plan.large_objects > 0,
            method="http" if plan.method == "http" else "backup",
            parallel=self._options.parallel,
            join=self._join,
            narrow=self._options.narrow,
        )


def _ref(schema: str, name: str) -> TableRef:
    return TableRef(schema=schema, name=name)
