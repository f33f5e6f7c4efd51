"""Vectors: how far each origin is known, as {origin: position}.

Positions are dense from 1, so one number an origin says it all; a missing origin is 0. A
vector never goes back. Values are never changed in place: every function gives a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from peersync.core.errors import ProtocolError

MAX_ORIGIN: Final = (1 << 53) - 1  # a JSON number keeps every bit of it
MAX_POSITION: Final = (1 << 63) - 1
MAX_ORIGINS: Final = 10_000

Vector = Mapping[int, int]


def at(vector: Vector, origin: int) -> int:
    """The position that the vector has of an origin."""
    return vector.get(origin, 0)


def covers(vector: Vector, needed: Vector) -> bool:
    """Whether everything in `needed` is in `vector`."""
    return all(vector.get(origin, 0) >= position for origin, position in needed.items())


def missing(vector: Vector, needed: Vector, *, but: int | None = None) -> tuple[int, int] | None:
    """The first (origin, position) of `needed` that `vector` lacks; origin `but` is left out."""
    for origin, position in needed.items():
        if origin != but and vector.get(origin, 0) < position:
            return origin, position
    return None


def merge(*vectors: Vector) -> dict[int, int]:
    """The highest position of each origin in any of them."""
    merged: dict[int, int] = {}
    for vector in vectors:
        for origin, position in vector.items():
            if position > merged.get(origin, 0):
                merged[origin] = position
    return merged


def least(vectors: Iterable[Vector]) -> dict[int, int]:
    """The lowest position of each origin in all of them; without what one of them lacks."""
    remaining = iter(vectors)
    lowest = dict(next(remaining, {}))
    for vector in remaining:
        lowest = {o: min(p, vector[o]) for o, p in lowest.items() if o in vector}
    return lowest


def check(vector: Vector) -> None:
    """Raises ProtocolError for what no peer could mean: numbers or a size out of range."""
    if len(vector) > MAX_ORIGINS:
        raise ProtocolError(
            f"A vector names {len(vector)} origins; at most {MAX_ORIGINS} are taken"
        )
    for origin, position in vector.items():
        if not 1 <= origin <= MAX_ORIGIN:
            raise ProtocolError(f"A vector names origin {origin}, which is none")
        if not 0 <= position <= MAX_POSITION:
            raise ProtocolError(f"A vector has position {position} of origin {origin}")
