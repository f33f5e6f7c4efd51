"""What /metrics says of verifications: what was proved, when, and what it took."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peersync.agent.proof.verifies import Verifies

_LABELS = ("database", "peer")


class VerifyMetrics(Collector):
    """Nothing is asked for it: what is not in memory was read when a verification ended."""

    def __init__(self, verifies: Verifies) -> None:
        self._verifies = verifies

    def collect(self) -> Iterable[Metric]:
        totals = self._verifies.totals
        ended = CounterMetricFamily(
            "peersync_verify_runs", "Verifications that ended", labels=["result"]
        )
        for result, count in totals.ended.items():
            ended.add_metric([result], count)
        yield ended
        yield CounterMetricFamily(
            "peersync_verify_rows", "Rows of peers that were compared", totals.rows
        )
        yield CounterMetricFamily(
            "peersync_verify_seconds", "Time that verifications took", totals.seconds
        )
        yield from self._known()

    def _known(self) -> Iterable[Metric]:
        checked = GaugeMetricFamily(
            "peersync_verify_last_timestamp_seconds", "The last verification", labels=_LABELS
        )
        proved = GaugeMetricFamily(
            "peersync_verify_last_identical_timestamp_seconds",
            "When all compared tables were last proved identical",
            labels=_LABELS,
        )
        differing = GaugeMetricFamily(
            "peersync_verify_differing_tables", "Tables that differed", labels=_LABELS
        )
        left = GaugeMetricFamily(
            "peersync_verify_tables_not_compared", "Tables that could not be", labels=_LABELS
        )
        for labels, summary in self._verifies.summaries.items():
            checked.add_metric(labels, _unix(summary.checked_at))
            if summary.proved_at is not None:
                proved.add_metric(labels, _unix(summary.proved_at))
            differing.add_metric(labels, summary.differing)
            left.add_metric(labels, summary.not_compared)
        yield from (checked, proved, differing, left)


def _unix(then: str) -> float:
    return datetime.fromisoformat(then).timestamp()
