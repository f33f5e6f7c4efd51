"""The one policy for what fails and is begun again: link, publisher, keeper, database.

A failure pauses its own part and no other, longer each time. A bug is not translated: it is
logged with its traceback under an id, shown as "internal error" with that id, and tried again
like the rest.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from peersync.agent.periodic.news import News
from peersync.config.model import Config
from peersync.core.backoff import Backoff
from peersync.core.errors import Locked, PeersyncError, root_error

log = logging.getLogger("peersync.periodic")

_FOR_EVER_S = float("inf")
LOCKED_S = 2.0  # the longest pause while an application holds a row


class Failures:
    """How often in a row something has failed. Its work calls `over` when it goes well."""

    def __init__(self, what: str, config: Config) -> None:
        self.what = what
        self.error: PeersyncError | None = None
        self.count = 0
        self._config = config
        self._backoff: Backoff | None = None

    def over(self) -> None:
        if self.count:
            times = "error" if self.count == 1 else "errors"
            log.warning("%s works again after %d %s", self.what, self.count, times)
        self.count, self.error, self._backoff = 0, None, None

    def note(self, error: PeersyncError) -> float:
        """The pause before the next try, in seconds."""
        same = self.error is not None and self.error.message == error.message
        self.count, self.error = self.count + 1, error
        if self._backoff is None:
            maximum_s = self._config.network.retry_max_s
            self._backoff = Backoff(maximum_s=maximum_s, total_s=_FOR_EVER_S)
        pause = self._backoff.next_pause(time.monotonic()) or 0.0
        if isinstance(error, Locked):
            pause = min(pause, LOCKED_S)
        level = logging.DEBUG if same else logging.WARNING
        detail = f" ({error.detail})" if error.detail else ""
        log.log(level, "%s: %s%s; next try in %.1f s", self.what, error.message, detail, pause)
        return pause


async def keep(work: Callable[[], Awaitable[None]], failures: Failures, poke: News) -> None:
    """Runs `work` for ever. After a failure it waits, or until it is poked."""
    while True:
        poked = poke.count
        try:
            await work()
        except Exception as error:
            pause = failures.note(explained(error, failures.what))
            await poke.wait(poked, pause)


def explained(error: Exception, what: str) -> PeersyncError:
    """The error in our words; one that has none is logged as the bug that it is."""
    first = root_error(error) if isinstance(error, BaseExceptionGroup) else error
    if isinstance(first, PeersyncError):
        return first
    name = secrets.token_hex(4)
    log.error("internal error %s in %s", name, what, exc_info=error)
    return PeersyncError(
        f"internal error {name}", hint="the log of this node has the details under this id"
    )
