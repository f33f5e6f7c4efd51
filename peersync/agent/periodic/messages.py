"""What two members ask each other beside the changes themselves: how far each of them is.

One exchange serves the clock, `lag`, `status` and the barrier of `sync now --wait`. The answer
is made after a publish, so what was committed before the question is in its vector.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from peersync.wire.messages import Count, Message, Name

MAX_ORIGINS = 10_000

Group = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Origin = Annotated[int, msgspec.Meta(gt=0, lt=1 << 53)]
Vector = Annotated[dict[Origin, Count], msgspec.Meta(max_length=MAX_ORIGINS)]


class PositionRequest(Message, frozen=True, kw_only=True):
    """`vector` is what the asker has applied. `want`: answer when that is covered here, or after
    `wait_s` seconds. An empty `want` is answered at once."""

    database: Name
    group: Group
    origin: Origin
    vector: Vector
    want: Vector = msgspec.field(default_factory=dict)
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0
    settle: bool = False  # look for tables that are not captured yet before answering


class PositionReply(Message, frozen=True, kw_only=True):
    """`pending…`: what the answerer has and the asker's vector does not cover (`pending_bytes` is
    an estimate, and missing in the answer of an earlier version).

    `quarantined` and `parked`: changes and tables that wait at the answerer; `uncaptured`: tables
    whose changes it does not send, and can't; `left_out`: those that a person has left out there.
    `hlc` in microseconds, `unix_time` and `oldest` (of what is pending) in seconds since 1970.
    """

    group: Group
    origin: Origin
    vector: Vector
    unix_time: float
    hlc: int
    pending_transactions: Count = 0
    pending_changes: Count = 0
    pending_bytes: Count | None = None
    oldest: float | None = None
    quarantined: Count = 0
    parked: Count = 0
    uncaptured: Count = 0
    left_out: Count = 0
