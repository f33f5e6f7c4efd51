"""One attempt of a full sync: fetching and loading side by side, then the final transaction.

It changes nothing that was there before its last step, and cleans up nothing: what it
leaves is its session's to clear, whether it ended well, badly or in the middle.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType

import msgspec

from peersync.agent.delta.hold import held_view
from peersync.agent.delta.taker import Taker
from peersync.agent.fetch import Fetcher
from peersync.agent.loader import Loader
from peersync.agent.periodic.joining import capture_created
from peersync.agent.plan import Plan
from peersync.agent.tableplan import TablePlan
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import PeersyncError
from peersync.core.names import TableName
from peersync.core.progress import Step, StepState
from peersync.core.results import TableResult
from peersync.core.session import SessionRecord
from peersync.core.throttle import Throttle
from peersync.postgres.pool import Database
from peersync.transport.client import PeerClient
from peersync.wire.messages import BackupRequest, JoinRequest, Options, Part, TableRef
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
        whole: Mapping[TableName, str] = MappingProxyType({}),
    ) -> None:
        """`whole`: tables that are not compared, whatever the plan says, and why."""
        self._record = record
        self._database = database
        self._config = config
        self._join = join
        self._plan = plan
        self._options = options
        self._client = client
        self._compared = [t for t in plan.wanted() if t.way == "delta" and t.table not in whole]
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
        self._parallel = settings.parallel
        for table, reason in whole.items():
            self._loader.note_whole(table, reason)

    def count(self) -> None:
        """Brings the session's record up to date."""
        self._loader.count(self._fetcher.data_bytes)

    def stop_reading(self) -> None:
        self._fetcher.abort()

    async def run(self, fence: int, *, replica_role: bool) -> list[TableResult]:
        """When it returns, the target is what the source was."""
        async with AsyncExitStack() as kept:
            await self._load(kept)
            return await self._commit(fence, replica_role=replica_role)

    async def _load(self, kept: AsyncExitStack) -> None:
        """What a comparison needs to be held stays `kept` until the end."""
        fetcher, loader = self._fetcher, self._loader
        async with asyncio.TaskGroup() as group:
            group.create_task(fetcher.run(), name=f"fetch-{self._record.session[:8]}")
            await fetcher.parts_known.wait()
            parts = [s.part for s in fetcher.streams if s.part.probe is not None]
            self._note_not_compared(parts)
            if parts:
                exported = await kept.enter_async_context(
                    held_view(self._database, self._record.session)
                )
                work = self._taker(exported).run(fetcher.generation, parts)
                group.create_task(work, name=f"compare-{self._record.session[:8]}")
            await loader.load(fetcher.streams)

    async def _commit(self, fence: int, *, replica_role: bool) -> list[TableResult]:
        fetcher, loader = self._fetcher, self._loader
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

    def _note_not_compared(self, parts: Sequence[Part]) -> None:
        """An older source, or one that filters a table by now, sends all rows."""
        offered = {TableName(p.table.schema, p.table.name) for p in parts if p.table is not None}
        for table in self._compared:
            if table.table not in offered:
                self._loader.note_whole(table.table, "the source does not compare it")

    def _taker(self, exported: str) -> Taker:
        return Taker(
            self._record.session,
            self._client,
            self._database,
            self._compared,
            _Notes(self._loader, self._fetcher, self._record, self._compared),
            self._fetcher.patiently,
            self._fetcher.initiate,
            parallel=self._parallel,
            lock_timeout_s=self._config.full_sync.lock_timeout_s,
            exported=exported,
        )

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
            method="http" if "http" in (plan.method, plan.rest_method) else "backup",
            parallel=self._options.parallel,
            join=self._join,
            narrow=self._options.narrow,
            compare=tuple(_ref(t.schema, t.name) for t in self._compared),
            attempt=secrets.token_hex(8) if self._compared else "",
        )


class _Notes:
    """What a comparison tells: to the loader what became of a table, to the record how far it is.

    Rows that were compared count like rows that were dumped.
    """

    def __init__(
        self, loader: Loader, fetcher: Fetcher, record: SessionRecord, plans: Sequence[TablePlan]
    ) -> None:
        self.note_compared = loader.note_compared
        self.note_whole = loader.note_whole
        self._note_looked_at = loader.note_looked_at
        self._fetcher = fetcher
        self._record = record
        self._row_bytes = {t.table: t.size_bytes / (t.rows or 1) for t in plans}

    def note_progress(self, table: TableName, rows: int) -> None:
        """So many more rows of a table were compared."""
        self._fetcher.compared_bytes += int(rows * self._row_bytes[table])
        self._note_looked_at(table, rows)

    def note_wire(self, size_bytes: int) -> None:
        """So many bytes of digests have come."""
        self._record.wire_bytes += size_bytes


def _ref(schema: str, name: str) -> TableRef:
    return TableRef(schema=schema, name=name)
