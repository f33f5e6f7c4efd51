"""What rests in the spools: how long, who makes room for whom, and what a resume finds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fault import anger
from tests.fault.rig import Rig, chunk_files, eventually, spools
from tests.fault.test_network import with_settings
from tests.plugins.nodes import Node

OLD_TIME = time.time() - 30 * 24 * 3600
AGE = "UPDATE peersync.full_sync_sessions SET updated_at = updated_at - interval '3 days'"


def failed(rig: Rig) -> str:
    """A session that failed in its transfer, and may be resumed; its network is well again."""
    with rig.transfer_held() as job:
        anger.fail(rig)
    assert rig.failed(job)["resumable"]
    eventually("the source has heard of it", lambda: anger.given(rig, job)["state"] == "failed")
    return job


@contextmanager
def source_with(rig: Rig, **settings: str) -> Iterator[None]:
    before = dict(rig.source.env)
    rig.source.env.update({f"PEERSYNC_{name.upper()}": value for name, value in settings.items()})
    try:
        yield
    finally:
        rig.source.env.clear()
        rig.source.env.update(before)


# --- expired ------------------------------------------------------------------------------------
def expire_given(rig: Rig, job: str) -> None:
    """The source has thrown away what it kept for this session."""
    rig.source.stop()
    rig.source.database.psql(AGE)
    directory = rig.source.spool / "given" / job
    os.utime(directory, (OLD_TIME, OLD_TIME))
    rig.source.start()
    eventually("its spool is gone", lambda: not directory.exists())
    assert f"the spool of session {job} is removed" in rig.source.log


def test_a_pull_goes_on_when_the_source_has_thrown_its_dump_away(rig: Rig) -> None:
    job = failed(rig)
    expire_given(rig, job)
    resumed = rig.target.run("jobs", "resume", job[:8], "--json").json
    assert resumed["result"] == "done"
    rig.done(job)
    anger.assert_both_say(rig, job, "done")


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_push_goes_on_without_the_right_to_pull_and_without_the_dump(rig: Rig, side: str) -> None:
    push = anger.pushing(rig)
    push.source.run("peer", "deny", "server-b", "--pull")
    job = failed(push)
    expire_given(push, job)
    node: Node = getattr(push, side)
    assert node.run("jobs", "resume", job[:8], "--json").json["result"] == "done"
    push.done(job)
    anger.assert_both_say(push, job, "done")


# --- in use, however long ago something was written -----------------------------------------------
def test_p13_chunks_are_kept_from_the_failure_on_not_from_the_last_chunk(rig: Rig) -> None:
    """A restore can take days: its chunks are old when it fails, and what failed is not."""
    with rig.transfer_held() as job:
        os.utime(rig.target.spool / "taken" / job, (OLD_TIME, OLD_TIME))
        os.utime(rig.source.spool / "given" / job, (OLD_TIME, OLD_TIME))
        anger.fail(rig)
        rig.proxy.refuse()
        eventually("it has failed", lambda: rig.view(job)["state"] == "failed")
    eventually("the source has heard of it", lambda: anger.given(rig, job)["state"] == "failed")
    here = sum(path.stat().st_size for path in chunk_files(rig.target.spool / "taken"))
    kept = chunk_files(rig.source.spool / "given")
    for node in (rig.source, rig.target):
        node.stop()
        swept(node)
    assert chunk_files(rig.source.spool / "given") == kept
    assert rig.target.run("jobs", "resume", job[:8], "--json").json["saved_bytes"] == here
    rig.done(job)


def swept(node: Node) -> None:
    """Starts the agent; when the spool that nobody wants is gone, the janitor has been here."""
    unknown = node.spool / "taken" / ("a" * 32)
    unknown.mkdir(parents=True)
    node.start()
    eventually("the janitor has swept", lambda: not unknown.exists())


@pytest.mark.parametrize("keep_h", ["24", "0"])
def test_p13_a_source_that_is_restarted_keeps_what_is_being_transferred(
    rig: Rig, keep_h: str
) -> None:
    """Dumped long ago, and still on its way; also when nothing is kept of what failed."""
    with rig.transfer_held() as job, source_with(rig, full_sync_keep_spool_h=keep_h):
        anger.dumped(rig, job)
        os.utime(rig.source.spool / "given" / job, (OLD_TIME, OLD_TIME))
        rig.source.stop()
        rig.proxy.refuse()
        swept(rig.source)
    progress = rig.done(job)["progress"]
    assert progress["resumed"] == 0
    assert progress["wire_bytes"] <= anger.transfer_bytes(rig.view(job)) + anger.CHUNK_BYTES


# --- no room --------------------------------------------------------------------------------------
def test_p18_the_oldest_of_what_rests_makes_room_and_it_is_said(rig: Rig) -> None:
    first, second = failed(rig), failed(rig)
    kept = {job: rig.target.spool / "taken" / job for job in (first, second)}
    assert all(chunk_files(path.parent) for path in kept.values())
    used = sum(path.stat().st_size for path in chunk_files(rig.target.spool / "taken"))
    # room for what is here and for two of the three chunks that come
    budget = (used + 2 * anger.CHUNK_BYTES) / (1 << 30)
    with with_settings(rig, full_sync_spool_max_gib=f"{budget:.6f}"):
        with rig.before_commit_held() as job:
            assert not kept[first].exists()
            assert kept[second].exists()
            assert (
                f"session {first}, which failed and may be resumed, are removed" in rig.target.log
            )
            assert f"session {second}," not in rig.target.log
        assert rig.end(job)["state"] == "done"
        resumed = rig.target.run("jobs", "resume", second[:8], "--json").json
        assert resumed["saved_bytes"] > 0
        resumed = rig.target.run("jobs", "resume", first[:8], "--json").json
        assert (resumed["result"], resumed["saved_bytes"]) == ("done", 0)
    eventually("nothing is left", lambda: not spools(rig.target) + spools(rig.source))


# --- who was away ---------------------------------------------------------------------------------
def test_p20_a_source_that_was_away_at_the_end_is_told_by_a_target_that_was_restarted(
    rig: Rig,
) -> None:
    ended = "SELECT count(*) FROM peersync.full_sync_sessions WHERE completed_at IS NOT NULL"
    with rig.final_held() as job:
        rig.source.kill()
    eventually("its end is recorded", lambda: rig.target.database.psql(ended) == "1")
    rig.target.kill()
    rig.source.start()
    assert anger.given(rig, job)["state"] in ("planned", "running")
    rig.target.start()
    anger.assert_both_say(rig, job, "done")
    rig.assert_clean()


def test_a_database_that_was_away_does_not_count_as_so_many_deaths(rig: Rig) -> None:
    """Twenty deaths end a session. Asking in vain, every half second, is none."""
    with rig.transfer_held() as job:
        cluster = rig.target.database.cluster
        cluster.stop("immediate")
        rig.proxy.heal()
        tries = f"session {job}: "
        eventually("it has tried", lambda: rig.target.log.count(tries) >= 6)
        cluster.start()
    assert rig.done(job)["progress"]["resumed"] == 1
