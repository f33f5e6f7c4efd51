"""Takes a backup into the target database while it still arrives: threads, in their order.

    definitions (if brought) ─▶ data parts, several at a time, each with its indexes ─▶
    the one final transaction

Everything before the final transaction is undone by `leftovers.clean_up`, whoever calls it:
this process, or the next one after a crash, from what the session's record says.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import psycopg

from peersync.agent.leftovers import stage_prefix
from peersync.agent.loadprogress import LoadProgress
from peersync.agent.plan import Plan
from peersync.agent.stream import PartStream
from peersync.agent.workers import Workers
from peersync.config.model import FullSync
from peersync.core.errors import SchemaMismatch
from peersync.core.names import TableName
from peersync.core.progress import Step
from peersync.core.results import TableResult
from peersync.core.session import SessionRecord
from peersync.dump.pieces import Statement
from peersync.postgres import schema
from peersync.postgres.bulk import Stop, connect
from peersync.postgres.catalog import DatabaseCatalog, Table, read_catalog
from peersync.postgres.compared import Comparison
from peersync.postgres.load import Loading, TableLoad, create_stages, load_part, refuse_unasked
from peersync.postgres.log.logcopy import LogStage
from peersync.postgres.pool import Database
from peersync.postgres.restore import Final, commit_session
from peersync.wire.messages import Baseline, Options

MAX_SCHEMA_BYTES = 256 << 20
_Job = tuple[Callable[[], None], Callable[[], None]]  # how to stop it, and the work itself


class Loader:
    """One attempt to restore one session's backup into one database."""

    def __init__(
        self,
        plan: Plan,
        session: str,
        database: Database,
        record: SessionRecord,
        workers: Workers,
        options: Options,
        settings: FullSync,
        now: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._session = session
        self._database = database
        self._record = record
        self._workers = workers
        self._options = options
        self._settings = settings
        self._now = now
        self._stop = Stop()
        self._loading: Loading | None = None
        self._definitions = schema.Definitions(
            partial=any(t.action != "create" for t in plan.tables),
            left_out=frozenset(t.table for t in plan.blocked),
        )
        self._post = schema.PostData({}, [])
        self._indexes: deque[Statement] = deque()
        self._log: LogStage | None = None
        self._progress = LoadProgress(plan, record, now)
        self._compared: dict[TableName, Comparison] = {}
        self._whole: dict[TableName, str] = {
            t.table: t.way_reason for t in plan.tables if t.way_reason is not None
        }

    def count(self, data_bytes: int | None) -> None:
        """Brings the record up to date; `data_bytes` is what will come, None is not known yet."""
        self._progress.count(self._loading, data_bytes)

    # --- of a delta ---------------------------------------------------------------------
    def note_looked_at(self, table: TableName, rows: int) -> None:
        """So many more rows of a table were compared."""
        self._progress.note_looked_at(table, rows)

    def note_compared(self, table: TableName, found: Comparison) -> None:
        """Only the rows that differ come of this table."""
        self._compared[table] = found

    def note_whole(self, table: TableName, reason: str) -> None:
        """All rows come of this table, although only some were asked for."""
        self._compared.pop(table, None)
        self._progress.forget_looked_at(table)
        self._whole[table] = reason

    def _note_ways(self, loading: Loading) -> None:
        for name, load in loading.tables.items():
            load.compared = self._compared.get(name)
            load.way_reason = self._whole.get(name)

    # --- the attempt --------------------------------------------------------------------
    def _connect(self, kind: str, what: str) -> AbstractContextManager[psycopg.Connection]:
        settings = {
            "work_mem": self._settings.work_mem,
            "synchronous_commit": "off",
            # A staging table is only ever merged: its planner needs the size, not the values.
            "default_statistics_target": "100" if kind == "analyze" else "10",
        }
        return connect(
            self._database.resolved,
            f"{kind}/{self._session[:8]}",
            self._stop,
            what=what,
            settings=settings,
        )

    async def load(self, streams: Sequence[PartStream]) -> None:
        """Definitions, then data and indexes. Nothing that was here before is changed."""
        self._record.begin(Step.CONVERT, self._now())
        self._record.begin(Step.RESTORE, self._now())
        await self._load_definitions([s for s in streams if s.part.kind.endswith("-data")])
        await self._prepare_tables()
        await self._load_data([s for s in reversed(streams) if s.part.kind in ("data", "log")])
        assert self._loading is not None
        refuse_unasked(self._loading, (name for name, _ in self._plan.not_copied))
        self._record.end(Step.CONVERT, self._now())

    async def _load_data(self, waiting: list[PartStream]) -> None:
        """The parts, the last one first, several at a time, and the indexes that follow them."""
        changed = asyncio.Condition()
        busy = 0

        def ready() -> bool:
            return bool(waiting or self._indexes) or not busy

        async def work() -> None:
            """Rows first, for the source sends them anyway; an index when there is one to build."""
            nonlocal busy
            while True:
                async with changed:
                    await changed.wait_for(ready)
                    if not (waiting or self._indexes):
                        return
                    job = (
                        self._loading_of(waiting.pop())
                        if waiting
                        else self._building_of(self._indexes.popleft())
                    )
                    busy += 1
                try:
                    await self._workers.pump(*job)
                finally:
                    busy -= 1
                    async with changed:
                        changed.notify_all()

        async with asyncio.TaskGroup() as group:
            for number in range(self._settings.parallel):
                group.create_task(work(), name=f"load-{number}")

    def _loading_of(self, stream: PartStream) -> _Job:
        work = self._load_log if stream.part.kind == "log" else self._load_part
        return lambda: self._interrupt(stream), lambda: work(stream)

    def _building_of(self, statement: Statement) -> _Job:
        return self._stop.set, lambda: self._build(statement)

    def _interrupt(self, stream: PartStream) -> None:
        stream.abort()
        self._stop.set()

    async def _load_definitions(self, streams: Sequence[PartStream]) -> None:
        texts: dict[str, bytes] = {}
        for stream in streams:
            texts[stream.part.kind] = await self._workers.pump(
                lambda s=stream: self._interrupt(s),  # type: ignore[misc]
                lambda s=stream: _whole(s),  # type: ignore[misc]
            )
        if "pre-data" in texts:
            text = texts["pre-data"]
            await self._workers.pump(self._stop.set, lambda: self._restore_definitions(text))
        if "post-data" in texts:
            created = {t.table for t in self._plan.wanted() if t.action == "create"}
            self._post = self._definitions.split_post_data(texts["post-data"], created)

    def _restore_definitions(self, text: bytes) -> None:
        with self._connect("schema", "restoring the peer's schema") as connection:
            self._definitions.restore_pre_data(connection, text, self._session)

    async def _prepare_tables(self) -> None:
        async with self._database.acquire("reading the catalog") as connection:
            catalog = await read_catalog(connection)
        self._loading = Loading(
            tables=self._table_loads(catalog),
            large_objects=TableName("peersync", f"{stage_prefix(self._session)}_lo"),
            take_large_objects=self._plan.large_objects > 0,
            stop=self._stop,
            new_sequences=self._definitions.sequences,
        )
        await self._workers.pump(self._stop.set, self._create_stages)

    def _table_loads(self, catalog: DatabaseCatalog) -> dict[TableName, TableLoad]:
        loads = {}
        for number, planned in enumerate(self._plan.wanted()):
            table = catalog.tables.get(planned.table)
            if table is None:
                raise SchemaMismatch(
                    f"table {planned.table} is not here, although the plan had it",
                    hint="It was dropped meanwhile, or the peer's schema does not create it. "
                    "Start again: the plan is then made anew.",
                )
            stage = TableName("peersync", f"{stage_prefix(self._session)}_{number}")
            loads[table.name] = TableLoad(table, planned.action == "create", stage)
        return loads

    def _create_stages(self) -> None:
        assert self._loading is not None
        with self._connect("stage", "preparing the restore") as connection:
            create_stages(connection, self._loading)

    def _load_log(self, stream: PartStream) -> None:
        assert self._loading is not None
        stage = LogStage(stage_prefix(self._session))
        with self._connect("load", "taking in the log") as connection:
            stage.create(connection)
            self._loading.count(stage.load(connection, stream.pieces()), direct=False)
        self._log = stage

    def _load_part(self, stream: PartStream) -> None:
        assert self._loading is not None
        with self._connect("load", "loading rows") as connection:
            load_part(connection, stream.pieces(), self._loading)
            ref = stream.part.table
            tables = (
                [TableName(ref.schema, ref.name)]
                if ref is not None
                else [name for name, load in self._loading.tables.items() if load.loaded]
            )
            for name in tables:
                load = self._loading.tables.get(name)
                if load is not None and load.created:
                    self._finish_table(connection, load.table)

    def _finish_table(self, connection: psycopg.Connection, table: Table) -> None:
        """The keys of a table that this session created, once its rows are in.

        Its other indexes are left to whichever thread is free: several can be built at once,
        where adding a key locks the others out.
        """
        with self._loading_guard():
            statements = self._post.indexes.pop(table.name, [])
        self._stop.check()
        keys = [s for s in statements if s.text.startswith("ALTER TABLE")]
        self._definitions.run(connection, keys)
        self._indexes.extend(s for s in statements if s not in keys)

    def _build(self, statement: Statement) -> None:
        with self._connect("index", "building indexes") as connection:
            self._definitions.run(connection, [statement])

    async def gather_statistics(self) -> None:
        """ANALYZE of what was created, after the commit: the sync is over, the planner is not."""
        if self._loading is None:
            return
        names = [load.table.name.sql for load in self._loading.tables.values() if load.created]
        if not names:
            return

        def work() -> None:
            with self._connect("analyze", "gathering statistics") as connection:
                connection.execute(f"ANALYZE {', '.join(names)}".encode())

        await self._workers.pump(self._stop.set, work)

    def _loading_guard(self) -> AbstractContextManager[object]:
        assert self._loading is not None
        return self._loading.guard

    async def commit(
        self, fence: int, baseline: Baseline, *, replica_role: bool
    ) -> list[TableResult]:
        """The final transaction. Afterwards the target is what the source was."""
        loading = self._loading
        assert loading is not None
        self._note_ways(loading)
        final = Final(
            session=self._session,
            fence=fence,
            baseline=baseline,
            definitions=self._definitions,
            left_out=[
                TableResult(schema=t.schema, name=t.name, result="blocked", error=t.reason)
                for t in self._plan.blocked
            ],
            rest=self._post.rest,
            verify=self._options.verify,
            mirror=self._options.mirror,
            source_wins=self._options.source_wins,
            log=self._log if self._options.join else None,
            send_only_here=self._options.merge,
            per_table=self._options.per_table,
            undo_bytes=self._settings.undo_max_mib << 20 if self._options.undo else 0,
            replica_role=replica_role,
            lock_timeout_s=int(self._settings.lock_timeout_s),
            restored=self._progress.table_restored,
            verified=self._progress.table_verified,
            partial=frozenset(t.table for t in self._plan.tables if t.filtered),
            look_back=lambda: self._connect("look-back", "reading rows as they were"),
        )
        self._record.begin(Step.VERIFY, self._now())

        def work() -> list[TableResult]:
            with self._connect("restore", "restoring") as connection:
                return commit_session(connection, loading, final)

        results = await self._workers.pump(self._stop.set, work)
        self._record.notes = tuple(self._definitions.notes)
        return results


def _whole(stream: PartStream) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in stream.pieces():
        size += len(piece)
        if size > MAX_SCHEMA_BYTES:
            raise SchemaMismatch("the peer's schema is larger than 256 MiB; this can't be right")
        pieces.append(piece)
    return b"".join(pieces)
