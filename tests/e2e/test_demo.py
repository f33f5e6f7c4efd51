"""The demonstration works as printed, proves its own result, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pgcluster import find_installations

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 150


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demonstration makes its directory: empty before it, and after it."""
    if not find_installations():
        pytest.skip("no PostgreSQL server programs here")
    # the servers run as another user when we are root, and a socket's name must be short
    base = Path("/tmp") / f"psd-{os.getpid()}"
    base.mkdir(mode=0o711)
    base.chmod(0o1777)
    return base


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "demo", *arguments],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_in(directory: Path) -> list[str]:
    """The command lines that name a file below the directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in line:
            found.append(line)
    return found


def assert_nothing_left(temporary: Path) -> None:
    deadline = time.monotonic() + 20
    while (left := processes_in(temporary)) or any(temporary.iterdir()):
        assert time.monotonic() < deadline, (left, list(temporary.iterdir()))
        time.sleep(0.1)
    temporary.rmdir()


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_the_demonstration_ends_with_two_equal_databases_and_leaves_nothing(
    temporary: Path,
) -> None:
    demo = start(temporary, "--once", "--rows", "2000")
    told, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 0, told
    assert told.count("both databases hold the same rows") == 3, told
    assert "server-b$ peersync join server-a\n" in told
    assert "update_origin_differs" in told
    lines = [line.split() for line in told.splitlines() if line.endswith(" equal")]
    for table, there, here, digest_there, digest_here, _ in lines:
        assert (there, digest_there) == (here, digest_here), table
    assert_nothing_left(temporary)


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_a_demonstration_that_is_ended_takes_everything_with_it(temporary: Path) -> None:
    demo = start(temporary, "--rows", "10")
    assert demo.stdout is not None
    told = ""
    while "until Ctrl-C" not in told:
        line = demo.stdout.readline()
        assert line, told
        told += line
    assert processes_in(temporary)
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, told + rest
    assert_nothing_left(temporary)
