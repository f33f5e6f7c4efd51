"""A delta whose agents die, whose network breaks and whose snapshots go, in every phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fault.rig import NEW, ROWS, Rig, ask, eventually

CHANGED = 900
DIFFERS = f"""
    TRUNCATE items, notes;
    INSERT INTO items SELECT i, 1, md5(i::text) || md5((-i)::text) || md5('x' || i)
        || md5('y' || i) || md5('z' || i) || md5('u' || i) FROM generate_series(1, {ROWS}) i;
    UPDATE items SET v = 0 WHERE id BETWEEN 10001 AND 10000 + {CHANGED};
    ANALYZE"""


@pytest.fixture
def differs(rig: Rig) -> Iterator[Rig]:
    """The target has nearly all rows already."""
    rig.target.database.psql(DIFFERS)
    rig.method = "delta"
    yield rig
    rig.method = "auto"


def done(rig: Rig, job: str) -> Any:
    """It ended well, everything is new, nothing is left, and what was equal did not travel."""
    view = rig.done(job)
    (items,) = [t for t in view["tables"] if t["name"] == "items"]
    assert items["way"] == "delta", items["way_reason"]
    assert (items["updated"], items["unchanged"]) == (CHANGED, ROWS - CHANGED)
    return view


@contextmanager
def hole(rig: Rig, after_bytes: int) -> Iterator[str]:
    """The network swallows everything once so many bytes have come since the plan."""
    with rig.gate() as job:
        rig.proxy.hole_after = rig.proxy.down_bytes + after_bytes
        rig.open_gate()
        eventually("the hole", lambda: rig.proxy.down_bytes >= (rig.proxy.hole_after or 0))
        try:
            yield job
        finally:
            rig.proxy.heal()


PHASES: dict[str, Callable[[Rig], Any]] = {
    "while the parts are told": lambda rig: hole(rig, 1_000),
    "while digests of blocks come": lambda rig: hole(rig, 6_000),
    "while digests of rows come": lambda rig: hole(rig, 14_000),
    "while rows come": lambda rig: hole(rig, 60_000),
    "in the final transaction": lambda rig: rig.final_held(),
    "before its commit": lambda rig: rig.before_commit_held(),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", ["source", "target"])
def test_an_agent_is_killed(victim: str, phase: str, differs: Rig) -> None:
    node = getattr(differs, victim)
    with PHASES[phase](differs) as job:
        node.kill()
        differs.proxy.cut()
        node.start()
    done(differs, job)


def test_the_network_breaks_again_and_again(differs: Rig) -> None:
    differs.proxy.reset_every = 40_000
    done(differs, differs.begin())


def test_the_source_s_server_restarts_while_rows_are_compared(differs: Rig) -> None:
    with PHASES["while digests of blocks come"](differs) as job:
        differs.source.database.cluster.stop("immediate")
        differs.source.database.cluster.start()
    view = done(differs, job)
    assert view["progress"]["resumed"] >= 1


def test_a_cancelled_comparison_leaves_nothing(differs: Rig) -> None:
    before = differs.state()
    with PHASES["while digests of blocks come"](differs) as job:
        ask(differs.target, "POST", f"/api/admin/jobs/{job}/cancel")
    assert differs.end(job)["state"] == "cancelled"
    differs.assert_clean()
    assert differs.state() == before != NEW
