"""What a complete sync was asked for, and what came of it: for each peer, and as a whole.

Owns the forms and the arithmetic: when a peer is passed over, what a run costs, what its status
is. Pure: times and numbers come in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec

from peersync.config.orchestration import Complete, Parallel, SyncWay
from peersync.core.results import ErrorRecord
from peersync.wire.messages import Name, SyncType

Status = Literal["running", "success", "partial", "error", "interrupted"]
PeerStatus = Literal["waiting", "running", "success", "partial", "error", "skipped", "not_run"]

GIGABYTE: Final = Decimal(10**9)
EXACT: Final = Decimal("0.000001")  # as the records keep it
LONGEST_SKIP_S: Final = 86_400.0
NOT_DONE: Final = frozenset({"error", "partial", "not_run", "waiting", "running"})


class CompleteRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/complete-sync`. `peers`: empty for all that have `auto_sync`.

    retry_failed: the id of a run, of which only the peers that failed or were not reached are
    done. parallel: None is what the configuration says.
    """

    database: Name
    peers: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []
    sync_type: SyncType = "api"
    parallel: Parallel | None = None
    retry_failed: Annotated[str, msgspec.Meta(max_length=36)] | None = None
    dry_run: bool = False
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class PlannedPeer(msgspec.Struct, frozen=True, kw_only=True):
    """A peer in its turn. `reason`: why it is passed over; null where it is not.

    `after_errors`: it is passed over because it has failed.
    """

    peer: str
    way: SyncWay
    reason: str | None = None
    price_per_gb: float = 0.0
    after_errors: bool = False


class CompletePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a complete sync would do. `reason`: why nothing; null where something."""

    database: str
    peers: list[PlannedPeer]
    parallel: int
    reason: str | None = None

    @property
    def wanted(self) -> list[PlannedPeer]:
        return [one for one in self.peers if one.reason is None]


class PeerResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was done for one peer. `session`: its full sync (of the peer, for a push).

    `error` of a peer that was skipped: it should not have been (it had failed before, or this
    database was busy).
    """

    peer: str
    way: str
    status: PeerStatus
    reason: str | None = None
    error: ErrorRecord | None = None
    seconds: float = 0.0
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    cost: float = 0.0
    session: str | None = None
    tries: int = 0


class CompleteView(msgspec.Struct, frozen=True, kw_only=True):
    """A complete sync as people and scripts see it (docs/cli-json.md)."""

    id: str
    database: str
    node: str
    sync_type: str
    status: Status
    requested_by: str
    bulk: str | None
    retry_of: str | None
    started_at: str
    completed_at: str | None
    seconds: float | None
    peers_total: int
    peers_successful: int
    peers_failed: int
    peers_skipped: int
    rows: int
    raw_bytes: int
    wire_bytes: int
    cost: float
    currency: str
    peers: list[PeerResult]
    configuration: dict[str, Any]

    @property
    def left(self) -> list[PeerResult]:
        """Peers that were passed over and should not have been."""
        return [one for one in self.peers if one.status == "skipped" and one.error is not None]


def cost_of(wire_bytes: int, price_per_gb: float) -> Decimal:
    """Exact to the six decimals that are kept; 10⁹ bytes are a gigabyte."""
    return (Decimal(wire_bytes) * Decimal(str(price_per_gb)) / GIGABYTE).quantize(EXACT)


def overall(peers: Sequence[PeerStatus], *, left: bool = False) -> Status:
    """Of a run that has come to its end. Where every peer was passed over nothing is proved.

    `left`: one was passed over after errors, or had to wait too long, so it is no success.
    """
    tried = [status for status in peers if status != "skipped"]
    if not tried:
        return "partial"
    if left and "success" in tried:
        return "partial"
    if all(status == "success" for status in tried):
        return "success"
    return "error" if all(status == "error" for status in tried) else "partial"


def skipped_until(failures: int, last: datetime | None, settings: Complete) -> datetime | None:
    """Until when a peer that has failed so often in a row is passed over; None: it is not."""
    beyond = failures - settings.skip_after_errors
    if beyond < 0 or last is None or not settings.skip_for_s:
        return None
    seconds = settings.skip_for_s * 2.0 ** min(beyond, 30)
    longest_s = max(LONGEST_SKIP_S, settings.skip_for_s)
    return last + timedelta(seconds=min(seconds, longest_s))
