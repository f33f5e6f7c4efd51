"""The meter counts what an agent used before it was killed, and what its successor uses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchlib.meter import Meter

from tests.plugins.clusters import GetCluster

BURN = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end: pass
    print("done", flush=True)
"""
SLACK_S = 0.25  # the start of two Pythons, and the servers' own processes


@contextmanager
def agent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def burn(process: subprocess.Popen[str], seconds: float) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_an_agent_that_is_killed_and_started_again_is_counted_once(clusters: GetCluster) -> None:
    source, target = clusters(18, 0), clusters(18, 1)
    with ExitStack() as running:
        other, first = (running.enter_context(agent()) for _ in range(2))
        burn(first, 1.0)  # before the window: not counted
        with Meter(source, target, (other.pid, first.pid)) as meter:
            burn(first, 0.4)
            meter.lost(1)
            first.kill()
            first.wait()
            second = running.enter_context(agent())
            burn(second, 0.2)  # what it needs to start
            meter.found(1, second.pid)
            burn(second, 0.3)
            meter.away_s += 0.5
    cost = meter.cost
    assert 0.9 <= cost.cpu_s + 0.02 <= 0.9 + SLACK_S
    assert 0.2 <= cost.start_cpu_s + 0.01 <= 0.2 + SLACK_S / 2
    assert cost.away_s == 0.5
    assert cost.target_rss_bytes > 1_000_000
