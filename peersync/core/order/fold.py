"""What a row is: a pure function of the set of its changes, never of the order of their arrival.

Every node has the same set in the end, so every node has the same row. A strategy says which
function: the newest change, a merge of columns, sums of deltas, the favoured origin, or a
function given by the operator. The changes are sorted by version first, and versions follow
causality, so a change that had seen another always comes after it.

A change that had seen all kept changes of its row is history and goes on top; any other is in
conflict with those it had not seen, and the row is folded anew (`decide`). "The source wins" is
no strategy here: between equals it gives each side the other's row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation, localcontext
from typing import Final

from peersync.core.order.change import Change, Columns, Image, Version
from peersync.core.order.vector import Vector

_DIGITS: Final = 150_000  # numeric has up to 131072 before the point and 16383 after it


@dataclass(frozen=True, slots=True)
class NewerWins:
    """The change with the highest version; a delete is a change like any other."""

    name: str = field(default="newer_wins", init=False)


@dataclass(frozen=True, slots=True)
class Manual:
    """As the newest has it for now; a person decides, so its conflicts stay open."""

    name: str = field(default="manual", init=False)


@dataclass(frozen=True, slots=True)
class MergeColumns:
    """Each change sets the columns that it changed. Needs images and old rows as columns."""

    name: str = field(default="merge_columns", init=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """In `columns` each change adds what it added; the rest is as the newest change has it."""

    columns: frozenset[str]
    name: str = field(default="delta", init=False)


@dataclass(frozen=True, slots=True)
class OriginPriority:
    """Of the causally last changes, the one whose origin ranks highest; 0 where none is given."""

    ranks: Mapping[int, int]
    name: str = field(default="origin_priority", init=False)


@dataclass(frozen=True, slots=True)
class Function:
    """`call` is given the causally last changes, sorted by version, and returns the row or None.

    It must be a pure function of them, or the nodes will differ.
    """

    call: Callable[[Sequence[Change]], Image | None]
    name: str = field(default="function", init=False)


Strategy = NewerWins | Manual | MergeColumns | Delta | OriginPriority | Function


@dataclass(frozen=True, slots=True)
class Row:
    """A row's state. `image` None: it is not there. `winner`: the change that it is the image of.

    `lost` are deltas that count for nothing because a concurrent delete or insert came after
    them by version; they deserve a flag.
    """

    image: Image | None
    winner: Version | None = None
    lost: tuple[Version, ...] = ()


def in_conflict(incoming: Version, kept: Version, seen: Vector) -> bool:
    """Whether the incoming change had not seen the kept one. `seen` is the incoming change's.

    The other way round needs no look: a kept change that had seen the incoming one could not
    have been applied before it (R1).
    """
    return kept.origin != incoming.origin and kept.position > seen.get(kept.origin, 0)


def rivals(incoming: Change, kept: Iterable[Change]) -> list[Change]:
    """The kept changes of the row that the incoming one is in conflict with, sorted by version."""
    version, seen = incoming.version, incoming.seen
    return by_version(change for change in kept if in_conflict(version, change.version, seen))


def by_version(changes: Iterable[Change]) -> list[Change]:
    return sorted(changes, key=lambda change: change.version)


def saw(later: Change, earlier: Change) -> bool:
    """Whether `later` was made on top of `earlier`."""
    if later.origin == earlier.origin:
        mine, other = later.version, earlier.version
        return (mine.position, mine.ordinal) > (other.position, other.ordinal)
    return earlier.version.position <= later.seen.get(earlier.origin, 0)


def causally_last(changes: Collection[Change]) -> list[Change]:
    """Those that no other of them had seen, sorted by version: one, or concurrent ones.

    Only the last of each origin can be: it had seen all that the earlier ones had, and them.
    """
    last: dict[int, Change] = {}
    for change in by_version(changes):
        last[change.origin] = change
    return by_version(c for c in last.values() if not any(saw(o, c) for o in last.values()))


def fold(strategy: Strategy, base: Image | None, changes: Collection[Change]) -> Row:
    """The row after all kept changes of it. `base` is the row as pruned changes left it.

    A truncate is among the changes of every row of its table. Raises TypeError where a strategy
    that looks into columns is given an opaque image.
    """
    if not changes:
        return Row(base)
    match strategy:
        case MergeColumns():
            return _fold_columns(base, by_version(changes), frozenset(), whole=False)
        case Delta(columns=columns):
            return _fold_columns(base, by_version(changes), columns, whole=True)
        case OriginPriority(ranks=ranks):
            last = max(causally_last(changes), key=lambda c: (ranks.get(c.origin, 0), c.version))
            return Row(last.image, last.version)
        case Function(call=call):
            candidates = causally_last(changes)
            if len(candidates) == 1:
                return Row(candidates[0].image, candidates[0].version)
            image = call(candidates)
            return Row(image, next((c.version for c in candidates if c.image == image), None))
    newest = max(changes, key=lambda change: change.version)
    return Row(newest.image, newest.version)


def decide(
    strategy: Strategy,
    current: Image | None,
    base: Image | None,
    kept: Collection[Change],
    incoming: Change,
) -> Row:
    """The row after `incoming`, applied to a row whose kept changes are `kept`.

    `current` is the row as it is now: without a conflict nothing else is looked at. With one,
    it is folded anew from `base` (R4 says what may be missing from `kept`).
    """
    if not rivals(incoming, kept):
        return _on_top(strategy, current, incoming)
    return fold(strategy, base, [*kept, incoming])


def _on_top(strategy: Strategy, current: Image | None, incoming: Change) -> Row:
    if isinstance(strategy, MergeColumns | Delta):
        return fold(strategy, current, [incoming])
    return Row(incoming.image, incoming.version)


# --- columns --------------------------------------------------------------------------------
def _fold_columns(
    base: Image | None, ordered: Sequence[Change], deltas: frozenset[str], *, whole: bool
) -> Row:
    """Applies changes in version order. `whole`: an update sets all columns but the deltas."""
    row = None if base is None else dict(_columns(base))
    winner: Version | None = None
    lost: list[Version] = []
    before: list[Change] = []  # updates whose deltas are in the row
    for change in ordered:
        if change.removes or change.op == "I" or row is None:
            if deltas:
                lost += [earlier.version for earlier in before if not saw(change, earlier)]
            before = []
            row = None if change.removes else dict(_columns(change.image))
        else:
            row = row | _set_by(change, row, deltas, whole=whole)
            before.append(change)
        winner = change.version if row == change.image else None
    return Row(row, winner, tuple(lost))


def _set_by(
    change: Change, row: Columns, deltas: frozenset[str], *, whole: bool
) -> dict[str, str | None]:
    image = _columns(change.image)
    if change.old is None:
        return dict(image)
    old = _columns(change.old)
    done: dict[str, str | None] = {}
    for column, value in image.items():
        if column in deltas:
            done[column] = add_delta(row.get(column), old.get(column), value)
        elif whole or column not in old or old[column] != value:
            done[column] = value
    return done


def add_delta(current: str | None, old: str | None, new: str | None) -> str | None:
    """`current` + (`new` - `old`), exactly. Where one of them is no such number: `new`."""
    if current == old:
        return new
    if current is None or old is None or new is None:
        return new
    with localcontext() as context:
        context.prec = _DIGITS
        try:
            numbers = [Decimal(text) for text in (current, old, new)]
            if not all(_is_written_out(number) for number in numbers):
                return new
            total = numbers[0] + (numbers[2] - numbers[1])
        except InvalidOperation:
            return new
    return format(total, "f")


def _is_written_out(number: Decimal) -> bool:
    """Whether it is finite and of a size that PostgreSQL has; no peer's 1e999999999 is printed."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_DIGITS and number.adjusted() < _DIGITS


def _columns(image: Image | None) -> Columns:
    if isinstance(image, Mapping):
        return image
    raise TypeError("This strategy looks into columns, and the image is opaque")
