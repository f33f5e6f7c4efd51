"""How often somebody may fail to log in: counted by address, and by name from all addresses.

A try counts from its beginning, so that many at once are as many. The bound for an address is
the lower one: nobody locks out another by guessing from one place alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from peersync.core.errors import TooManyTries
from peersync.wire.address import network_of

WINDOW_S: Final = 300.0
PER_ADDRESS: Final = 10
PER_USER: Final = 30
KEPT: Final = 10_000  # addresses and names; the oldest are forgotten

Key = tuple[str, str]


class Tries:
    """Failed tries of the last five minutes. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[Key, deque[float]] = {}

    def begin(self, address: str, user: str) -> None:
        """Counts a try; TooManyTries, with the seconds to wait, where there were too many."""
        now = self._clock()
        keys = self._keys(address, user)
        wait_s = max(self._wait_s(key, limit, now) for key, limit in keys)
        if wait_s > 0:
            raise TooManyTries(
                "too many failed logins",
                hint=f"try again in {wait_s:.0f} s; forgotten: peersync admin passwd on the server",
                retry_after_s=int(wait_s) + 1,
            )
        for key, _ in keys:
            self._note(key, now)

    def forgive(self, address: str, user: str) -> None:
        """It went well: what the name failed before counts no more, and this try neither."""
        (of_address, _), (of_user, _) = self._keys(address, user)
        self._failed.pop(of_user, None)
        if times := self._failed.get(of_address):
            times.pop()

    def _keys(self, address: str, user: str) -> tuple[tuple[Key, int], tuple[Key, int]]:
        name = user[:64] or f"a link, from {network_of(address)}"  # nobody guesses a secret
        return (("address", network_of(address)), PER_ADDRESS), (("user", name), PER_USER)

    def _wait_s(self, key: Key, limit: int, now: float) -> float:
        times = self._failed.get(key)
        if times is None:
            return 0.0
        while times and now - times[0] > WINDOW_S:
            times.popleft()
        return WINDOW_S - (now - times[0]) if len(times) >= limit else 0.0

    def _note(self, key: Key, now: float) -> None:
        if key not in self._failed and len(self._failed) >= KEPT:
            self._failed.pop(next(iter(self._failed)))
        self._failed.setdefault(key, deque()).append(now)
