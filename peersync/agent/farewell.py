"""A stop that has an end, also where a database does not answer any more.

Whoever is told to end first puts back what it holds: it rolls back, it gives up locks. A server
that is frozen lets it wait for ever, and systemd would kill all of us. So after some seconds the
connections to databases are cut, which is as good: the server rolls back when it wakes up.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from peersync.postgres.pool import cut_connections

log = logging.getLogger("peersync.agent")

PATIENCE_S: Final = 6.0  # of the 30 and 90 that the units give
AGAIN_S: Final = 1.0
_UNNAMED: Final = "Task-"  # all of ours have names; the others are of libraries, which see to them


class Farewell:
    """`begin` in the task that waits for all others to end, when they have been told to."""

    def __init__(self) -> None:
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        waiting = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def hurry() -> None:
            if cut := cut_connections():
                log.warning("a database does not answer: cut %d of its connections", cut)
            for task in asyncio.all_tasks(loop):
                if task is not waiting and not task.get_name().startswith(_UNNAMED):
                    task.cancel()  # an error may have hidden the first request
            self._next = loop.call_later(AGAIN_S, hurry)

        self._next = loop.call_later(PATIENCE_S, hurry)

    def end(self) -> None:
        if self._next is not None:
            self._next.cancel()
