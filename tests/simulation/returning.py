"""Coming back with a new origin: who was expired, and who joined by a sponsor that was (R9, R11).

The node's own transactions that the others lack are a list; it takes a baseline as a new
member, and what `reissue` allows of the list is written again.
"""

from __future__ import annotations

from collections.abc import Collection

from peersync.core.order.change import Change, Op, Version
from peersync.core.order.fold import Delta, fold
from peersync.core.order.membership import Reissue, reissue
from tests.simulation.onlooker import Onlooker, Violation
from tests.simulation.simnode import SimNode, Written

Listed = tuple[int, tuple[Change, ...]]


def unsent(
    node: SimNode, sponsor: SimNode, onlooker: Onlooker, others: Collection[int]
) -> list[Listed]:
    """(uid, changes) of the node's own transactions that the sponsor lacks.

    Raises Violation where one of them is there already or at one of the others, or one that is
    not is missing here.
    """
    above = sponsor.vector.get(node.origin, 0)
    listed = [
        (tx.uid, tx.changes)
        for position, tx in sorted(node.log[node.origin].items())
        if position > above and tx.uid is not None
    ]
    for uid, changes in node.pending:
        version = Version(node.hlc, node.origin, 1 << 40)
        listed.append((uid, tuple(Change(version, w.op, w.key, w.image, w.old) for w in changes)))
    theirs = onlooker.has[sponsor.origin]
    there = {uid for uid, _ in listed if theirs >> uid & 1}
    listed = [each for each in listed if not node.knows_again(each[0], there)]
    for uid, _ in listed:
        if theirs >> uid & 1:
            raise Violation(f"write {uid} of node {node.origin} would be made twice")
        if any(onlooker.has[other] >> uid & 1 for other in others):
            raise Violation(f"write {uid} of node {node.origin} is made again, and another has it")
    mine = {uid for uid, writer in onlooker.writer.items() if writer == node.origin}
    lost = {uid for uid in mine if not theirs >> uid & 1} - {uid for uid, _ in listed}
    if lost - onlooker.forgotten:
        raise Violation(f"writes {sorted(lost)} of node {node.origin} are nowhere any more")
    return listed


def again(node: SimNode, change: Change) -> Written | None:
    """The change as the returned node may make it on the row that it has now; None if not."""
    if change.key is None:
        return None
    row, kept = node.rows.get(change.key), node.kept[change.key]
    known = fold(node.strategy, node.base.get(change.key), kept).winner if kept else None
    delta = isinstance(node.strategy, Delta)
    verdict = reissue(change, row, in_baseline=False, is_delta=delta, row_version=known)
    if verdict is Reissue.REDO and (change.image is not None or row is not None):
        op: Op = "D" if change.image is None else "I" if row is None else "U"
        return Written(op, change.key, change.image, row)
    if verdict is Reissue.ADD:
        assert isinstance(node.strategy, Delta)
        image = fold(node.strategy, row, [change]).image
        return Written("U", change.key, image, row)
    return None
