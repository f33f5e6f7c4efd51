"""The form in which people and scripts ask for a full sync, in JSON with camelCase names."""

from __future__ import annotations

import msgspec

from peersync.agent.jobs import Jobs
from peersync.agent.jobview import Started
from peersync.core.errors import BadRequest
from peersync.transport.problems import clean
from peersync.wire.messages import Method, Options, Patterns, SyncType

MAX_BY = 150


class FullSyncRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/admin/sync/full-sync` (docs/api.md)."""

    action: str
    peer: str
    database: str
    dry_run: bool = False
    compress: bool = True
    verify: bool = True
    mirror: bool = False
    source_wins: bool = False
    per_table: bool = False
    undo: bool = True
    method: Method = "auto"
    tables: Patterns = ()
    exclude_tables: Patterns = ()
    bandwidth: int = 0
    parallel: int | None = None
    sync_type: SyncType = "manual"
    requested_by: str = "api"

    @property
    def options(self) -> Options:
        """Raises BadRequest for a number that can't be."""
        if not 0 <= self.bandwidth <= 1 << 50:
            raise BadRequest("bandwidth must be bytes a second, or 0 for no limit")
        if self.parallel is not None and not 1 <= self.parallel <= 64:
            raise BadRequest("parallel must be from 1 to 64")
        return Options(
            compress=self.compress,
            verify=self.verify,
            mirror=self.mirror,
            source_wins=self.source_wins,
            per_table=self.per_table,
            undo=self.undo,
            method=self.method,
            tables=self.tables,
            exclude_tables=self.exclude_tables,
            bandwidth_bytes_s=self.bandwidth,
            parallel=self.parallel,
        )


class UndoRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/admin/jobs/JOB/undo`."""

    dry_run: bool = False


async def start(jobs: Jobs, wanted: FullSyncRequest) -> Started:
    """Plans, and starts unless it is a dry run. Raises what the plan or the peer refuses with."""
    if wanted.action not in ("pull", "push"):
        raise BadRequest(f"action {wanted.action!r} is not known", hint='Use "pull" or "push".')
    peer, database, options = wanted.peer, wanted.database, wanted.options
    by, sync_type = clean(wanted.requested_by)[:MAX_BY], wanted.sync_type
    if wanted.action == "push":
        if wanted.dry_run:
            return Started(plan=await jobs.pushes.plan(peer, database, options))
        return await jobs.pushes.start(peer, database, options, by=by, sync_type=sync_type)
    if wanted.dry_run:
        plan, _ = await jobs.plan(peer, database, options)
        return Started(plan=plan)
    return await jobs.start(peer, database, options, by=by, sync_type=sync_type)
