"""What /metrics says of verifications: what was proved, when, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from peersync.agent.proof.verifies import Verifies
from peersync.agent.proof.view import KeptView

_LABELS = ("database", "peer")


class VerifyMetrics(Collector):
    """Nothing is asked for it: what is not in memory was read when a verification ended."""

    def __init__(self, verifies: Verifies, kept: Mapping[str, KeptView]) -> None:
        self._verifies = verifies
        self._kept = kept

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
        yield from self._of_kept()

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

    def _of_kept(self) -> Iterable[Metric]:
        tables = GaugeMetricFamily(
            "peersync_kept_tables", "Tables whose digests are kept", labels=["database", "state"]
        )
        blocks = GaugeMetricFamily(
            "peersync_kept_blocks", "Blocks of kept digests", labels=["database", "state"]
        )
        times = {
            name: GaugeMetricFamily(
                f"peersync_kept_{name}_timestamp_seconds", words, labels=["database"]
            )
            for name, words in (
                ("up_to_date", "Kept digests know all that was committed by then"),
                ("oldest", "When the oldest kept digest was made"),
            )
        }
        spent = {
            name: CounterMetricFamily(f"peersync_kept_{name}", words, labels=["database"])
            for name, words in (
                ("read_rows", "Rows read for kept digests"),
                ("read_bytes", "Bytes read for kept digests, about"),
                ("seconds", "Time that keeping digests took"),
            )
        }
        for name, view in self._kept.items():
            begun = view.tables - view.complete - view.waiting
            for state, count in (
                ("complete", view.complete), ("reading", begun), ("waiting", view.waiting),
            ):  # fmt: skip
                tables.add_metric([name, state], count)
            known = view.blocks - view.changed - view.unread
            for state, count in (
                ("known", known), ("changed", view.changed), ("unread", view.unread),
            ):  # fmt: skip
                blocks.add_metric([name, state], count)
            for at, then in (("up_to_date", view.up_to_date_at), ("oldest", view.oldest_at)):
                if then is not None:
                    times[at].add_metric([name], _unix(then))
            spent["read_rows"].add_metric([name], view.rows_read)
            spent["read_bytes"].add_metric([name], view.bytes_read)
            spent["seconds"].add_metric([name], view.seconds)
        yield from (tables, blocks, *times.values(), *spent.values())


def _unix(then: str) -> float:
    return datetime.fromisoformat(then).timestamp()
