"""How long a row takes to the other side, told by one clock: this process's own.

A writer commits numbered rows on the source, a watcher looks for them on each target while
some are on their way. It refuses to use the servers' commit timestamps: native replication
stamps an applied transaction with the time of its origin.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import psycopg

from benchlib.programs import RunFailed

EVERY_S = 0.05
LOOK_S = 0.001  # how often a watcher looks; less often the longer it waits, by 2 %
_LONGEST_LOOK_S = 0.02
ARRIVAL_TIMEOUT_S = 900.0


class Probe:
    """`with Probe(source, targets) as probe:` sessions on all; conninfos.

    Its rows go on from the highest there is, so there is one Probe for a source at a time.
    """

    def __init__(self, source: str, targets: Sequence[str]) -> None:
        self._conninfos = [source, *targets]
        self._sessions: list[psycopg.Connection[Any]] = []
        self._last = 0

    def __enter__(self) -> Self:
        for conninfo in self._conninfos:
            self._sessions.append(psycopg.connect(conninfo, autocommit=True))
        self._last = _highest(self._sessions[0])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions:
            session.close()

    def mark(self) -> int:
        """Commit one row; its number."""
        self._last += 1
        self._sessions[0].execute("INSERT INTO bench_probe (id) VALUES (%s)", [self._last])
        return self._last

    def arrive(self, number: int | None = None, timeout_s: float = ARRIVAL_TIMEOUT_S) -> None:
        """Wait until a row (by default a new one, the last of all) is on every target."""
        wanted = self.mark() if number is None else number
        deadline = time.monotonic() + timeout_s
        for session in self._sessions[1:]:
            while _highest(session) < wanted:
                if time.monotonic() > deadline:
                    raise RunFailed(f"a change did not arrive within {timeout_s:.0f} s", "")
                time.sleep(2 * LOOK_S)

    def lags(self, work: Callable[[], object]) -> list[float]:
        """Seconds from commit to sight at the slowest target, of rows written during `work`."""
        committed: dict[int, float] = {}
        written, watched = threading.Event(), threading.Event()
        with ThreadPoolExecutor(len(self._sessions)) as pool:
            watchers = [
                pool.submit(self._watch, session, watched) for session in self._sessions[1:]
            ]
            writer = pool.submit(self._write, committed, written)
            try:
                work()
            finally:
                written.set()
                writer.exception()  # ended; raised below
                watched.set()
            writer.result()
            seen = [watcher.result() for watcher in watchers]
        if any(committed.keys() - found.keys() for found in seen):
            raise RunFailed("a probe's row did not arrive", "")
        return [max(found[i] for found in seen) - at for i, at in committed.items()]

    def _write(self, committed: dict[int, float], over: threading.Event) -> None:
        while not over.wait(EVERY_S):
            number = self.mark()
            committed[number] = time.monotonic()

    def _watch(self, session: psycopg.Connection[Any], over: threading.Event) -> dict[int, float]:
        """When each row was seen; asks the server only while one is on its way."""
        last, found, deadline = _highest(session), dict[int, float](), 0.0
        waiting_since = time.monotonic()
        while True:
            if last >= self._last:
                if over.is_set():
                    return found
                time.sleep(LOOK_S)
                waiting_since = time.monotonic()
                continue
            if over.is_set():
                deadline = deadline or time.monotonic() + ARRIVAL_TIMEOUT_S
                if time.monotonic() > deadline:
                    return found
            rows = session.execute("SELECT id FROM bench_probe WHERE id > %s", [last]).fetchall()
            now = time.monotonic()
            for (number,) in rows:
                found[number] = now
                last = max(last, number)
            waiting_since = now if rows else waiting_since
            time.sleep(min(max(LOOK_S, (now - waiting_since) / 50), _LONGEST_LOOK_S))


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def _highest(session: psycopg.Connection[Any]) -> int:
    row = session.execute("SELECT coalesce(max(id), 0) FROM bench_probe").fetchone()
    assert row is not None
    return int(row[0])
