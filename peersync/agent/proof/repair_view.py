"""What people ask of a repair, and are told of it: values that a command reads by themselves."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from peersync.agent.plan import Plan
from peersync.agent.proof.view import VerifyView
from peersync.core.results import ErrorRecord
from peersync.wire.messages import Name, Patterns

Side = Literal["this", "peer"]
RepairState = Literal[
    "comparing", "planned", "writing", "proving", "done", "partly", "failed", "cancelled"
]
ENDED: Final = ("planned", "done", "partly", "failed", "cancelled")


class RepairRequest(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """`POST /api/admin/repair`. side: which one is right; the other one is changed.

    dry_run: it ends as planned, and goes on when it is told to.
    """

    peer: Name
    database: Name
    side: Side = msgspec.field(name="from")
    tables: Patterns = ()
    exclude_tables: Patterns = ()
    mirror: bool = False
    dry_run: bool = False
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = "api"


class RepairView(msgspec.Struct, frozen=True, kw_only=True):
    """One repair. States: comparing, planned (and waits), writing, proving, then how it ended.

    done: identical now, or from the start. partly: rows still differ, or could not be compared.
    before, after: the two verifications. session: the full sync, by whose id it is watched and
    undone. left_out: tables that differ and can't be repaired so, with the reason.
    """

    id: str
    database: str
    peer: str
    side: Side
    mirror: bool
    state: RepairState
    requested_by: str
    started_at: str
    completed_at: str | None = None
    before: VerifyView | None = None
    plan: Plan | None = None
    session: str | None = None
    after: VerifyView | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    error: ErrorRecord | None = None
