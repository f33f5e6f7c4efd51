"""How far each table of a full sync is: of many tables the few that say most, and counts of all.

Pure. Owns which are shown: those that something happens to, then those that failed, then those
that are next, then those that are here. What a table is at a moment is said by whoever loads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from heapq import nsmallest
from typing import Final

import msgspec

SHOWN: Final = 50
WAITING: Final = "waiting"
COMPARING: Final = "comparing"
COPYING: Final = "copying"
COPIED: Final = "copied"
DONE: Final = "done"
FAILED: Final = "failed"
_RANK: Final = {COMPARING: 0, COPYING: 0, FAILED: 1, WAITING: 2, COPIED: 3, DONE: 4}
TABLE_STATES: Final = frozenset(_RANK)


class TableProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One table. `copied`: its rows are here, and written with all the others at the end.

    `rows_total` and `bytes_total` are the plan's estimates until the table is complete; None is
    unknown. Of a table that is compared the rows are those that were looked at.
    """

    schema: str
    name: str
    state: str
    rows: int = 0
    rows_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None


class TablesProgress(msgspec.Struct, frozen=True, kw_only=True):
    """All of them in numbers (active: comparing, copying; done: copied, done), and some by name."""

    total: int
    waiting: int
    active: int
    done: int
    failed: int
    shown: tuple[TableProgress, ...] = ()


def sum_up(tables: Iterable[TableProgress]) -> TablesProgress:
    """In the order in which they are given, those that something happens to first."""
    every = [*tables]
    counts = Counter(table.state for table in every)
    ranked = nsmallest(SHOWN, enumerate(every), key=lambda one: (_RANK[one[1].state], one[0]))
    return TablesProgress(
        total=len(every),
        waiting=counts[WAITING],
        active=counts[COMPARING] + counts[COPYING],
        done=counts[COPIED] + counts[DONE],
        failed=counts[FAILED],
        shown=tuple(table for _, table in ranked),
    )
