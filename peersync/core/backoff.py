"""How long to wait before the next try. Pure: the time comes in as an argument."""

from __future__ import annotations

FIRST_S = 0.5


class Backoff:
    """Doubling pauses up to `maximum_s`, until `total_s` have passed since the first failure."""

    def __init__(self, *, maximum_s: float, total_s: float) -> None:
        self._maximum_s = maximum_s
        self._total_s = total_s
        self._first_failure_s: float | None = None
        self.failures = 0

    def next_pause(self, now_s: float) -> float | None:
        """The pause after one more failure, in seconds; None when it is time to give up."""
        self.failures += 1
        if self._first_failure_s is None:
            self._first_failure_s = now_s
        left = self._first_failure_s + self._total_s - now_s
        if left <= 0:
            return None
        exponent = min(self.failures - 1, 30)
        return float(min(FIRST_S * 2**exponent, self._maximum_s, max(left, FIRST_S)))
