"""P13: a transfer that breaks at every chunk, and again in mid-chunk, sends nothing twice.

What is sent again is not what the agents say of it: the proxy has counted.
"""

from __future__ import annotations

import pytest

from tests.fault import anger
from tests.fault.anger import Death, Way
from tests.fault.conftest import remove
from tests.fault.rig import Rig, eventually

DEATHS: list[Death] = [
    anger.target_dies,
    anger.source_dies,
    anger.network_dies,
    anger.target_server_dies,
    anger.source_server_dies,
]
CHUNKS = 8


@pytest.fixture
def big(rig: Rig) -> Rig:
    """Eight chunks to transfer, over a link that is narrow enough to be cut between two."""
    rig.source.database.psql(anger.SOURCE_BULK)
    rig.target.database.psql(anger.TARGET_BULK)
    anger.narrow(rig)
    return rig


@pytest.mark.parametrize(("way", "first"), [("pull", 0), ("push", 1), ("push", 3)])
def test_p13_a_death_at_every_chunk_boundary_costs_nothing(big: Rig, way: Way, first: int) -> None:
    """Eight deaths in one session, each kind at other boundaries in the other sessions."""
    job = anger.begin(big, way)
    planned = big.proxy.down_bytes  # the plan's counts have come by now
    for chunk in range(CHUNKS):
        before = big.proxy.down_bytes
        assert anger.stop_after(big, job, chunk + 1), f"it ended after {chunk} chunks"
        cost = big.proxy.down_bytes - before
        assert cost <= 2 * anger.CHUNK_BYTES, f"chunk {chunk + 1}: {cost} bytes"
        anger.dumped(big, job)
        DEATHS[(first + chunk) % len(DEATHS)](big)
        anger.narrow(big)
    view = big.done(job)
    anger.assert_equal(big)
    anger.assert_both_say(big, job, "done")
    assert anger.sent_again(big, planned, view) <= CHUNKS * anger.CALLS_BYTES


@pytest.mark.parametrize(
    ("way", "deaths"),
    [
        ("pull", (anger.target_dies, anger.source_dies, anger.network_dies)),
        ("push", (anger.source_server_dies, anger.target_dies, anger.target_server_dies)),
    ],
)
def test_p13_three_deaths_in_mid_chunk_cost_a_chunk_each_at_most(
    big: Rig, way: Way, deaths: tuple[Death, ...]
) -> None:
    job = anger.begin(big, way)
    planned = big.proxy.down_bytes
    for nth, death in enumerate(deaths):
        assert anger.stop_after(big, job, 1 + 2 * nth)
        half = big.proxy.down_bytes + anger.CHUNK_BYTES // 2
        big.proxy.hole_after = half
        eventually("half a chunk has come", lambda limit=half: big.proxy.down_bytes >= limit)  # type: ignore[misc]
        anger.dumped(big, job)
        death(big)
        anger.narrow(big)
    view = big.done(job)
    anger.assert_equal(big)
    anger.assert_both_say(big, job, "done")
    limit = len(deaths) * (anger.CHUNK_BYTES + anger.CALLS_BYTES)
    assert anger.sent_again(big, planned, view) <= limit


def test_p13_a_dump_that_begins_again_finds_its_rows_at_the_target(big: Rig) -> None:
    """Read over a connection, the same rows make the same chunks: all of them are known."""
    job = anger.begin(big, "pull", method="http")
    planned = big.proxy.down_bytes
    assert anger.stop_after(big, job, 4)
    big.source.kill()
    remove(big.source.spool / "given" / job)
    big.proxy.cut()
    big.source.start()
    anger.narrow(big)
    view = big.done(job)
    anger.assert_equal(big)
    assert view["progress"]["saved_bytes"] >= 4 * 1_000_000
    assert anger.sent_again(big, planned, view) <= anger.CHUNK_BYTES + 2 * anger.CALLS_BYTES
