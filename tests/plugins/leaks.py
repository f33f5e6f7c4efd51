"""A test that leaves a process or an asyncio task behind fails.

pytest becomes the "subreaper" of its descendants: a grandchild whose parent was killed
becomes pytest's own child instead of init's, so an agent's forgotten pg_dump is seen too.
The servers of `pgcluster` and the process to fork from are not leaks: they end with the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pgcluster
import pytest
import pytest_asyncio

from tests.plugins import forks

GRACE_S = 2.0  # for what was told to end and is ending
_PR_SET_CHILD_SUBREAPER = 36
_TASKS = Path("/proc/self/task")


def pytest_configure() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            # right behind it: before all other fixtures of the test, after the session's
            names = item.fixturenames
            names.insert(names.index("no_process_left") + 1, "no_task_left")


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Set up first and torn down last, so that every other fixture has cleaned up."""
    before = _children()
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := _left(before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    told = [_command_line(pid) for pid in left]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    if told:
        pytest.fail(f"the test left processes behind: {told}", pytrace=False)


def _left(before: set[int]) -> set[int]:
    """New children that still run; ended ones that nobody waited for are reaped."""
    new = _children() - before - pgcluster.own_pids() - forks.own_pids()
    if new:
        states = pgcluster.children_of(os.getpid())
        for pid in [pid for pid in new if states.get(pid, "Z") == "Z"]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            new.remove(pid)
    return new


def _children() -> set[int]:
    """Asked for twice a test, so without a look at every process of the machine."""
    try:
        lists = [task.joinpath("children").read_text() for task in _TASKS.iterdir()]
    except OSError:  # a thread that ended meanwhile, or a kernel without these lists
        return set(pgcluster.children_of(os.getpid()))
    return {int(pid) for found in lists for pid in found.split()}


def _command_line(pid: int) -> str:
    try:
        told = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return str(pid)
    return f"{pid} {told.replace(bytes(1), b' ').decode(errors='replace').strip()}"


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Looks into the test's own event loop after all other fixtures have cleaned up."""
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := _tasks() - before) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    if left:
        told = [f"{task.get_name()}: {task.get_coro()}" for task in left]
        pytest.fail(f"the test left tasks behind: {told}", pytrace=False)


def _tasks() -> set[asyncio.Task[object]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}
