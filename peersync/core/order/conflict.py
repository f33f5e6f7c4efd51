"""What is recorded of a conflict: its kind, who won, and why, in words for people.

The kinds carry PostgreSQL 18's names, so that a database administrator knows them; a write over
a row that another origin deleted has `insert_deleted` beside `update_missing`, because
PostgreSQL has no name for it. Nothing is recorded where both sides did the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

from peersync.core.order.change import Change
from peersync.core.order.fold import Row, Strategy, causally_last, rivals

Kind = Literal[
    "insert_exists",
    "insert_deleted",
    "update_origin_differs",
    "update_missing",
    "delete_origin_differs",
    "delete_missing",
]
Winner = Literal["kept", "incoming", "merged"]
_WHAT: Final = {"I": "inserted", "U": "updated", "D": "deleted", "T": "truncated away"}


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two changes of one row, neither of which had seen the other. `parked`: a person decides."""

    kind: Kind
    winner: Winner
    reason: str
    kept: Change
    incoming: Change
    parked: bool


def conflicts(
    strategy: Strategy,
    kept: Collection[Change],
    incoming: Change,
    row: Row,
    *,
    name: Callable[[int], str] = str,
) -> list[Conflict]:
    """What to record when `decide` gave `row`: one for each kept change that is causally last.

    `name` tells people which node an origin is. Of several unseen changes that build on each
    other only the last is told.
    """
    against = causally_last(rivals(incoming, kept))
    return [
        Conflict(
            kind=kind_of(incoming, other),
            winner=winner_of(incoming, other, row),
            reason=reason_of(strategy, incoming, other, row, name),
            kept=other,
            incoming=incoming,
            parked=strategy.name == "manual",
        )
        for other in against
        if not _same(incoming, other)
    ]


def kind_of(incoming: Change, kept: Change) -> Kind:
    """The name of a conflict, from what arrived and what was here."""
    if incoming.removes:
        return "delete_missing" if kept.removes else "delete_origin_differs"
    if incoming.op == "I":
        return "insert_deleted" if kept.removes else "insert_exists"
    return "update_missing" if kept.removes else "update_origin_differs"


def winner_of(incoming: Change, kept: Change, row: Row) -> Winner:
    """Whose image the row has now; "merged" where it is neither's."""
    if row.winner == incoming.version or row.image == incoming.image:
        return "incoming"
    if row.winner is None and row.image != kept.image:
        return "merged"
    return "kept"


def reason_of(
    strategy: Strategy, incoming: Change, kept: Change, row: Row, name: Callable[[int], str] = str
) -> str:
    """One sentence: what both did, and why the row is as it is."""
    new, old = name(incoming.origin), name(kept.origin)
    did = f"{old} {_WHAT[kept.op]} the row, {new} {_WHAT[incoming.op]} it, neither saw the other"
    winner = winner_of(incoming, kept, row)
    if winner == "merged":
        return f"{did}; {strategy.name} made one row of both"
    first, second = (incoming, kept) if winner == "incoming" else (kept, incoming)
    if row.winner not in (None, incoming.version, kept.version):
        return f"{did}; a third change stands"
    why = _why(strategy, first, second)
    parked = ", until a person decides" if strategy.name == "manual" else ""
    return f"{did}; {name(first.origin)}'s stands because {why}{parked}"


def _why(strategy: Strategy, first: Change, second: Change) -> str:
    apart = (first.version.hlc - second.version.hlc) / 1_000_000
    if strategy.name == "origin_priority" and first.version < second.version:
        return "its node has priority"
    if strategy.name == "function":
        return "the table's function chose it"
    if strategy.name in ("merge_columns", "delta"):
        return f"{strategy.name} gave its row"
    if apart > 0:
        return f"it is {apart:.6f} s newer"
    return "both are of the same time and its origin's number is higher"


def _same(one: Change, other: Change) -> bool:
    return one.removes == other.removes and one.image == other.image
