"""Which numbers each node may draw, so that two nodes never draw the same.

A sequence of a node steps by `step` and stays in one residue class modulo `step`: its slot. The
step is a power of two, 16 at least. Room for growth, because a slot is for ever and the step
should never have to change; a power of two, because if it does have to change, doubling splits
each class in two: a node that moves on stays within its own old class, so that the nodes can do
it one after the other. Not more than 16, because an integer key has 2^31 / step numbers left for
each node (134 million).
"""

from __future__ import annotations

from collections.abc import Collection
from math import gcd

MIN_STEP = 16
MAX_STEP = 1 << 20


def step_for(members: int) -> int:
    """The step for so many members: the next power of two, 16 at least."""
    step = MIN_STEP
    while step < members:
        step *= 2
    return step


def free_slot(wanted: int, taken: Collection[int]) -> int:
    """`wanted`, or the lowest slot that nobody has."""
    if wanted not in taken:
        return wanted
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


def residue(slot: int, step: int) -> int:
    """Slot 0 draws 1, 1 + step, …"""
    return (slot + 1) % step


def next_in_class(after: int, slot: int, step: int) -> int:
    """The lowest number above `after` that the slot may draw."""
    return after + 1 + (residue(slot, step) - after - 1) % step


def may_collide(one: int, one_step: int, other: int, other_step: int) -> bool:
    """Whether one + i * one_step and other + j * other_step can be the same number.

    Where both have gone so far does not count: a sequence is set, and its bounds are wide.
    """
    return (one - other) % gcd(one_step, other_step) == 0


def draws_left(next_value: int, last_allowed: int, step: int) -> int:
    """How many numbers there are from `next_value` on."""
    return max(0, (last_allowed - next_value) // step + 1)
