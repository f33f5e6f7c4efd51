"""How much memory carrying takes, watched from outside while it happens.

Two sums, sampled together: resident memory of the engine's own programs with all that they
started, and private memory of the servers' processes. Shared buffers are nobody's: they are
left out by counting only anonymous pages of a server.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from pgcluster import Cluster, children_of

EVERY_S = 0.05


class Watch:
    """`with Watch(source, target, pids) as watch:` then the peaks of the two sums, in bytes."""

    def __init__(self, source: Cluster, target: Cluster, programs: tuple[int, ...]) -> None:
        self._servers = [pid for pid in (source.pid, target.pid) if pid is not None]
        self._programs = programs
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")
        self.programs_bytes = self.sessions_bytes = 0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        programs = sum(_tree(pid) for pid in self._programs)
        sessions = sum(
            _size(child, "RssAnon:") for pid in self._servers for child in children_of(pid)
        )
        self.programs_bytes = max(self.programs_bytes, programs)
        self.sessions_bytes = max(self.sessions_bytes, sessions)


def _tree(pid: int) -> int:
    """Resident bytes of a process and of all below it."""
    return _size(pid, "VmRSS:") + sum(_tree(child) for child in children_of(pid))


def _size(pid: int, what: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    return 0
