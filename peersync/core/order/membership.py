"""Who belongs to a group, and what a database must do before it may speak again (ORDER R8-R13).

Every question here is answered from what members have published, so each node answers it for
itself and all come to the same answer. Nothing here changes anything: the caller writes rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from peersync.core.order.change import Change, Image, Version
from peersync.core.order.stability import Known
from peersync.core.order.vector import Vector, covers


# --- joining (R8, R9) -----------------------------------------------------------------------
def known_of_joiner(sponsor: int, position: int, seen: Vector) -> Known:
    """What a joiner is known to have: its sponsor's word at the join, that word included.

    Without it, peers would prune a delete that the joiner's older write would then undo.
    """
    return Known(0, {**seen, sponsor: position})


def all_know(
    origin: int, position: int, members: Mapping[int, Known], fenced: Collection[int] = ()
) -> bool:
    """Whether every member that is not fenced has told that it saw (origin, position)."""
    return all(
        known.of(member, origin) >= position
        for member, known in members.items()
        if member not in fenced
    )


def acknowledged(
    joiner: int,
    sponsor: int,
    position: int,
    members: Mapping[int, Known],
    fenced: Collection[int] = (),
) -> bool:
    """Whether everybody knows the joiner by what (sponsor, position) said.

    Until then the joiner keeps all its own transactions, sponsors nobody, and only its sponsor
    has a link to it.
    """
    others = {member: known for member, known in members.items() if member != joiner}
    return bool(others) and all_know(sponsor, position, others, fenced)


def join_is_void(
    joiner: int, members: Collection[int], expired: Collection[int], sponsor: int
) -> bool:
    """Whether a peer's view undoes a join: its sponsor is expired there, the joiner unknown."""
    return joiner not in members and sponsor in expired


# --- expiry (R10, R12) ----------------------------------------------------------------------
def majority(agreeing: Collection[int], members: Collection[int]) -> bool:
    """Whether those who agree are more than half of the members.

    Half is not enough: two nodes would expire each other. There a person decides.
    """
    return 2 * len(set(agreeing) & set(members)) > len(set(members))


def voters(
    joins: Mapping[int, tuple[int, int]],
    members: Mapping[int, Known],
    fenced: Collection[int] = (),
) -> set[int]:
    """The members whose word counts for an expiry: founders, and joiners that everybody knows.

    `joins` has the sponsor of each joiner, and the position at which. Otherwise the smaller
    part of a split would admit others until it is the larger one.
    """
    return {
        member
        for member in members
        if member not in joins or acknowledged(member, *joins[member], members, fenced)
    }


def may_be_expired(
    subject: int,
    agreeing: Collection[int],
    joins: Mapping[int, tuple[int, int]],
    members: Mapping[int, Known],
    fenced: Collection[int] = (),
) -> bool:
    """Whether those who have said so may expire `subject` (R12): they are more than half.

    Of all members, and of those whose word counts too: no two parts of a split, each of which
    knows of joins that the other does not, can both have that. Its own word does not count.
    """
    counted = {m: known for m, known in members.items() if m not in fenced}
    others = set(agreeing) - {subject}
    return majority(others, counted) and majority(others, voters(joins, counted, fenced))


def cut(subject: int, members: Mapping[int, Known]) -> int:
    """The highest transaction of an expired member that any other is known to have."""
    return max((k.of(m, subject) for m, k in members.items() if m != subject), default=0)


def expiry_complete(
    subject: int,
    expirer: int,
    position: int,
    vector: Vector,
    members: Mapping[int, Known],
    fenced: Collection[int],
) -> bool:
    """Whether the member `subject` may be forgotten here, after (expirer, position) expired it.

    Every unfenced member must have published that it knows, and all that any of them has of it
    must be here. Until then it counts for stability.
    """
    others = {m: k for m, k in members.items() if m != subject and m not in fenced}
    return all_know(expirer, position, others) and vector.get(subject, 0) >= cut(subject, others)


# --- coming back (R11) ----------------------------------------------------------------------
class Reissue(StrEnum):
    """What becomes of a change that only its maker had, once it took another's baseline."""

    DROP = "drop"  # the baseline has it already
    REDO = "redo"  # nothing came between: make it again
    ADD = "add"  # its delta is added to the row
    KEEP_BASELINE = "keep-baseline"  # the row has moved on: flagged, and the change is kept
    WAIT = "wait"  # a truncate, or nobody can tell whether it is there: flagged and kept


def reissue(
    change: Change,
    row: Image | None,
    *,
    in_baseline: bool | None,
    is_delta: bool = False,
    row_version: Version | None = None,
) -> Reissue:
    """What to do with one change of the list of who returns.

    `row` is the row in the baseline, `row_version` its version where a kept entry still has it.
    `in_baseline` says whether the change's unique id is in the baseline's history; None where
    that can no longer be checked.
    """
    if in_baseline is None or change.op == "T":
        return Reissue.WAIT
    if in_baseline:
        return Reissue.DROP
    if is_delta and change.op == "U" and row is not None:
        return Reissue.ADD
    if row == change.old:
        return Reissue.REDO
    if row_version is not None and change.version > row_version:
        return Reissue.REDO
    return Reissue.KEEP_BASELINE


# --- restart and restore (R13) --------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Told:
    """What a member says of this database, after it closed older sessions with it.

    `position`: the highest own position of this database that it has. `known`: the seen that it
    knows of it. None for a member that was not asked, or did not answer.
    """

    position: int
    known: Vector


class Start(StrEnum):
    """What a database may do when its agent starts, or a peer contradicts it."""

    GO_ON = "go-on"
    HELD = "held"  # neither publish nor apply until all have answered
    RETURN = "return"  # it was set back: join anew with a new origin


def at_start(recorded: Vector | None, vector: Vector) -> Start:
    """Compares the record kept outside the database with the vector that it has.

    The record holds what others may have learned from it: its highest own position, written
    before the frame that has it leaves. Where a frame's own vector teaches the others too
    (`learn_frame`), it must be in the record as well: a database that is set back behind a
    vector that it told lacks what the others have forgotten since, even where its own position
    is right. No record, or a database behind it, may be a restored backup: only peers can tell.
    """
    return Start.GO_ON if recorded is not None and covers(vector, recorded) else Start.HELD


def at_contact(own: int, position: int, peer_vector: Vector) -> Start:
    """The same when a peer tells its vector: it must not know more of us than we do."""
    return Start.RETURN if peer_vector.get(own, 0) > position else Start.GO_ON


def when_held(own: int, vector: Vector, answers: Mapping[int, Told | None]) -> Start:
    """Whether a held database may go on under its old origin.

    `answers` has every member that can pull from it: one of them is not enough, because
    another may have pulled what was lost.
    """
    position = vector.get(own, 0)
    for told in answers.values():
        if told is None:
            continue
        ahead = any(at > vector.get(o, 0) for o, at in told.known.items() if o != own)
        if told.position > position or ahead:
            return Start.RETURN
    return Start.HELD if None in answers.values() else Start.GO_ON
