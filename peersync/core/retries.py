"""When an attempt of a full sync that failed is followed by another, and when by none.

Two patiences are kept apart. A database that does not answer is waited for by time, as long
as the configuration says; any other failure that may pass counts, and there is an end to
them however quickly they come. Pure: the time comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from peersync.core.backoff import Backoff
from peersync.core.errors import (
    DatabaseUnreachable,
    DiskFull,
    DumpRestarted,
    PeersyncError,
    PeerUnreachable,
    ProtocolError,
    RefusedInput,
    SchemaMismatch,
    VerifyFailed,
)

ATTEMPTS = 5
_PAUSE_S = 0.5
_FRESH_S = 60.0  # an attempt that went well for so long begins a new count of failures
# What the same plan and the same bytes would only fail on again.
_FINAL_ERRORS = (ProtocolError, RefusedInput, SchemaMismatch, VerifyFailed)


def may_be_resumed(error: PeersyncError | None) -> bool:
    """Whether the chunks that are here are of use to a session that failed with this."""
    return not isinstance(error, _FINAL_ERRORS)


class Retries:
    """Counts the failures of one session's attempts. `backoff` gives a fresh patience."""

    def __init__(self, backoff: Callable[[], Backoff]) -> None:
        self._fresh = backoff
        self._backoff = backoff()
        self._tries = 0

    def pause_s(self, error: BaseException, began_s: float, now_s: float) -> float | None:
        """Seconds until the next attempt, after one that began then; None: there is none."""
        if isinstance(error, DatabaseUnreachable):
            if now_s - began_s > _FRESH_S:
                self._backoff = self._fresh()
            return self._backoff.next_pause(now_s)
        self._tries += 1
        return self._after_a_failure(error)

    def _after_a_failure(self, error: BaseException) -> float | None:
        """An unreachable peer has had its time already, and a full disk does not mend itself."""
        if not isinstance(error, PeersyncError) or not error.retryable or self._tries == ATTEMPTS:
            return None
        if isinstance(error, PeerUnreachable | DiskFull):
            return None
        return 0.0 if isinstance(error, DumpRestarted) else _PAUSE_S * self._tries
