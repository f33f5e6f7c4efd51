"""Who wants to hear that a piece of work has ended, and how they are told.

The work has its record by then. A listener that fails is a bug of its own: it is told aloud
in the log, and neither the work nor another listener suffers from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger("peersync.endings")
T = TypeVar("T")


class Endings(Generic[T]):
    """The listeners of one kind of work, called on the event loop with each that has ended."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[T], None]] = []

    def append(self, listener: Callable[[T], None]) -> None:
        self._listeners.append(listener)

    def tell(self, ended: T) -> None:
        for listener in self._listeners:
            try:
                listener(ended)
            except Exception:
                log.exception("internal error in what follows the end of a piece of work")
