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
    print(time.process_time(), flush=True)
"""
# What the servers do meanwhile; far less than any burn that could be counted wrongly.
SLACK_S = 0.3
TICKS_S = 0.06  # /proc counts in hundredths, for two processes here


@contextmanager
def agent() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        process.kill()


def burn(process: subprocess.Popen[str], seconds: float) -> float:
    """All the CPU that the process has used in its life; on a slow machine its start takes most."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_an_agent_that_is_killed_and_started_again_is_counted_once(clusters: GetCluster) -> None:
    source, target = clusters(18, 0), clusters(18, 1)
    with ExitStack() as running:
        other, first = (running.enter_context(agent()) for _ in range(2))
        before = burn(first, 1.0)  # not counted
        with Meter(source, target, (other.pid, first.pid)) as meter:
            dead = burn(first, 0.5) - before
            meter.lost(1)
            first.kill()
            first.wait()
            second = running.enter_context(agent())
            start = burn(second, 0.2)
            meter.found(1, second.pid)
            used = dead + burn(second, 0.5)
            meter.away_s += 0.5
    cost = meter.cost
    assert used - TICKS_S <= cost.cpu_s <= used + SLACK_S
    assert start - TICKS_S <= cost.start_cpu_s <= start + SLACK_S
    assert cost.away_s == 0.5
    assert cost.target_rss_bytes > 1_000_000
