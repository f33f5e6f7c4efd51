"""What systemd hears, over a real notification socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent.systemd import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(systemd: socket.socket) -> list[str]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(systemd.recv(4096).decode())
    return found


def notifier(systemd: socket.socket, **environ: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": systemd.getsockname(), **environ}, os.getpid())


def test_the_states_are_told_one_a_line(systemd: socket.socket) -> None:
    notifier(systemd).send("READY=1", "STATUS=waiting")
    assert heard(systemd) == ["READY=1\nSTATUS=waiting"]


def test_an_abstract_socket_is_understood(tmp_path: Path) -> None:
    name = f"peersync-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.setblocking(False)
        Notifier({"NOTIFY_SOCKET": "@" + name}, 1).send("READY=1")
        assert heard(listening) == ["READY=1"]


def test_a_status_cannot_smuggle_in_another_line(systemd: socket.socket) -> None:
    notifier(systemd).send("STATUS=a\nSTOPPING=1")
    (told,) = heard(systemd)
    assert "\n" not in told


async def test_without_systemd_or_after_it_nothing_fails(systemd: socket.socket) -> None:
    Notifier({}, 1).send("READY=1")
    gone = notifier(systemd)
    Path(systemd.getsockname()).unlink()
    gone.send("READY=1")


async def test_a_systemd_that_does_not_read_never_holds_up_the_agent(
    systemd: socket.socket,
) -> None:
    told = notifier(systemd)
    before = time.monotonic()
    for _ in range(2000):
        told.send("STATUS=" + "x" * 500)
    assert time.monotonic() - before < 1.0


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_systemd_says_so(
    environ: dict[str, str], expected: float | None
) -> None:
    assert Notifier(environ, os.getpid()).watchdog_s == expected


async def test_the_watchdog_hears_from_a_loop_that_turns_with_the_status_of_now(
    systemd: socket.socket,
) -> None:
    told = notifier(systemd, WATCHDOG_USEC="150000")
    states = iter(f"state {n}" for n in range(1000))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await told.keep(lambda: next(states))
    messages = heard(systemd)
    assert len(messages) >= 5
    assert messages[:2] == ["WATCHDOG=1\nSTATUS=state 0", "WATCHDOG=1\nSTATUS=state 1"]
