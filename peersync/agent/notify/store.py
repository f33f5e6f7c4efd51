"""What notifications must not forget, in `notify.json` of the state directory.

Without it a restart would say everything again. A file that can't be read or written is said in
the log, and stops nothing: a full disk is one of the things that have to be told.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from peersync.core.errors import PeersyncError
from peersync.core.incidents import Memory
from peersync.transport.files import read_private, write_private

log = logging.getLogger("peersync.notify")

LIMIT: Final = 64 << 20


class Store:
    """`load` and `save` block."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "notify.json"
        self._written: bytes | None = None
        self._failed = False

    def load(self) -> Memory:
        try:
            data = read_private(self._path, limit=LIMIT)
            memory = Memory() if data is None else msgspec.json.decode(data, type=Memory)
        except (PeersyncError, OSError, msgspec.DecodeError) as error:
            log.warning(
                "what was said before is not known, so it may be said again: %s: %s",
                self._path,
                error,
            )
            return Memory()
        self._written = data
        return memory

    def save(self, data: bytes) -> None:
        """Writes what has changed, `encoded` before by whoever owns the memory."""
        if data == self._written:
            return
        try:
            write_private(self._path, data)
        except OSError as error:
            if not self._failed:
                log.warning("what was said is not kept: %s: %s", self._path, error.strerror)
            self._failed = True
            return
        self._written, self._failed = data, False


def encoded(memory: Memory) -> bytes:
    return msgspec.json.encode(memory)
