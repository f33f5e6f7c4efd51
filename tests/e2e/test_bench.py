"""`scripts/bench full` measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pgcluster import find_installations

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
