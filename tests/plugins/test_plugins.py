"""The plugins fail what they are there to fail: each is shown a test that deserves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pgcluster
import pytest

from tests.plugins import forks
from tests.plugins.nodes import PROGRAM

ROOT = Path(__file__).parents[2]
Runner = Callable[[str], pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run a test file in a pytest of its own, under this project's plugins and settings."""
    pytester.makeconftest((ROOT / "tests/conftest.py").read_text())
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.delenv("CI", raising=False)

    def run(source: str) -> pytest.RunResult:
        file = pytester.makepyfile(source)
        settings = f"--config-file={ROOT / 'pyproject.toml'}"
        return pytester.runpytest_subprocess(settings, f"--rootdir={pytester.path}", file)

    return run


def test_a_skip_is_told_locally_and_fails_in_ci(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import pytest\ndef test_it():\n    pytest.skip('no such server')\n"
    run(source).assert_outcomes(skipped=1)
    monkeypatch.setenv("CI", "true")
    result = run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a skip fails in CI*no such server*"])


def test_a_skipped_file_fails_in_ci(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    run("import pytest\npytest.importorskip('not_there_at_all')\n").assert_outcomes(errors=1)


def test_an_expected_failure_is_no_skip(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    run("import pytest\n@pytest.mark.xfail\ndef test_it(): assert 0\n").assert_outcomes(xfailed=1)


def test_a_forgotten_process_fails_the_test_and_is_ended(run: Runner) -> None:
    result = run(
        """
        import subprocess
        kept = []
        def test_leaks(): kept.append(subprocess.Popen(["sleep", "987"]))
        def test_orphans(): subprocess.run(["sh", "-c", "sleep 987 & exit"])
        def test_waits(): subprocess.run(["true"])
        """
    )
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*left processes behind*sleep 987*"])


def test_a_forgotten_task_fails_the_test(run: Runner) -> None:
    result = run(
        """
        import asyncio
        kept = []
        async def test_leaks():
            kept.append(asyncio.create_task(asyncio.sleep(60), name="forgotten"))
        async def test_waits():
            async with asyncio.TaskGroup() as tasks: tasks.create_task(asyncio.sleep(0))
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*left tasks behind*forgotten*"])


# Code counts as peersync's by its file's name, so the example claims one.
BLOCKS = """
import asyncio, time, pytest
import peersync
def own(source):
    space = {}
    exec(compile(source, peersync.__path__[0] + "/example.py", "exec"), space)
    return space["call"]
nap = own("import time\\nasync def call(): time.sleep(0)")
swallow = own(
    "import time\\nasync def call():\\n    try: time.sleep(0)\\n    except Exception: pass"
)
thread = own("import asyncio, time\\nasync def call(): await asyncio.to_thread(time.sleep, 0)")
async def test_naps(): await nap()
async def test_swallows(): await swallow()
async def test_thread(): await thread()
async def test_the_test_itself_may(): time.sleep(0)
@pytest.mark.may_block("measured")
async def test_marked(): await nap()
def test_own_loop():
    with pytest.raises(Exception, match="Blocking call"): asyncio.run(nap())
"""


def test_a_blocking_call_of_peersync_on_the_loop_fails_the_test(run: Runner) -> None:
    result = run(BLOCKS)
    # naps fails at the call and again at the end; swallows and own_loop at the end
    result.assert_outcomes(passed=5, failed=1, errors=3)
    result.stdout.fnmatch_lines(["*blocking calls on the event loop: time.sleep at */example.py:*"])


# --- plugins.forks --------------------------------------------------------------------------
SAYS: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
}


def begun(kind: str, *arguments: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PEERSYNC_CONFIG": "/none/of.toml"}
    if kind == "forked":
        return forks.Forked(arguments, env=env, **SAYS)
    return subprocess.Popen([*PROGRAM, *arguments], env=env, **SAYS)


@pytest.mark.parametrize(
    ("arguments", "given", "code"),
    [
        (("--version",), b"", 0),
        (("nonsense",), b"", 2),
        (("status", "--json"), b"", 7),
        (("convert", "-"), "größe\n".encode(), 1),
    ],
)
def test_a_forked_command_says_what_one_started_anew_says(
    arguments: tuple[str, ...], given: bytes, code: int
) -> None:
    said = []
    for kind in ("forked", "anew"):
        process = begun(kind, *arguments)
        said.append((*process.communicate(given, timeout=30), process.returncode))
    assert said[0] == said[1]
    assert said[0][2] == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_forked_process_is_ours_to_end_and_leaves_none_behind(number: signal.Signals) -> None:
    process = begun("forked", "convert", "-")
    assert pgcluster.children_of(os.getpid())[process.pid] != "Z"
    assert process.stdin is not None
    process.stdin.write(b"--")
    process.stdin.flush()
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert process.pid not in pgcluster.children_of(os.getpid())


_DIES = """
import os, signal, sys
from tests.plugins import forks, leaks
leaks.pytest_configure()
streams = {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr}
forks.Forked(["convert", "-"], env=dict(os.environ), **streams)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_forked_process_ends_when_pytest_is_killed() -> None:
    """It would read its input for ever: the other end is here."""
    command = [sys.executable, "-c", _DIES]
    env, pipe = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}"}, subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, env=env) as pytest_dies:
        assert pytest_dies.stdout is not None
        assert pytest_dies.stdout.read() == b""  # until the last who could write has ended
    assert pytest_dies.returncode == -signal.SIGKILL


def test_what_an_interpreter_reads_at_its_start_is_not_forked() -> None:
    assert forks.can_fork({**os.environ, "PEERSYNC_LOG_LEVEL": "debug"})
    assert not forks.can_fork({**os.environ, "LD_PRELOAD": "libfaketime.so.1"})
