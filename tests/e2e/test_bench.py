"""`scripts/bench` measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchlib.periodic_probe import Probe, quantile
from pgcluster import Cluster, find_installations

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where the servers' files go: readable for their user, with a short name for sockets."""
    if not find_installations():
        pytest.skip("no PostgreSQL server programs here")
    base = Path("/tmp") / f"psb-{os.getpid()}"
    base.mkdir(mode=0o711)
    yield base
    shutil.rmtree(base)


@pytest.mark.timeout(600)  # half a minute where nobody else works
def test_breaks_and_the_undo_journal_are_measured(directory: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "bench", "full"]
    command += ["--only", "resume", "undo", "--size", "small", "--repeat", "1", "--patience", "0"]
    command += ["--dir", directory, "--json", told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(directory.iterdir())
    found = json.loads(told.read_text())
    runs = {run["name"]: run for run in found["runs"]}
    assert set(runs) == {
        "peersync-unbroken",
        "peersync-broken",
        "peersync-undo",
        "peersync-no-undo",
    }
    whole, broken = runs["peersync-unbroken"], runs["peersync-broken"]
    assert whole["cost"]["away_s"] == 0
    assert broken["cost"]["away_s"] > 1  # the network alone is away for a second
    assert broken["cost"]["start_cpu_s"] > 0.1
    (again,) = found["sent_again"]
    assert again["whole_bytes"] > 6_000_000
    assert 0 <= again["chunks_per_break"] < 4  # four are on the way at a time
    assert runs["peersync-undo"]["told"]["undoable_rows"] > 2_000
    assert runs["peersync-no-undo"]["told"]["undoable_rows"] == 0
    assert {one["figure"] for one in found["journal"]} == {"restore s", "wall s"}
    assert "## Three breaks against none" in done.stdout
    assert "## The undo journal" in done.stdout


@pytest.mark.timeout(600)  # a minute and a half where nobody else works
def test_periodic_sync_is_measured_beside_native_replication(
    directory: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "bench", "periodic", "--quick"]
    command += ["--major", str(max(find_installations())), "--only", "none", "native", "peersync"]
    command += ["--patience", "0", "--dir", directory, "--json", told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(directory.iterdir())
    found = json.loads(told.read_text())
    assert found["failures"] == []
    lines = {(line["part"], line["engine"], line["name"]): line for line in found["summary"]}
    values = {key: line["median"] for key, line in lines.items()}
    for part in ("lag", "drain", "memory", "wire"):
        names = {name for p, engine, name in lines if (p, engine) == (part, "native")}
        for name in names - {"others %"}:
            # bytes, seconds and milliseconds alike: a contestant that did nothing shows as 0
            assert values[part, "peersync", name] > 0, (part, name)
    assert values["capture", "peersync", "tpcb-like tps"] > 0
    assert lines["capture", "peersync", "tpcb-like tps"]["yardstick"] == "none"
    assert lines["drain", "peersync", "drain s"]["yardstick"] == "native"
    assert lines["drain", "peersync", "drain s"]["ratio"] > 0
    # what is held is not there before it is let go: a row of pgbench has more than 20 bytes
    assert values["wire", "native", "backlog bytes/change"] > 20
    assert values["publish", "peersync", "one transaction ms"] > 0
    assert values["nodes", "3 nodes", "p50 ms"] > 0
    assert "## Lag, from commit to sight" in done.stdout
    assert "## More nodes" in done.stdout


@pytest.mark.timeout(600)  # ten seconds where nobody else works
def test_a_delta_is_measured_beside_a_full_sync_and_a_dump(directory: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "bench", "delta", "--quick"]
    command += ["--only", "wide", "composite", "1-clustered", "delta", "backup", "dump-psql"]
    command += ["--link", "--major", str(max(find_installations()))]
    command += ["--patience", "0", "--dir", directory, "--json", told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(directory.iterdir())
    found = json.loads(told.read_text())
    delta, backup, dump = found["runs"]
    assert (delta["engine"], backup["engine"], dump["engine"]) == ("delta", "backup", "dump-psql")
    rows = delta["rows"]
    assert delta["told"]["updated"] == backup["told"]["updated"] == rows // 100
    assert delta["told"]["way"] == "delta"
    assert 0 < delta["told"]["differing_blocks"] < delta["told"]["blocks"] == -(-rows // 64)
    assert delta["told"]["wire_bytes"] < delta["told"]["link_bytes"]
    assert delta["told"]["link_bytes"] < backup["told"]["link_bytes"] / 4
    assert dump["told"]["wire_bytes"] > backup["told"]["wire_bytes"]
    goals = {(goal["differs"], goal["figure"]): goal for goal in found["goals"]}
    assert goals["1-clustered", "wall / backup"]["value"] > 0
    assert 30 < goals[None, "agent MB"]["value"] < 1_000
    assert "3 of 157" in done.stdout  # 100 rows at the end of 10,000
    assert "## Goals of delta" in done.stdout


@pytest.mark.timeout(600)  # ten seconds where nobody else works
def test_a_verification_finds_what_the_benchmark_made_to_differ(
    directory: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    command: list[str | Path] = [sys.executable, ROOT / "scripts" / "bench", "verify", "--quick"]
    command += ["--only", "wide", "uuid", "1-clustered"]
    command += ["--patience", "0", "--dir", directory, "--json", told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr
    assert not list(directory.iterdir())
    found = json.loads(told.read_text())
    runs = {run["engine"]: run for run in found["runs"]}
    assert "peersync" in runs
    for run in runs.values():  # reladiff, too, where it is installed
        assert run["told"]["found"] == "exactly"
        made = [run["told"][kind] for kind in ("different", "missing", "extra")]
        assert sum(made) == run["rows"] // 100
        assert all(made)
        assert run["cost"]["source_cpu_s"] > 0
    assert runs["peersync"]["told"]["look_s"] > 0
    (source,) = found["sources"]
    assert source["table_bytes"] > 100 * source["rows"]
    assert "## wide uuid" in done.stdout


def test_a_lag_is_the_time_from_commit_to_sight() -> None:
    with Cluster(max(find_installations())) as server:
        for name in ("here", "there"):
            server.createdb(name)
            server.psql("CREATE TABLE bench_probe (id bigint PRIMARY KEY)", name)
        over = threading.Event()

        def carry() -> None:
            """Rows of `here` come `there` a tenth of a second later."""
            while not over.wait(0.01):
                rows = server.psql("SELECT id FROM bench_probe ORDER BY id", "here").split()
                time.sleep(0.1)
                values = ", ".join(f"({row})" for row in rows) or "(0)"
                server.psql(
                    f"INSERT INTO bench_probe VALUES {values} ON CONFLICT DO NOTHING", "there"
                )

        carrier = threading.Thread(target=carry)
        carrier.start()
        try:
            with Probe(server.conninfo("here"), [server.conninfo("there")]) as probe:
                lags = probe.lags(lambda: time.sleep(1))
        finally:
            over.set()
            carrier.join()
    assert len(lags) > 5
    assert 0.1 <= min(lags) <= quantile(lags, 0.5) < 2
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
