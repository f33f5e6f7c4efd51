"""A job as people and scripts see it, from whatever knows it: the running session or its record.

A contract (docs/cli-json.md): fields are added and never change their meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from peersync.agent.plan import Plan
from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord, TableResult

if TYPE_CHECKING:
    from peersync.postgres.history import Entry


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as people and scripts see it (docs/cli-json.md)."""

    id: str
    kind: str
    role: str
    action: str
    database: str
    peer: str
    state: str
    progress: Progress | None
    tables: list[TableResult]
    seconds: dict[str, float]
    error: ErrorRecord | None
    resumable: bool = False
    undo: str | None = None
    chosen_tables: bool = False
    requested_by: str
    started_at: str
    completed_at: str | None
    cancelled_by: str | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request for a full sync: the plan, and the job unless it is a dry run."""

    plan: Plan
    job: str | None = None


def view_entry(entry: Entry) -> JobView:
    """A job from its durable record."""
    steps = entry.progress.steps if entry.progress else ()
    return JobView(
        id=entry.session,
        kind="full-sync",
        role=entry.role,
        action=entry.action,
        database=entry.database,
        peer=entry.peer,
        state=entry.state,
        progress=entry.progress,
        tables=entry.tables,
        seconds={step.name.value: step.seconds for step in steps},
        error=entry.error,
        resumable=entry.resumable,
        undo=entry.undo.state if entry.undo else None,
        chosen_tables=bool(entry.options.get("tables") or entry.options.get("exclude_tables")),
        requested_by=entry.requested_by,
        started_at=entry.started_at,
        completed_at=entry.completed_at,
        cancelled_by=entry.progress.cancelled_by if entry.progress else None,
    )


def view_given(entry: Entry, progress: Progress) -> JobView:
    """A job that a peer runs with what it takes from here, as far as it has told."""
    return msgspec.structs.replace(
        view_entry(entry),
        state=progress.state,
        progress=progress,
        cancelled_by=progress.cancelled_by,
        seconds={step.name.value: step.seconds for step in progress.steps},
    )
