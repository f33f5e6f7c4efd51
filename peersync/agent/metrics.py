"""What /metrics says, in Prometheus' names and base units. Read when it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peersync import __version__
from peersync.core.progress import Progress


class JobTotals:
    """Counters over all jobs that ended since the agent started."""

    def __init__(self) -> None:
        self.ended: dict[tuple[str, str], int] = {}
        self.seconds: dict[tuple[str, str], float] = {}
        self.raw_bytes = self.wire_bytes = self.rows = self.resumes = 0

    def add(self, progress: Progress) -> None:
        key = (progress.action, progress.state)
        self.ended[key] = self.ended.get(key, 0) + 1
        longest = max((step.seconds for step in progress.steps), default=0.0)
        self.seconds[key] = self.seconds.get(key, 0.0) + longest
        self.raw_bytes += progress.raw_bytes
        self.wire_bytes += progress.wire_bytes
        self.rows += progress.rows
        self.resumes += progress.resumed


class _Agent(Collector):
    def __init__(
        self, totals: JobTotals, running: Callable[[], list[Progress]], state_dir: Path
    ) -> None:
        self._totals = totals
        self._running = running
        self._state_dir = state_dir

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("peersync_build", "The version", {"version": __version__})
        jobs = CounterMetricFamily(
            "peersync_jobs", "Full syncs that ended", labels=["action", "result"]
        )
        seconds = CounterMetricFamily(
            "peersync_job_duration_seconds", "Their wall time", labels=["action", "result"]
        )
        for (action, state), count in self._totals.ended.items():
            jobs.add_metric([action, state], count)
            seconds.add_metric([action, state], self._totals.seconds[action, state])
        yield jobs
        yield seconds
        moved = CounterMetricFamily(
            "peersync_transfer_bytes", "Bytes of full syncs taken", labels=["form"]
        )
        moved.add_metric(["raw"], self._totals.raw_bytes)
        moved.add_metric(["wire"], self._totals.wire_bytes)
        yield moved
        yield CounterMetricFamily(
            "peersync_transfer_resumes", "Attempts that were taken up again", self._totals.resumes
        )
        yield GaugeMetricFamily(
            "peersync_jobs_running", "Full syncs that run now", len(self._running())
        )
        yield GaugeMetricFamily(
            "peersync_state_disk_free_bytes",
            "Free space where the state is kept",
            shutil.disk_usage(self._state_dir).free,
        )


def make_registry(
    totals: JobTotals, running: Callable[[], list[Progress]], state_dir: Path
) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Agent(totals, running, state_dir))
    return registry
