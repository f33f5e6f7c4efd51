"""What a run costs: time, CPU of everybody who worked for it, log written, memory.

Linux only, from /proc. A server's CPU is the sum over its postmaster, the processes that it
reaped, and those that still run: nothing is lost when a backend ends, because its time moves
to its parent. Kernel threads (writing back pages, mostly) are counted apart: they work for
us, but not measurably so. What is left of the machine's busy time is *strangers*.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pgcluster import Cluster

CONTAMINATED_SHARE = 0.20  # of the machine: what strangers may take before a run is marked
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_KTHREADD = 2


@dataclass(frozen=True)
class Cost:
    """One window. CPU in seconds; `*_rss_bytes` are peaks of one process, 0 when there is none.

    `away_s`: how long an agent was down, or the network; `start_cpu_s`: what agents that were
    started again took until they answered. Both are part of the other figures.
    """

    wall_s: float
    client_cpu_s: float
    source_cpu_s: float
    target_cpu_s: float
    agents_cpu_s: float
    kernel_cpu_s: float
    stranger_cpu_s: float
    wal_bytes: int
    source_rss_bytes: int = 0
    target_rss_bytes: int = 0
    away_s: float = 0.0
    start_cpu_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """Client programs, both servers and both agents."""
        return self.client_cpu_s + self.source_cpu_s + self.target_cpu_s + self.agents_cpu_s

    @property
    def stranger_share(self) -> float:
        """Strangers' part of the machine, 0 to 1."""
        return self.stranger_cpu_s / (self.wall_s * (os.cpu_count() or 1))

    @property
    def contaminated(self) -> bool:
        return self.stranger_share > CONTAMINATED_SHARE


@dataclass
class _Reading:
    client: float
    source: float
    target: float
    agents: list[float]
    own: float
    kernel: float
    busy: float


class Meter:
    """`with Meter(source, target, agent_pids) as meter: …`, then `meter.cost`.

    `agents` are the pids of the source's and the target's agent, or nothing. Whatever the
    block starts, it must wait for: a client's CPU is counted when it is reaped. So is that of
    an agent which dies in the block: say `lost` before, and `found` when its successor answers.
    """

    cost: Cost

    def __init__(self, source: Cluster, target: Cluster, agents: tuple[int, ...] = ()) -> None:
        self._source, self._target, self._agents = source, target, list(agents)
        self._peaks = [0, 0]
        self.away_s = self._start_cpu_s = 0.0

    def __enter__(self) -> Self:
        self._wal = wal_position(self._target)
        for pid in self._agents:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
        self._before = self._read()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        wall = time.perf_counter() - self._start
        after, before = self._read(), self._before
        known = ("client", "source", "target", "agents", "own", "kernel")
        spent = {n: max(0.0, _sum(getattr(after, n)) - _sum(getattr(before, n))) for n in known}
        for which, _ in enumerate(self._agents):
            self._look(which)
        self.cost = Cost(
            wall_s=wall,
            client_cpu_s=spent["client"],
            source_cpu_s=spent["source"],
            target_cpu_s=spent["target"],
            agents_cpu_s=spent["agents"],
            kernel_cpu_s=spent["kernel"],
            stranger_cpu_s=max(0.0, after.busy - before.busy - sum(spent.values())),
            wal_bytes=wal_position(self._target) - self._wal,
            source_rss_bytes=self._peaks[0],
            target_rss_bytes=self._peaks[1],
            away_s=self.away_s,
            start_cpu_s=self._start_cpu_s,
        )

    def lost(self, which: int) -> None:
        """Agent number `which` (0 is the source's) is about to be killed."""
        self._look(which)

    def found(self, which: int, pid: int) -> None:
        """The killed agent was reaped, and its successor `pid` answers.

        All that the dead one ever used is among the reaped clients now, so what it had used
        before the block has to be there, too.
        """
        self._before.client += self._before.agents[which]
        self._before.agents[which] = 0.0
        self._agents[which] = pid
        self._start_cpu_s += _trees([pid])[0]

    def _look(self, which: int) -> None:
        self._peaks[which] = max(self._peaks[which], peak_rss(self._agents[which]))

    def _read(self) -> _Reading:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = resource.getrusage(resource.RUSAGE_SELF)
        trees = _trees([self._source.pid or 0, self._target.pid or 0, *self._agents, _KTHREADD])
        return _Reading(
            client=children.ru_utime + children.ru_stime,
            source=trees[0],
            target=trees[1],
            agents=trees[2:-1],
            own=own.ru_utime + own.ru_stime,
            kernel=trees[-1],
            busy=_busy(),
        )


def _sum(figure: float | list[float]) -> float:
    return sum(figure) if isinstance(figure, list) else figure


def wait_for_calm(patience_s: float) -> None:
    """Wait until others leave the machine alone for a second, or until patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        before = _busy()
        time.sleep(1)
        if _busy() - before < CONTAMINATED_SHARE / 2 * (os.cpu_count() or 1):
            return


def wal_position(server: Cluster) -> int:
    """Bytes of log written since the cluster was made, unflushed ones too."""
    return int(server.psql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))


def peak_rss(pid: int) -> int:
    """VmHWM of one process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def _trees(roots: Iterable[int]) -> list[float]:
    """CPU seconds of each root, of all below it, and of all that were reaped there."""
    parents, spent = _processes()
    below: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        below.setdefault(parent, []).append(pid)

    def total(pid: int) -> float:
        return spent.get(pid, 0.0) + sum(total(child) for child in below.get(pid, ()))

    return [total(root) for root in roots]


def _processes() -> tuple[dict[int, int], dict[int, float]]:
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                # utime, stime, and the same of reaped children: fields 14 to 17 of proc(5)
                spent[int(entry.name)] = sum(map(int, fields[11:15])) * _TICK_S
    return parents, spent


def _busy() -> float:
    """Seconds that the machine's processors worked for processes or were stolen by the host.

    Interrupts are left out: those of loopback and of the disk are our own doing.
    """
    line = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + steal) * _TICK_S
