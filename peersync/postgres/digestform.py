"""Blocks, ranges and hashes of rows as values, and how they stand in SQL.

What `digest` and `rangerows` have in common. It connects to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from peersync.postgres.keyorder import Order
from peersync.postgres.rowform import Shape

BATCH: Final = 4096  # blocks, or rows, in one list
# Scans of ranges are forced to an index: the planner does not know how small they are.
SETTINGS: Final = "SET LOCAL jit = off; SET LOCAL work_mem = '64MB'; SET LOCAL enable_seqscan = "
_MASK: Final = (1 << 64) - 1

PAGE_CHARACTERS: Final = 1_000_000  # of keys that are fetched, or put together, at once

Key = tuple[str, ...]
Bounds = tuple[Key | None, Key | None]


@dataclass(frozen=True, slots=True)
class Block:
    """[low, low of the next one). low: text of the key; None in front of all keys."""

    low: Key | None
    rows: int
    digest: int


@dataclass(frozen=True, slots=True)
class Range:
    """[low, high), None is open; how many rows each side has there."""

    low: Key | None
    high: Key | None
    rows_there: int
    rows_here: int


@dataclass(frozen=True, slots=True)
class RowHash:
    """Of a table without a key, `key` is the hash of the row and `copies` how often it is there.

    place: of its range among those that were asked for.
    """

    key: Key
    digest: int
    copies: int
    place: int = 0


@dataclass
class Tally:
    """What a comparison of blocks has met so far."""

    blocks: int = 0
    differing: int = 0
    rows_there: int = 0
    rows_here: int = 0


class Pace:
    """How many records to fetch next: few where the keys of the last ones were long."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.next = min(most, 64)

    def saw(self, keys: Iterable[Key | None]) -> None:
        """The keys that the last records had."""
        longest = max(map(key_characters, keys), default=0)
        self.next = max(1, min(self._most, 4 * self.next, PAGE_CHARACTERS // max(longest, 1)))


def key_characters(key: Key | None) -> int:
    return sum(map(len, key)) if key is not None else 0


# --- in SQL ----------------------------------------------------------------------------------
def parameters(
    low: Key | None, high: Key | None
) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """The places of two bounds among the parameters; see `both`."""
    start = len(low or ())
    first = [f"${n}::text" for n in range(1, start + 1)]
    then = [f"${n}::text" for n in range(start + 1, start + len(high or ()) + 1)]
    return first or None, then or None


def both(low: Key | None, high: Key | None) -> list[str]:
    return [*(low or ()), *(high or ())]


def bound_names(width: int) -> tuple[list[str], list[str]]:
    return [f"l{n}" for n in range(1, width + 1)], [f"u{n}" for n in range(1, width + 1)]


def prefixed(names: tuple[list[str], list[str]]) -> tuple[list[str], list[str]]:
    return [f"b.{name}" for name in names[0]], [f"b.{name}" for name in names[1]]


def bound_columns(ranges: Sequence[Bounds], width: int) -> list[Any]:
    """Lists of texts: of each part of the lows, then of the highs."""
    ends = [[low or () for low, _ in ranges], [high or () for _, high in ranges]]
    return [[key[n] for key in keys] for keys in ends for n in range(width)]


def key_of(row: Any, order: Order) -> Key:
    return tuple(row[f"t{n}"] for n in range(order.width))


def digest_sql(shape: Shape, of: str = "s.h") -> str:
    zero = zero_sql(shape) if shape.wide else "0"
    total = plain_sql(shape, f"bit_xor({of})")
    return f"coalesce({total}, {zero})"


def plain_sql(shape: Shape, expression: str) -> str:
    return f"({expression})::text" if shape.wide else f"({expression})"


def zero_sql(shape: Shape) -> str:
    return "'" + "0" * (128 if shape.wide else 1) + "'"


def number_of(shape: Shape, found: Any) -> int:
    """A hash as it comes from the database: without a sign."""
    return int(found, 2) if shape.wide else int(found) & _MASK


def stored_text(shape: Shape, digest: int) -> str:
    """The text of a digest in the database: binary digits, or a bigint."""
    if shape.wide:
        return f"{digest:0128b}"
    return str(digest - (1 << 64) if digest >> 63 else digest)
