"""What systemd hears, over a real notification socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent.systemd import Notifier, Pulse, links_line, status_line
from peersync.core.progress import Progress, Step


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


FINE = "WATCHDOG=1\nSTATUS=fine"


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
    assert time.monotonic() - before < 10.0


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
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(told.keep(lambda: next(states)), name="keeping")
        assert await next_of(systemd, 3) == [f"WATCHDOG=1\nSTATUS=state {n}" for n in range(3)]
        keeping.cancel()


async def next_of(systemd: socket.socket, count: int) -> list[str]:
    """So many messages, as they come; they come soon, or something is wrong."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        return [(await loop.sock_recv(systemd, 4096)).decode() for _ in range(count)]


async def kept(told: Notifier, systemd: socket.socket, *pulses: Pulse) -> set[str]:
    """What is told in a few rounds from now on."""
    heard(systemd)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(told.keep(lambda: "fine", lambda: pulses), name="keeping")
        messages = await next_of(systemd, 4)
        keeping.cancel()
    return set(messages)


async def test_an_event_loop_that_hangs_does_not_ping(systemd: socket.socket) -> None:
    told = notifier(systemd, WATCHDOG_USEC="90000")
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(told.keep(lambda: "fine"), name="keeping")
        await next_of(systemd, 3)
        heard(systemd)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass  # what hangs in this way has no await in it
        assert heard(systemd) == []
        assert await next_of(systemd, 3) == [FINE] * 3
        keeping.cancel()


async def test_a_loop_that_stands_still_keeps_the_ping_back_until_it_turns_again(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("peersync.agent.systemd.LEAST_S", 600)
    told = notifier(systemd, WATCHDOG_USEC="100000")
    turning, still = Pulse("the sync of shop"), Pulse("the sync of crm")
    turning.waits()
    still.turn()
    assert await kept(told, systemd, turning, still) == {FINE}  # in time as yet
    monkeypatch.setattr("peersync.agent.systemd.LEAST_S", 0.1)
    await asyncio.sleep(0.11)
    assert await kept(told, systemd, turning, still) == {"STATUS=the sync of crm hangs"}
    assert [r.levelno for r in caplog.records] == [logging.CRITICAL]  # once, not each time
    assert "systemd will start it anew" in caplog.text
    monkeypatch.setattr("peersync.agent.systemd.LEAST_S", 600)
    still.turn()
    assert await kept(told, systemd, turning, still) == {FINE}
    assert "it goes on" in caplog.text


async def test_a_loop_that_waits_for_a_database_does_not_hang(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peersync.agent.systemd.LEAST_S", 0.05)
    told = notifier(systemd, WATCHDOG_USEC="50000")
    waiting = Pulse("the sync of shop")
    waiting.turn()
    waiting.waits()
    await asyncio.sleep(0.06)
    assert await kept(told, systemd, waiting) == {FINE}


async def test_a_reload_is_told_with_the_moment_that_systemd_wants(
    systemd: socket.socket,
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier(systemd).reloading()
    (told,) = heard(systemd)
    state, moment = told.split("\n")
    assert state == "RELOADING=1"
    usec = int(moment.removeprefix("MONOTONIC_USEC="))
    assert before <= usec <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


# --- the status line ----------------------------------------------------------------------------
def a_sync(database: str, percent: float | None = None, eta_s: float | None = None) -> Progress:
    return Progress(
        session="1", action="pull", database=database, source="server-a", target="server-b",
        state="running", step=Step.RESTORE, percent=percent, eta_s=eta_s,
    )  # fmt: skip


def test_the_status_line_says_how_far_it_is_and_how_long_it_takes() -> None:
    assert status_line([]) == "waiting for work"
    line = "full sync shop from server-a: restore"
    assert status_line([a_sync("shop")]) == line  # unknown is not zero
    assert status_line([a_sync("shop", 61.4, 190.0)]) == f"{line} 61 %, 3 min left"
    assert status_line([a_sync("shop", 99.0, 4.0)]) == f"{line} 99 %, less than a minute left"
    many = status_line([a_sync(f"d{n}") for n in range(40)], links_line([False]))
    assert many.endswith("; and 37 full syncs more; periodic sync: 1 link")


def test_the_status_line_says_how_many_links_fail() -> None:
    assert links_line([]) == ""
    assert status_line([], links_line([False] * 3)) == "periodic sync: 3 links"
    assert status_line([], links_line([False, True])) == "periodic sync: 2 links, 1 failing"
