"""What the records of full syncs add up to, for each database and each peer.

Two queries a database, whatever there is to count. Tables and rows are the planner's
estimates; sums are over the records that are kept, so a cleared history begins anew. A
database that does not answer says so, and keeps no other from being counted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from peersync.agent.databases import Databases
from peersync.agent.jobs import Jobs
from peersync.agent.statistics_view import (
    DatabaseStatistics,
    LastSync,
    PeerStatistics,
    Statistics,
    SyncTotals,
)
from peersync.core.errors import PeersyncError
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.postgres.sqlfiles import queries

RESULTS = ("done", "partly", "failed", "cancelled")
_SUMS = ("rows", "raw_bytes", "wire_bytes", "saved_bytes")


async def make_statistics(
    node: str, databases: Databases, jobs: Jobs, only: str | None = None
) -> Statistics:
    """Of all databases, or of `only` one. Raises NotFound for one that is not configured."""
    wanted = [databases.get(only)] if only is not None else list(databases)
    running = {progress.database for progress in jobs.views.running()}
    async with asyncio.TaskGroup() as group:
        reads = [
            group.create_task(_count(d, syncing=d.name in running), name=f"statistics-{d.name}")
            for d in wanted
        ]
    return Statistics(node=node, databases=[read.result() for read in reads])


async def _count(database: Database, *, syncing: bool) -> DatabaseStatistics:
    sql = queries("statistics")
    try:
        async with database.acquire("counting the syncs") as connection:
            facts = await connection.fetchrow(sql["facts"], LEASE)
            rows = await connection.fetch(sql["by_peer"])
    except PeersyncError as exc:
        return DatabaseStatistics(
            database=database.name,
            state="syncing" if syncing else "error",
            problem=exc.message,
            hint=exc.hint,
        )
    taken = [row for row in rows if row["role"] == "target"]
    peers = [_peer(row) for row in rows]
    ended = [p.last_sync for p in peers if p.role == "target" and p.last_sync is not None]
    last = max(ended, key=lambda sync: sync.at, default=None)
    results = {name: sum(row[name] or 0 for row in taken) for name in RESULTS}
    syncing = syncing or (facts["held"] and any(row["open"] for row in taken))
    return DatabaseStatistics(
        database=database.name,
        state="syncing" if syncing else _state(last, results),
        tables=facts["tables"],
        rows_estimated=facts["rows_estimated"] if facts["tables"] else 0,
        tables_not_analyzed=facts["tables_not_analyzed"],
        size_bytes=facts["size_bytes"],
        last_sync=last,
        results=results,
        totals=_sum([p.totals for p in peers if p.role == "target"]),
        peers=peers,
    )


def _state(last: LastSync | None, results: dict[str, int]) -> str:
    """A failure is an error until a later sync ends well; a cancelled one says nothing."""
    if last is not None and last.result == "failed":
        return "error"
    return "idle" if results["done"] or results["partly"] else "never_synced"


def _peer(row: Any) -> PeerStatistics:
    last = None
    if row["session_id"] is not None:
        last = LastSync(
            session=row["session_id"].hex,
            peer=row["peer"],
            at=row["completed_at"].isoformat(timespec="milliseconds"),
            result=row["state"],
            seconds=round(row["took"], 3),
        )
    return PeerStatistics(
        peer=row["peer"],
        role=row["role"],
        last_sync=last,
        results={name: row[name] or 0 for name in RESULTS},
        totals=SyncTotals(
            **{name: row[name] or 0 for name in _SUMS}, seconds=round(row["seconds"] or 0.0, 3)
        ),
    )


def _sum(totals: list[SyncTotals]) -> SyncTotals:
    sums = {name: sum(getattr(t, name) for t in totals) for name in _SUMS}
    return SyncTotals(**sums, seconds=round(sum(t.seconds for t in totals), 3))
