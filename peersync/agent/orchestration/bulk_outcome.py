"""What a bulk sync was asked for, what it would do, and what came of it.

Owns the forms and the arithmetic: how the end of a complete sync counts, what the sums and the
status of a run are, what an interrupted run leaves. Pure: times come in as arguments.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from peersync.agent.orchestration.outcome import CompletePlan, CompleteView
from peersync.core.errors import Cancelled, PeersyncError
from peersync.core.results import ErrorRecord
from peersync.core.words import counted
from peersync.wire.messages import Name, SyncType

BulkStatus = Literal["running", "success", "partial", "error", "nothing", "interrupted"]
DatabaseRun = Literal[
    "waiting", "running", "success", "partial", "error", "skipped", "interrupted", "not_run"
]
FAILED: Final = frozenset({"partial", "error"})
LEFT: Final = frozenset({"waiting", "running", "interrupted", "not_run"})


class BulkRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/bulk-sync`. `databases`: empty for all that are configured."""

    databases: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []
    sync_type: SyncType = "api"
    dry_run: bool = False
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class PlannedDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """`peers`: how many would be synced. `reason`: why it would be skipped."""

    database: str
    status: Literal["ready", "skipped", "error"]
    peers: int = 0
    reason: str | None = None
    error: ErrorRecord | None = None


class BulkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a bulk sync would do. `failed`: databases that can't even be asked."""

    total: int
    ready: int
    skipped: int
    failed: int
    databases: list[PlannedDatabase]


class BulkDatabase(msgspec.Struct, frozen=True, kw_only=True):
    """One database of a bulk sync. `peers` is how many take part; bytes are on the wire."""

    database: str
    status: DatabaseRun = "waiting"
    reason: str | None = None
    complete_id: str | None = None
    peers: int = 0
    peers_failed: int = 0
    rows: int = 0
    wire_bytes: int = 0
    cost: float = 0.0
    duration_s: float = 0.0
    error: ErrorRecord | None = None


class BulkView(msgspec.Struct, frozen=True, kw_only=True):
    """One bulk sync. `failed` counts databases of which any peer failed."""

    id: str
    node: str
    status: BulkStatus
    success: bool
    message: str
    sync_type: SyncType
    requested_by: str
    started_at: str
    completed_at: str | None
    duration_s: float
    total: int
    successful: int
    failed: int
    skipped: int
    not_run: int
    rows: int
    wire_bytes: int
    cost: float
    currency: str
    databases: tuple[BulkDatabase, ...]


def summed(view: BulkView, databases: tuple[BulkDatabase, ...], *, seconds: float) -> BulkView:
    """The view with these databases and the sums over them."""
    states = [one.status for one in databases]
    view = msgspec.structs.replace(
        view,
        databases=databases,
        duration_s=round(seconds, 3),
        total=len(databases),
        successful=states.count("success"),
        failed=sum(state in FAILED for state in states),
        skipped=states.count("skipped"),
        not_run=sum(state in LEFT for state in states),
        rows=sum(one.rows for one in databases),
        wire_bytes=sum(one.wire_bytes for one in databases),
        cost=float(sum((Decimal(str(one.cost)) for one in databases), Decimal(0))),
    )
    return msgspec.structs.replace(view, message=_message(view))


def ended(view: BulkView, *, at: str | None, seconds: float) -> BulkView:
    """The view at its end; what had no end of its own was interrupted, or was not run."""
    cut = {"running": "interrupted", "waiting": "not_run"}
    databases = tuple(
        msgspec.structs.replace(one, status=cut[one.status], reason="the bulk sync was interrupted")
        if one.status in cut
        else one
        for one in view.databases
    )
    view = summed(view, databases, seconds=seconds)
    status = _status(view)
    view = msgspec.structs.replace(
        view, status=status, success=status == "success", completed_at=at
    )
    return msgspec.structs.replace(view, message=_message(view))


def _status(view: BulkView) -> BulkStatus:
    if view.not_run:
        return "interrupted"
    if not view.successful and not view.failed:
        return "nothing"
    if view.failed:
        return "partial" if any(one.status != "error" for one in _tried(view)) else "error"
    return "success"


def _tried(view: BulkView) -> list[BulkDatabase]:
    return [one for one in view.databases if one.status != "skipped"]


def _message(view: BulkView) -> str:
    counts = [f"{view.successful} successful", f"{view.failed} failed", f"{view.skipped} skipped"]
    if view.not_run:
        counts.append(f"{view.not_run} not run")
    words = {"running": "running: ", "interrupted": "interrupted: ", "nothing": "nothing to do: "}
    return words.get(view.status, "") + ", ".join(counts)


def idle(plan: CompletePlan) -> str | None:
    """Why a plan does nothing; None for one that does something."""
    if plan.wanted:
        return None
    if plan.reason is not None:
        return plan.reason
    if not plan.peers:
        return "no auto-sync peers"
    return "; ".join(f"{one.peer}: {one.reason}" for one in plan.peers)


def left(plan: CompletePlan) -> PeersyncError | None:
    """A plan that does nothing because peers have failed is a failure, and no peace."""
    names = [one.peer for one in plan.peers if one.after_errors]
    if plan.wanted or plan.reason is not None or not names:
        return None
    return PeersyncError(
        f"every peer is passed over after errors: {idle(plan)}",
        hint=f"peersync complete-sync --database {plan.database} --peers {','.join(names)}",
    )


def outcome(view: CompleteView, *, stopped: bool) -> dict[str, Any]:
    """What is kept of an ended complete sync, as fields of BulkDatabase."""
    failed = [one for one in view.peers if one.status in ("error", "partial")]
    error = next((one.error for one in failed if one.error is not None), None)
    status: DatabaseRun = "error" if view.status == "running" else view.status
    if view.status == "interrupted" and not stopped:
        status = "error"
        error = error or ErrorRecord.of(Cancelled("its complete sync was interrupted"))
    if view.peers and view.peers_skipped == view.peers_total and not view.left:
        status = "skipped"  # it proved nothing, and nothing failed
    return {
        "status": status,
        "reason": _reason(view, failed_peers=[one.peer for one in failed]),
        "peers": view.peers_total,
        "peers_failed": view.peers_failed,
        "rows": view.rows,
        "wire_bytes": view.wire_bytes,
        "cost": view.cost,
        "duration_s": view.seconds or 0.0,
        "error": error,
    }


def _reason(view: CompleteView, *, failed_peers: list[str]) -> str | None:
    parts = []
    if failed_peers:
        names, of = ", ".join(failed_peers), counted(view.peers_total, "peer")
        parts.append(f"{len(failed_peers)} of {of} failed ({names})")
    skipped = [f"{one.peer}: {one.reason}" for one in view.peers if one.status == "skipped"]
    if skipped:
        parts.append("passed over: " + ", ".join(skipped))
    return "; ".join(parts) or None
