"""How far the loading of a backup is: each table, and the steps of the session's record.

Owns the counts that the loading threads do not keep themselves: rows that were compared, tables
that are merged and verified. It only counts: what is loaded, and in which order, is the loader's.
"""

from __future__ import annotations

from collections.abc import Callable

from peersync.agent.plan import Plan
from peersync.agent.tableplan import TablePlan
from peersync.core.names import TableName
from peersync.core.progress import Step
from peersync.core.session import SessionRecord
from peersync.core.tables import (
    COMPARING,
    COPIED,
    COPYING,
    DONE,
    FAILED,
    WAITING,
    TableProgress,
    sum_up,
)
from peersync.postgres.load import Loading, TableLoad

TABLES_S = 0.25
TABLES_PAUSE = 20.0  # times what counting them has taken


class LoadProgress:
    """Of one attempt. The loader's threads tell it; whoever watches has it counted."""

    def __init__(self, plan: Plan, record: SessionRecord, now: Callable[[], float]) -> None:
        self._plan = plan
        self._record = record
        self._now = now
        self._merged_bytes = 0
        self._verified = 0
        self._restored: set[TableName] = set()
        self._looked_at: dict[TableName, int] = {}  # rows, of tables that are being compared
        self._tables_due = 0.0

    # --- what has happened --------------------------------------------------------------
    def note_looked_at(self, table: TableName, rows: int) -> None:
        """So many more rows of a table were compared."""
        self._looked_at[table] = self._looked_at.get(table, 0) + rows

    def forget_looked_at(self, table: TableName) -> None:
        """A table is not compared any more: all its rows come."""
        self._looked_at.pop(table, None)

    def table_restored(self, load: TableLoad) -> None:
        self._restored.add(load.table.name)
        if not load.created:
            self._merged_bytes += load.raw_bytes

    def table_verified(self, load: TableLoad) -> None:
        self._verified += 1

    # --- counting -----------------------------------------------------------------------
    def count(self, loading: Loading | None, data_bytes: int | None) -> None:
        """Brings the record up to date. `data_bytes`: how much data comes, None: not known yet."""
        self._count_tables(loading)
        if loading is None:
            return
        record = self._record
        record.rows = loading.rows
        record.count(Step.CONVERT, loading.scanned_bytes, data_bytes)
        record.count(Step.RESTORE, loading.direct_bytes + self._merged_bytes, data_bytes)
        record.count(Step.VERIFY, self._verified, len(loading.tables))

    def _count_tables(self, loading: Loading | None) -> None:
        """Now and then: there may be 50,000 of them, and many who look."""
        began = self._now()
        if began < self._tables_due:
            return
        loads = loading.tables if loading is not None else {}
        self._record.tables = sum_up(
            self._table(table, loads.get(table.table)) for table in self._plan.wanted()
        )
        self._tables_due = began + max(TABLES_S, TABLES_PAUSE * (self._now() - began))

    def _table(self, plan: TablePlan, load: TableLoad | None) -> TableProgress:
        looked_at, rows, raw_bytes = self._looked_at.get(plan.table), 0, 0
        rows_total, bytes_total = plan.rows, plan.size_bytes or None
        state = COMPARING if looked_at is not None else WAITING
        if load is not None and load.columns:
            rows, raw_bytes, state = load.rows_seen, load.raw_bytes, COPYING
            rows_total = None if load.compared else rows_total
        if load is not None and load.loaded:
            rows_total, bytes_total, state = rows, raw_bytes, COPIED
        if load is not None and plan.table in self._restored:
            state = DONE
        if load is not None and load.error is not None:
            state = FAILED
        return TableProgress(
            schema=plan.schema,
            name=plan.name,
            state=state,
            rows=looked_at or 0 if state == COMPARING else rows,
            rows_total=rows_total,
            bytes=raw_bytes,
            bytes_total=bytes_total,
        )
