"""Holds a stream to a rate. Pure: it says how long to wait, and whoever sends does the waiting."""

from __future__ import annotations

from collections.abc import Callable

_BURST_S = 0.1


class Throttle:
    """One rate, in bytes a second, shared by everyone who takes from it. 0 is without a limit."""

    def __init__(self, bytes_s: int, now: Callable[[], float]) -> None:
        self._bytes_s = bytes_s
        self._now = now
        self._free_at = now()

    def take(self, size: int) -> float:
        """Counts `size` bytes; gives the seconds to wait before the next ones may come."""
        if not self._bytes_s:
            return 0.0
        now = self._now()
        self._free_at = max(self._free_at, now - _BURST_S) + size / self._bytes_s
        return max(self._free_at - now, 0.0)
