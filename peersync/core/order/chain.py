"""What one transaction did to a row, when it changed the row more than once.

Each change of a statement is logged when the statement ends, with the row before it and the row
as it is by then. So images follow each other in time, and old rows do not: where a trigger changes
the row again, the inner statement is logged first, and the outer one after it spans both. Adding
up what each did would count the inner one twice. Here the changes become one, from the row that
the transaction found to the row that it left.
"""

from __future__ import annotations

from collections.abc import Sequence

from peersync.core.order.change import Change, Image, Op


def net(changes: Sequence[Change]) -> Change:
    """One change for all that a transaction did to a row; at least one, in the order of the log.

    It has the version of the last. A row that was removed and made anew in between counts as
    inserted. Without an old row an update is taken to follow the one before it.
    """
    if len(changes) == 1:
        return changes[0]
    steps: list[tuple[Change, bool]] = []  # with whether what went before it is unknown
    for change in changes:
        known, before = _before(change)
        gap = False
        if known and steps and steps[-1][0].image != before:
            spanned = _steps_within(steps, before)
            gap = spanned is None
            if spanned is not None:
                del steps[spanned:]
        steps.append((change, gap))
    # A gap that no later change spans: the change spans all from the beginning.
    first = max((place for place, (_, gap) in enumerate(steps) if gap), default=0)
    rest = [change for change, _ in steps[first:]]
    last = changes[-1]
    return Change(last.version, _op(rest), last.key, last.image, rest[0].old, last.seen)


def _before(change: Change) -> tuple[bool, Image | None]:
    """Whether it is known what the row was before a change, and what."""
    if change.op == "I":
        return True, None
    return change.op != "T" and change.old is not None, change.old


def _steps_within(steps: Sequence[tuple[Change, bool]], before: Image | None) -> int | None:
    """The place of the first step that happened inside a statement which had found `before`."""
    for place in range(len(steps) - 1, -1, -1):
        if steps[place][0].image == before:
            return place + 1
    return None


def _op(steps: Sequence[Change]) -> Op:
    last = steps[-1]
    if last.removes:
        return last.op
    return "U" if all(step.op == "U" for step in steps) else "I"
