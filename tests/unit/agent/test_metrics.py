"""/metrics, as Prometheus' own parser reads it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from peersync import __version__
from peersync.agent.metrics import JobTotals, make_registry
from peersync.core.progress import Progress, Step, StepProgress

ENDED = Progress(
    session="0" * 32,
    action="pull",
    database="shop",
    source="server-a",
    target="server-b",
    state="done",
    steps=(StepProgress(name=Step.RESTORE, unit="bytes", seconds=4.5),),
    raw_bytes=1000,
    wire_bytes=100,
    rows=7,
    resumed=2,
)


def scrape(totals: JobTotals, running: list[Progress], state: Path) -> dict[str, float]:
    text = generate_latest(make_registry(totals, lambda: running, state)).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} does not say what it is"
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_a_new_agent_has_all_its_names_and_zeros(tmp_path: Path) -> None:
    found = scrape(JobTotals(), [], tmp_path)
    free = found.pop("peersync_state_disk_free_bytes{}")
    assert free > 0
    assert found == {
        f"peersync_build_info{{version={__version__}}}": 1.0,
        "peersync_transfer_bytes_total{form=raw}": 0.0,
        "peersync_transfer_bytes_total{form=wire}": 0.0,
        "peersync_transfer_resumes_total{}": 0.0,
        "peersync_jobs_running{}": 0.0,
    }


def test_ended_syncs_are_counted_by_result(tmp_path: Path) -> None:
    totals = JobTotals()
    totals.add(ENDED)
    totals.add(ENDED)
    totals.add(msgspec.structs.replace(ENDED, state="failed"))
    found = scrape(totals, [ENDED], tmp_path)
    assert found["peersync_jobs_total{action=pull,result=done}"] == 2
    assert found["peersync_jobs_total{action=pull,result=failed}"] == 1
    assert found["peersync_job_duration_seconds_total{action=pull,result=done}"] == 9.0
    assert found["peersync_transfer_bytes_total{form=raw}"] == 3000
    assert found["peersync_transfer_bytes_total{form=wire}"] == 300
    assert found["peersync_transfer_resumes_total{}"] == 6
    assert found["peersync_jobs_running{}"] == 1
