"""What a network does in the middle of a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fault.rig import OLD, Rig, chunk_files, eventually

ONE_CHUNK_BYTES = 1_100_000


def transfer_bytes(progress: dict[str, object]) -> int:
    steps = progress["steps"]
    assert isinstance(steps, list)
    total: int = next(step["total"] for step in steps if step["name"] == "transfer")
    return total


@contextmanager
def with_settings(rig: Rig, **settings: str) -> Iterator[None]:
    """The target's agent, restarted with these; the next test has the usual ones again."""
    before = dict(rig.target.env)
    rig.target.env.update({f"PEERSYNC_{name.upper()}": value for name, value in settings.items()})
    rig.target.stop()
    rig.target.start()
    try:
        yield
    finally:
        rig.target.env.clear()
        rig.target.env.update(before)


def test_peer_goes_away_and_comes_back(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.proxy.refuse()
        waiting = eventually(
            "it says what it waits for", lambda: rig.view(job)["progress"]["waiting_for"]
        )
        assert "server-a" in waiting
        assert "again in" in eventually(
            "it tries again",
            lambda: (w := rig.view(job)["progress"]["waiting_for"]) and "try 2" in w and w,
        )
    progress = rig.done(job)["progress"]
    assert progress["resumed"] == 0
    assert progress["wire_bytes"] <= transfer_bytes(progress) * 1.02


def test_peer_away_for_too_long_fails_and_can_be_resumed(rig: Rig) -> None:
    with with_settings(rig, network_retry_for_s="1"):
        with rig.transfer_held() as job:
            rig.proxy.refuse()
            watched = rig.target.run("jobs", "watch", job[:8], check=False)
            view = rig.failed(job)
            assert watched.code == 5, watched.err
            assert "server-a" in watched.err
            assert view["resumable"]
            eventually("no staging table is left", lambda: not _stages(rig))
            here = sum(path.stat().st_size for path in chunk_files(rig.target.spool / "taken"))
            assert here
        resumed = rig.target.run("jobs", "resume", job[:8], "--json")
        assert resumed.json["result"] == "done"
        progress = rig.done(job)["progress"]
        assert progress["saved_bytes"] == here
        # what is in the spool is never sent again; half a chunk was not there yet
        assert progress["wire_bytes"] <= transfer_bytes(progress) + ONE_CHUNK_BYTES
        again = rig.target.run("jobs", "resume", job[:8], check=False)
        assert again.code == 2
        assert "it is done" in again.err


def test_half_open_connection_is_given_up_and_replaced(rig: Rig) -> None:
    with with_settings(rig, network_read_timeout_s="1"):
        with rig.transfer_held() as job:
            eventually(
                "the silence is noticed",
                lambda: "in time" in (rig.view(job)["progress"]["waiting_for"] or ""),
            )
        rig.done(job)


def test_slow_link(rig: Rig) -> None:
    rig.proxy.bytes_s = 2_000_000.0
    rig.proxy.delay_s = 0.001
    rig.done(rig.begin())


@pytest.mark.parametrize("every", [1_000_000, 150_000])
def test_a_connection_that_is_reset_again_and_again_loses_nothing(rig: Rig, every: int) -> None:
    down = rig.proxy.down_bytes
    rig.proxy.reset_every = every
    progress = rig.done(rig.begin())["progress"]
    assert progress["resumed"] == 0
    assert rig.proxy.down_bytes - down < transfer_bytes(progress) * 1.5 + 300_000


def test_p17_a_byte_that_flips_on_the_way_is_noticed(rig: Rig) -> None:
    rig.proxy.flip_at = rig.proxy.down_bytes + 1_500_000
    job = rig.begin()
    rig.done(job)
    assert rig.proxy.flip_at is None, "nothing was flipped"


def test_p1_peer_gone_for_good_leaves_the_old_state(rig: Rig) -> None:
    never = with_settings(rig, network_retry_for_s="0.5", full_sync_keep_spool_h="0")
    with never, rig.transfer_held() as job:
        rig.proxy.refuse()
        view = rig.failed(job)
        assert not view["resumable"]
        assert rig.state() == OLD
        eventually("the target's spool is gone", lambda: not chunk_files(rig.target.spool))


def _stages(rig: Rig) -> list[str]:
    return [left for left in rig.left() if left.startswith("stage_")]
