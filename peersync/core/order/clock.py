"""The hybrid logical clock: times that follow what was seen, whatever the wall clock says.

A time is an int: microseconds since 1970. Two rules make a change that was made after seeing
another always the newer one, even on a server whose clock is a day behind: what a database
publishes is later than all that it published or applied, and applying moves the clock along.
Reads no clock itself; wall times come in as arguments.
"""

from __future__ import annotations

from typing import Final

MAX_HLC: Final = (1 << 63) - 1  # a bigint


def next_hlc(last: int, wall: int) -> int:
    """The time of the next own transaction: the wall clock's, unless that is not after `last`."""
    return max(wall, last + 1)


def observe(last: int, other: int) -> int:
    """The clock after applying a transaction, or taking a baseline, of time `other`."""
    return max(last, other)


def ahead_us(hlc: int, wall: int) -> int:
    """How far a time lies in the future of this server's wall clock, in microseconds; 0 if not."""
    return max(0, hlc - wall)
