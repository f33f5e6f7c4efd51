"""How often somebody may fail to log in: counted by address and name, by name, and by address.

A try counts from its beginning, so that many at once are as many. What one name fails at an
address keeps that name from it, and nobody else: behind one address there may be a whole office.
Who guesses many names from one place, or one name from many, meets the wider bounds. Those do not
hold for a name that is known at the address (it has logged in from there), so nobody is locked out
by what strangers do elsewhere, or others beside him; the narrow bound holds for everybody.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from peersync.core.errors import TooManyTries
from peersync.wire.address import network_of

WINDOW_S: Final = 300.0
PER_NAME_THERE: Final = 10
PER_NAME: Final = 30
PER_ADDRESS: Final = 60
KEPT: Final = 10_000  # addresses and names; the oldest are forgotten

Key = tuple[str, ...]


class Tries:
    """Failed tries of the last five minutes. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[Key, deque[float]] = {}
        self._known: dict[tuple[str, str], None] = {}  # that have logged in, the oldest first

    def begin(self, address: str, user: str, *, known: bool = False) -> None:
        """Counts a try; TooManyTries, with the seconds to wait, where there were too many.

        `known`: the user is logged in from this address at this moment.
        """
        now, network = self._clock(), network_of(address)
        there, of_name, of_address = self._keys(network, user)
        bounds = {there: PER_NAME_THERE}
        if not known and (network, user) not in self._known:
            bounds |= {of_name: PER_NAME, of_address: PER_ADDRESS}
        wait_s = max(self._wait_s(key, limit, now) for key, limit in bounds.items())
        if wait_s > 0:
            raise TooManyTries(
                "too many failed logins",
                hint=f"try again in {wait_s:.0f} s; forgotten: peersync admin passwd on the server",
                retry_after_s=int(wait_s) + 1,
            )
        for key in (there, of_name, of_address):
            self._note(key, now)

    def forgive(self, address: str, user: str) -> None:
        """It went well: what the name failed here before counts no more, and this try neither."""
        network = network_of(address)
        there, of_name, of_address = self._keys(network, user)
        self._failed.pop(there, None)
        for key in (of_name, of_address):
            if times := self._failed.get(key):
                times.pop()
        if user:
            self._known.pop((network, user), None)
            if len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[network, user] = None

    @staticmethod
    def _keys(network: str, user: str) -> tuple[Key, Key, Key]:
        name = user[:64]
        if not name:  # a one-time link: nobody guesses a secret
            return ("there", network, ""), ("link", network), ("links of", network)
        return ("there", network, name), ("user", name), ("address", network)

    def _wait_s(self, key: Key, limit: int, now: float) -> float:
        times = self._failed.get(key)
        if times is None:
            return 0.0
        while times and now - times[0] > WINDOW_S:
            times.popleft()
        return WINDOW_S - (now - times[0]) if len(times) >= limit else 0.0

    def _note(self, key: Key, now: float) -> None:
        times = self._failed.pop(key, None)
        if times is None:
            times = deque(maxlen=PER_ADDRESS)  # no bound counts further
            if len(self._failed) >= KEPT:
                self._failed.pop(next(iter(self._failed)))
        times.append(now)
        self._failed[key] = times  # the last tried are the last to be forgotten
