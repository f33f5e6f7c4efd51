"""A link of 200 kB/s with 300 ms there and back: slow is no failure, and the numbers stay true."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.fault import anger
from tests.fault.rig import FINAL, Rig
from tests.fault.test_network import with_settings

RATE_BYTES_S = 200_000.0
ROUND_TRIP_S = 0.3
READ_TIMEOUT_S = "4"  # less than one chunk takes


def watch(rig: Rig, job: str) -> list[tuple[float, dict[str, Any]]]:
    """Its views with their times, from now to its end."""
    views = []
    while True:
        views.append((time.monotonic(), rig.view(job)))
        if views[-1][1]["state"] in FINAL:
            return views
        time.sleep(0.25)


def assert_true_numbers(views: list[tuple[float, dict[str, Any]]], rate_bytes_s: float) -> None:
    """Nothing goes back, nothing is waited for, and what was foretold came about."""
    shown = [(at, view["progress"]) for at, view in views]
    percents = [progress["percent"] or 0.0 for _, progress in shown]
    assert percents == sorted(percents)
    assert all(percent < 100 for percent in percents[:-1])
    wires = [progress["wire_bytes"] for _, progress in shown]
    assert wires == sorted(wires)
    assert {progress["waiting_for"] for _, progress in shown} == {None}
    last = shown[-1][1]
    assert last["resumed"] == 0
    assert last["wire_bytes"] == anger.transfer_bytes(views[-1][1])
    end = shown[-1][0]
    half = next(x for x in shown if x[1]["wire_bytes"] >= last["wire_bytes"] / 2)
    begun = next(x for x in shown if x[1]["wire_bytes"])
    measured = (half[1]["wire_bytes"] - begun[1]["wire_bytes"]) / (half[0] - begun[0])
    assert 0.5 * rate_bytes_s < measured < 1.2 * rate_bytes_s
    left = half[1]["eta_s"]
    assert left is None or left < 8 * (end - half[0]) + 5
    foretold = [p["eta_s"] for at, p in shown if at > half[0] and p["eta_s"] is not None]
    assert foretold, "never a word of how long it takes"


def test_a_slow_link_far_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    pass_up = rig.proxy.pass_up

    async def late(data: bytes) -> bytes:
        await asyncio.sleep(ROUND_TRIP_S)
        return await pass_up(data)

    monkeypatch.setattr(rig.proxy, "pass_up", late)
    with with_settings(rig, network_read_timeout_s=READ_TIMEOUT_S):
        job = anger.begin(rig, "push")
        rig.proxy.bytes_s = RATE_BYTES_S
        views = watch(rig, job)
    assert views[-1][1]["state"] == "done", views[-1][1]["error"]
    assert_true_numbers(views, RATE_BYTES_S)


def test_a_bandwidth_is_kept_and_breaks_nothing(rig: Rig) -> None:
    with with_settings(rig, network_read_timeout_s=READ_TIMEOUT_S):
        job = anger.begin(rig, "pull", bandwidth=600_000)
        before = rig.proxy.down_bytes
        views = watch(rig, job)
    assert views[-1][1]["state"] == "done", views[-1][1]["error"]
    assert_true_numbers(views, 600_000)
    assert anger.sent_again(rig, before, views[-1][1]) <= 3 * anger.CALLS_BYTES
