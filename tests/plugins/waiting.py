"""Waits for what a test can't be told of: looks again and again, and never sleeps and hopes.

The pause grows with the time that a look takes. On a busy machine a look that asks a server
or starts a program would otherwise take the time from what it waits for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LIMIT_S = 60.0  # only a failure takes so long
_SHORTEST_S, _LONGEST_S = 0.02, 0.25


def eventually(what: str, found: Callable[[], T | None], limit_s: float = LIMIT_S) -> T:
    """The first answer that is true; fails when none comes in time."""
    deadline = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        if answer := found():
            return answer
        ended = time.monotonic()
        assert ended < deadline, f"waited in vain: {what}"
        time.sleep(min(max(_SHORTEST_S, 2 * (ended - began)), _LONGEST_S))


async def soon(what: str, found: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Lets the loop run until an answer that costs nothing is true; fails when it never is."""
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(_SHORTEST_S)
