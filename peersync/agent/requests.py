"""The form in which people and scripts ask for a full sync, in JSON with camelCase names."""

from __future__ import annotations

import msgspec

from peersync.agent.jobs import Jobs
from peersync.agent.jobview import Started
from peersync.core.errors import BadRequest
from peersync.transport.problems import clean
from peersync.wire.messages import (
    Bandwidth,
    Direction,
    Method,
    Options,
    Parallel,
    Patterns,
    SyncType,
)

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
    join: bool = False
    merge: bool = False
    anew: bool = False
    direction: Direction | None = None
    method: Method = "auto"
    tables: Patterns = ()
    exclude_tables: Patterns = ()
    bandwidth_bytes_s: Bandwidth = msgspec.field(default=0, name="bandwidth")
    parallel: Parallel = None
    sync_type: SyncType = "manual"
    requested_by: str = "api"

    @property
    def options(self) -> Options:
        """The fields that are options of the sync itself."""
        return msgspec.convert(self, Options, from_attributes=True)


def beyond_operators(wanted: FullSyncRequest) -> str | None:
    """What of it decides who is a member, or can't be had back; None for nothing."""
    if wanted.join or wanted.merge or wanted.anew:
        return "making a database a member"
    if not wanted.undo and (wanted.mirror or wanted.source_wins):
        return "overwriting or deleting rows without a way back"
    return None


class UndoRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/admin/jobs/JOB/undo`."""

    dry_run: bool = False


async def start(jobs: Jobs, wanted: FullSyncRequest, session: str | None = None) -> Started:
    """Plans, and starts unless it is a dry run. Raises what the plan or the peer refuses with.

    `session`: its id, where somebody has to know it before.
    """
    if wanted.action not in ("pull", "push"):
        raise BadRequest(f"action {wanted.action!r} is not known", hint='Use "pull" or "push".')
    peer, database, options = wanted.peer, wanted.database, wanted.options
    by, sync_type = clean(wanted.requested_by)[:MAX_BY], wanted.sync_type
    if wanted.action == "push":
        if wanted.dry_run:
            return Started(plan=await jobs.pushes.plan(peer, database, options))
        return await jobs.pushes.start(
            peer, database, options, by=by, sync_type=sync_type, session=session
        )
    if wanted.dry_run:
        plan, _ = await jobs.plan(peer, database, options)
        return Started(plan=plan)
    return await jobs.start(peer, database, options, by=by, sync_type=sync_type, session=session)
