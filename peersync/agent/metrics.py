"""What /metrics says, in Prometheus' names and base units. Read when it is asked for.

Nothing here asks a database or a peer: what is not in memory is what the keeper of the samples
read, at most a minute ago.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peersync import __version__
from peersync.agent.orchestration.samples import LinkSamples, state_of
from peersync.agent.periodic.answers import STATES
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.puller import MAX_WAIT_S
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


_COUNTERS = (
    ("transactions", "transactions", "Transactions applied"),
    ("changes", "changes", "Changes applied"),
    ("raw_bytes", "raw_bytes", "Bytes of rows taken, as they were unpacked"),
    ("wire_bytes", "wire_bytes", "Bytes taken from the network, without HTTP and TLS"),
    ("conflicts", "conflicts", "Conflicts met"),
    ("quarantined", "quarantined", "Changes put into quarantine"),
    ("errors", "errors", "Tries that failed"),
    ("behind_s", "behind_seconds", "Time in which the link had not all that the peer has"),
)
_LABELS = ("database", "peer")
GRACE_S = 2.0  # an answer that was waited for is that much on its way


class LinkMetrics(Collector):
    """The links of periodic sync that this process runs."""

    def __init__(self, periodic: Periodic, samples: LinkSamples) -> None:
        self._periodic = periodic
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        yield from self._counted()
        yield from self._now()
        yield from self._kept()

    def _counted(self) -> Iterator[Metric]:
        for attribute, name, text in _COUNTERS:
            metric = CounterMetricFamily(f"peersync_link_{name}", text, labels=_LABELS)
            for hub in self._periodic.hubs.values():
                for counts in hub.counts.values():
                    value = getattr(counts, attribute)
                    if attribute == "behind_s":
                        value += counts.behind_now_s
                    metric.add_metric([hub.name, counts.peer], value)
            yield metric

    def _now(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "peersync_link_state", "1 for the state of a link", labels=(*_LABELS, "state")
        )
        behind = GaugeMetricFamily(
            "peersync_link_behind_seconds", "For how long it has been behind by now", labels=_LABELS
        )
        contact = GaugeMetricFamily(
            "peersync_link_last_contact_timestamp_seconds", "The last answer", labels=_LABELS
        )
        lag = GaugeMetricFamily(
            "peersync_link_lag_seconds",
            "From a change there to its commit here, in the last minute that had any",
            labels=(*_LABELS, "quantile"),
        )
        for hub in self._periodic.hubs.values():
            facts = self._samples.facts.get(hub.name)
            for node_id, counts in hub.counts.items():
                labels = [hub.name, counts.peer]
                is_now = state_of(hub, node_id, facts, patience_s=self._periodic.patience_s)
                for name in STATES:
                    state.add_metric([*labels, name], float(name == is_now))
                behind.add_metric(labels, counts.behind_now_s)
                link = hub.links.get(node_id)
                if link is not None and link.contact_at is not None:
                    contact.add_metric(labels, link.contact_at)
                sample = self._samples.newest.get((hub.name, node_id))
                if sample is not None and sample.lag_p50_s is not None:
                    lag.add_metric([*labels, "0.5"], sample.lag_p50_s)
                    lag.add_metric([*labels, "0.95"], sample.lag_p95_s or 0.0)
        yield from (state, behind, contact, lag)

    def _kept(self) -> Iterator[Metric]:
        conflicts = GaugeMetricFamily(
            "peersync_link_conflicts_open", "Conflicts to be decided", labels=_LABELS
        )
        quarantine = GaugeMetricFamily(
            "peersync_link_quarantine_rows", "Changes in quarantine", labels=_LABELS
        )
        log_bytes = GaugeMetricFamily(
            "peersync_log_bytes", "Disk space of the log of changes", labels=["database"]
        )
        for name, facts in self._samples.facts.items():
            log_bytes.add_metric([name], facts.log_bytes)
            for member in facts.local.members:
                if member.counts and member.origin != facts.local.replica.origin:
                    waiting = facts.local.waiting.get(member.origin, (0, 0))
                    quarantine.add_metric([name, member.node_name], waiting[0])
                    conflicts.add_metric([name, member.node_name], waiting[1])
        yield from (conflicts, quarantine, log_bytes)


def make_registry(
    totals: JobTotals,
    running: Callable[[], list[Progress]],
    state_dir: Path,
    *others: Collector,
) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (_Agent(totals, running, state_dir), *others):
        registry.register(collector)
    return registry


def lag_check(periodic: Periodic, max_lag_s: float, peer: str | None) -> tuple[bool, str]:
    """Whether each link (of `peer`) was in step within the last `max_lag_s`, and words for it.

    A peer that should have answered by now and has not counts from when it should have.
    """
    silence_s = min(periodic.patience_s, MAX_WAIT_S) + GRACE_S
    late = []
    found = 0
    for hub in periodic.hubs.values():
        for node_id, counts in hub.counts.items():
            link = hub.links.get(node_id)
            if link is None or (peer is not None and counts.peer != peer):
                continue
            found += 1
            silent_s = time.time() - link.contact_at - silence_s if link.contact_at else 0.0
            lag_s = max(counts.behind_now_s, silent_s)
            if lag_s > max_lag_s:
                late.append(f"{hub.name} from {counts.peer}: {lag_s:.0f} s")
    if late:
        return False, f"more than {max_lag_s:g} s behind: {', '.join(late)}"
    if peer is not None and not found:
        return False, f"no link to {peer} runs here"
    return True, f"{found} within {max_lag_s:g} s"
