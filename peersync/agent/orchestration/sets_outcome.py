"""What a run of table sets was asked for, what it would do, and what came of it.

Owns the forms, and what the ends of its runs are together. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from peersync.core.results import ErrorRecord
from peersync.postgres.sets import SetRun
from peersync.wire.messages import Name, SyncType

Result = Literal["done", "partly", "failed", "nothing"]


class SetsRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/sets/run`. `sets`: empty for all. `force`: also what is not due."""

    sets: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []
    force: bool = False
    sync_type: SyncType = "api"
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class PlannedSet(msgspec.Struct, frozen=True, kw_only=True):
    """A set in its turn. `reason`: why it is not run now; null where it is.

    `problems`, by the peer's name: that nobody knows it, and, found by asking in a dry run only,
    what it would refuse. `error`: its database did not answer, so it is not known whether it is
    due.
    """

    set: str
    database: str
    method: str
    direction: str
    tables: tuple[str, ...]
    priority: int
    peers: tuple[str, ...]
    reason: str | None = None
    last: str | None = None
    next: str | None = None
    rows: int | None = None
    problems: dict[str, str] = {}
    error: ErrorRecord | None = None


class SetsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """In the order in which they would run."""

    sets: list[PlannedSet]


class SetsResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run. nothing: no set was due, or each was running or had to wait too long."""

    result: Result
    runs: list[SetRun]
    not_run: list[PlannedSet]


def summed(runs: Sequence[SetRun]) -> Result:
    """The worst, in the words of the whole."""
    states = [run.status for run in runs if run.status != "skipped"]
    if not states:
        return "nothing"
    if all(run.status == "success" for run in runs):
        return "done"
    if len(states) == len(runs) and all(state == "error" for state in states):
        return "failed"
    return "partly"
