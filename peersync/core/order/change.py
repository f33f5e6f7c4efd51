"""What travels: changes, their versions, and the transactions that hold them.

Plain values without behaviour. An image is opaque (a record literal) except to the strategies
that look into columns: for those it is {column: text or None}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from peersync.core.order.vector import Vector

Op = Literal["I", "U", "D", "T"]  # insert, update, delete, truncate
# data, heartbeat, join, leave, expire, a conflict that a person has decided, a word for an expiry
Kind = Literal["d", "b", "j", "l", "e", "c", "w"]
Columns = Mapping[str, str | None]
Image = str | Columns


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """When a change was made; two changes never have the same. Compared in the fields' order.

    `hlc` is in microseconds since 1970. A change that had seen another has the higher version.
    """

    hlc: int
    origin: int
    position: int
    ordinal: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One row as a change left it.

    `key` is None for T. `image` is the whole row after an I or U, None after a D or T. `old` is
    the row before a U, where the strategy of its table needs it. `seen` is what its origin had
    applied of the others when it published the change; its own origin is not in it.
    """

    version: Version
    op: Op
    key: str | None
    image: Image | None = None
    old: Image | None = None
    seen: Vector = field(default_factory=dict)

    @property
    def origin(self) -> int:
        return self.version.origin

    @property
    def removes(self) -> bool:
        """Whether the row is gone after it."""
        return self.op in ("D", "T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """The head of a transaction: all that decides whether it may be applied now.

    `seen` is complete (on the wire it may be left out when it did not change). `subject` is the
    origin that a join, leave or expire is about.
    """

    origin: int
    position: int
    hlc: int
    kind: Kind = "d"
    changes: int = 0
    seen: Vector = field(default_factory=dict)
    subject: int | None = None
