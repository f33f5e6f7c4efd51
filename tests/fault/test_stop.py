"""SIGTERM in the middle, and what the janitor sweeps."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fault.rig import OLD, Rig, ask, eventually

OLD_TIME = time.time() - 30 * 24 * 3600


@pytest.mark.parametrize("side", ["source", "target"])
def test_sigterm_in_transfer(rig: Rig, side: str) -> None:
    node = getattr(rig, side)
    with rig.transfer_held() as job:
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 10
        rig.proxy.cut()
        node.start()
    rig.done(job)


@pytest.mark.parametrize("side", ["source", "target"])
def test_sigterm_while_the_source_dumps(rig: Rig, side: str) -> None:
    node = getattr(rig, side)
    with rig.dump_held() as job:
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 10
        node.start()
    rig.done(job)


def test_sigterm_in_the_final_transaction(rig: Rig) -> None:
    with rig.final_held() as job:
        begun = time.monotonic()
        assert rig.target.stop() == 0
        assert time.monotonic() - begun < 10
        assert rig.state() == OLD
        rig.target.start()
    rig.done(job)


def test_p13_spools_that_nobody_wants_are_removed_at_the_start(rig: Rig) -> None:
    rig.source.stop()
    rig.target.stop()
    unknown = spool(rig.target.spool / "taken", "a" * 32, OLD_TIME)
    abandoned = spool(rig.source.spool / "given", "b" * 32, OLD_TIME)
    recent = spool(rig.source.spool / "given", "c" * 32, time.time())
    rig.source.start()
    rig.target.start()
    eventually("both are gone", lambda: not unknown.exists() and not abandoned.exists())
    assert recent.exists()


def test_p13_what_failed_long_ago_is_no_longer_resumable(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.database.psql("UPDATE peersync.leases SET fence = fence + 1")
        assert rig.failed(job)["resumable"]
    rig.target.stop()
    (here,) = (rig.target.spool / "taken").iterdir()
    os.utime(here, (OLD_TIME, OLD_TIME))
    rig.target.start()
    eventually("its spool is gone", lambda: not here.exists())
    eventually("it is said", lambda: not rig.view(job)["resumable"])
    assert rig.target.run("jobs", "resume", job[:8], check=False).code == 2


def test_a_backup_whose_target_never_came_back_is_closed(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.kill()
        rig.source.stop()
        rig.source.database.psql(
            "UPDATE peersync.full_sync_sessions SET updated_at = updated_at - interval '3 days'"
        )
        (given,) = (rig.source.spool / "given").iterdir()
        os.utime(given, (OLD_TIME, OLD_TIME))
        rig.proxy.cut()
        rig.source.start()
    eventually("its spool is gone", lambda: not given.exists())
    view = ask(rig.source, "GET", f"/api/admin/jobs/{job}")
    assert view["state"] == "failed"
    assert "never came back" in view["error"]["message"]
    rig.target.start()  # it comes after all: the backup is made anew
    rig.done(job)


def test_a_resume_sends_nothing_twice_and_the_source_keeps_the_backup(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.database.psql("UPDATE peersync.leases SET fence = fence + 1")
        rig.proxy.heal()
        rig.failed(job)
        eventually("the source has heard of it", lambda: source_state(rig, job) == "failed")
    begun = rig.proxy.down_bytes
    done = rig.target.run("jobs", "resume", job[:8], "--json").json
    assert done["result"] == "done"
    assert done["saved_bytes"] > 0
    total = next(s["total"] for s in rig.done(job)["progress"]["steps"] if s["name"] == "transfer")
    assert rig.proxy.down_bytes - begun < total - done["saved_bytes"] + 300_000
    eventually("the source says done", lambda: source_state(rig, job) == "done")


def source_state(rig: Rig, job: str) -> str:
    state: str = ask(rig.source, "GET", f"/api/admin/jobs/{job}")["state"]
    return state


def spool(root: Path, session: str, used_at: float) -> Path:
    directory = root / session
    directory.mkdir(parents=True)
    (directory / ("0" * 64)).write_bytes(b"x" * 1000)
    os.utime(directory, (used_at, used_at))
    return directory
