"""What a plan says will happen to the rows of a table."""

from __future__ import annotations

import msgspec


class RowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows. `exact`: they were counted; else they are estimates, and None is unknown."""

    insert: int | None = None
    update: int | None = None
    unchanged: int | None = None
    target_only: int | None = None
    exact: bool = False
