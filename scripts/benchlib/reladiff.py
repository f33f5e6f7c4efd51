"""reladiff, which finds the rows of two tables that differ, run as people run it.

It owns finding the program, its command line, and reading its counts. It refuses to tune it but
for two things: two connections on each side, as other rivals get two jobs, and no sorting of what
was found, which ends in an error where rows with NULLs differ. Its statistics are asked for, not
the rows: printing those takes longer than finding them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pgcluster import SUPERUSER, Cluster

from benchlib.differing import TABLE, Case
from benchlib.programs import Command, RunFailed, environment, run, tail
from benchlib.rivals import JOBS

NAME = "reladiff"
_COUNTS = {"different": "updated", "missing": "exclusive_A", "extra": "exclusive_B"}
_WIDE = "100000"  # columns of its terminal: a long line would be broken in two


def program() -> Path | None:
    """Beside the Python that runs this script, or on PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name(NAME)
    if beside.exists():
        return beside
    found = shutil.which(NAME)
    return Path(found) if found else None


def version() -> str | None:
    """What it calls itself; None where it is not installed, or does not run."""
    found = program()
    if found is None:
        return None
    told = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    number = re.search(r"\d[\w.]*", told.stdout)
    return number.group() if told.returncode == 0 and number else None


def compare(
    source: Cluster, target: Cluster, database: str, case: Case, log: Path
) -> dict[str, int]:
    """How many rows differ by kind, seen from the target as peersync does. Raises RunFailed."""
    found = program()
    assert found is not None, "reladiff is not installed"
    line: list[str | Path] = [found, _address(source, database), TABLE]
    line += [_address(target, database), TABLE, "-c", "%", "-j", JOBS]
    line += ["--skip-sort-results", "--stats", "--json"]
    for column in case.key_columns:
        line += ["-k", column]
    command: Command = line
    told = run(command, env=environment(source.bindir) | {"COLUMNS": _WIDE}, log=log)
    try:
        counts = json.loads(told.strip().splitlines()[-1])
        return {kind: int(counts[theirs]) for kind, theirs in _COUNTS.items()}
    except (LookupError, ValueError) as error:  # it ends with 0 when it fails, too
        raise RunFailed("reladiff told no counts", tail(log)) from error


def _address(server: Cluster, database: str) -> str:
    return f"postgresql://{SUPERUSER}:{server.password}@127.0.0.1:{server.port}/{database}"
