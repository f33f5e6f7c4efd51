"""Both ends of a push in every step: who dies, stops or cancels, and what the other one says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.fault import anger
from tests.fault.anger import Pushing
from tests.fault.rig import NEW, OLD, Refused, Rig, ask, eventually, free_port
from tests.fault.test_commit import commit_held, let_commit
from tests.fault.test_network import with_settings
from tests.plugins.clusters import Database
from tests.plugins.nodes import Node

STEPS = ["gate", "dump", "transfer", "final", "before_commit"]
OPEN = ("planned", "running")
LEASE_KEY = "x'70737963'::int, pg_catalog.hashtext('full_sync')"


@pytest.fixture
def push(rig: Rig) -> Pushing:
    return anger.pushing(rig)


def held(rig: Rig, step: str) -> AbstractContextManager[str]:
    found: AbstractContextManager[str] = {
        "gate": rig.gate,
        "dump": rig.dump_held,
        "transfer": rig.transfer_held,
        "final": rig.final_held,
        "before_commit": rig.before_commit_held,
    }[step]()
    return found


@pytest.mark.parametrize(
    ("side", "step"),
    [*(("target", step) for step in STEPS), *(("source", step) for step in STEPS[1:4])],
)
def test_p20_a_push_whose_agent_dies_is_shown_truly_and_ends_well(
    push: Pushing, side: str, step: str
) -> None:
    dies, lives = (push.source, push.target) if side == "source" else (push.target, push.source)
    with held(push, step) as job:
        dies.kill()
        assert ask(lives, "GET", f"/api/admin/jobs/{job}")["state"] in OPEN
        assert push.target.database.psql("SELECT count(*) FROM items") == "500"
        push.proxy.cut()
        dies.start()
        eventually(
            "the one that died knows it, too",
            lambda: ask(dies, "GET", f"/api/admin/jobs/{job}")["state"] in OPEN,
        )
        if step == "gate":
            push.open_gate()
    push.done(job)
    anger.assert_both_say(push, job, "done")


@pytest.mark.parametrize(
    ("side", "step"), [("source", "gate"), ("target", "gate"), ("target", "before_commit")]
)
def test_a_stop_in_a_step_is_quick_and_the_session_goes_on(rig: Rig, side: str, step: str) -> None:
    node: Node = getattr(rig, side)
    with held(rig, step) as job:
        begun = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - begun < 10
        node.start()
        if step == "gate":
            rig.open_gate()
    rig.done(job)
    anger.assert_both_say(rig, job, "done")


def test_p1_a_stop_while_it_commits(push: Pushing) -> None:
    with commit_held(push) as (job, other):
        begun = time.monotonic()
        assert push.target.stop() == 0
        assert time.monotonic() - begun < 10
        assert push.state() == OLD
        let_commit(other)
        push.target.start()
    push.done(job)
    anger.assert_both_say(push, job, "done")


def test_a_cancel_from_the_source_while_it_commits(push: Pushing) -> None:
    with commit_held(push) as (job, other):
        ask(push.source, "POST", f"/api/admin/jobs/{job}/cancel")
        let_commit(other)
    state = push.end(job)["state"]
    assert (state, push.state()) in [("done", NEW), ("cancelled", OLD)]
    anger.assert_both_say(push, job, state)
    push.assert_clean()


# --- resumed, from either end -----------------------------------------------------------------
def test_a_push_fails_twice_and_is_resumed_from_either_end(push: Pushing) -> None:
    with push.transfer_held() as job:
        anger.fail(push)
    push.failed(job)
    anger.assert_both_say(push, job, "failed")
    assert anger.given(push, job)["resumable"]
    patience = with_settings(push, full_sync_lock_timeout_s="3")
    with patience, push.sql(push.target) as user:
        user.execute("UPDATE items SET v = 0 WHERE id = 1")
        ask(push.source, "POST", f"/api/admin/jobs/{job}/resume")
        push.waits(push.target, "peersync/restore/%")
        anger.assert_both_say(push, job, "running")
        assert "items" in str(push.end(job)["error"])
        anger.assert_both_say(push, job, "failed")
    resumed = push.target.run("jobs", "resume", job[:8], "--json").json
    assert resumed["saved_bytes"] >= anger.transfer_bytes(push.done(job))
    anger.assert_both_say(push, job, "done")


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_cancel_while_it_is_taken_up_again(push: Pushing, side: str) -> None:
    with push.transfer_held() as job:
        anger.fail(push)
    push.failed(job)
    anger.assert_both_say(push, job, "failed")
    node: Node = getattr(push, side)
    ask(node, "POST", f"/api/admin/jobs/{job}/resume")
    ask(node, "POST", f"/api/admin/jobs/{job}/cancel")
    state = push.end(job)["state"]
    assert (state, push.state()) in [("done", NEW), ("cancelled", OLD)]
    anger.assert_both_say(push, job, state)
    push.assert_clean()


def test_a_cancel_is_heard_while_the_database_is_not_free_to_go_on(rig: Rig) -> None:
    """What the killed agent had begun still holds the lease: nothing is taken up yet."""
    with rig.sql(rig.target) as other:
        with rig.transfer_held() as job:
            rig.target.kill()
            rig.proxy.cut()
        lock = f"SELECT pg_try_advisory_lock({LEASE_KEY})".encode()
        eventually("the lease is ours", lambda: (other.execute(lock).fetchone() or [0])[0])
        other.commit()
        rig.target.start()
        assert ask(rig.target, "POST", f"/api/admin/jobs/{job}/cancel")["state"] == "cancelling"
        assert rig.view(job)["state"] == "cancelling"
        other.execute(f"SELECT pg_advisory_unlock({LEASE_KEY})".encode())
    assert rig.end(job)["state"] == "cancelled"
    assert rig.state() == OLD


# --- two at once --------------------------------------------------------------------------------
def test_a_push_that_meets_a_pull_is_refused_and_leaves_no_record(rig: Rig) -> None:
    with rig.transfer_held() as job:
        with pytest.raises(Refused) as refused:
            anger.begin(rig, "push")
        assert refused.value.status == 409
        assert job in str(refused.value.problem)
        jobs = ask(rig.source, "GET", "/api/admin/jobs")
        assert [found["id"] for found in jobs] == [job]
    rig.done(job)
    anger.assert_both_say(rig, job, "done")


def test_two_peers_one_after_the_other(rig: Rig) -> None:
    """The second pull is told who is at it, and takes its own rows when the first has ended."""
    with third(rig) as other:
        with rig.transfer_held() as job:
            command = rig.target.pull(other.name, check=False)
            assert command.code == 6
            assert job in command.err
        rig.done(job)
        assert rig.target.pull(other.name).json["result"] == "done"
    assert rig.target.database.psql("SELECT v FROM notes WHERE id = 1") == "9"
    assert rig.target.database.psql("SELECT count(*) FROM notes") == "100"


@contextmanager
def third(rig: Rig) -> Iterator[Node]:
    """A third node with one note of its own, known to the target."""
    cluster = rig.source.database.cluster
    cluster.createdb("anger_c")
    database = Database(cluster, "anger_c")
    database.psql("CREATE TABLE notes (id int PRIMARY KEY, v int NOT NULL)")
    database.psql("INSERT INTO notes VALUES (1, 9)")
    home = rig.target.home.parent / f"third-{free_port()}"
    home.mkdir()
    node = Node("server-c", database, home)
    try:
        node.init()
        node.start()
        rig.target.run("peer", "join", node.invite())
        yield node
    finally:
        node.close()
        cluster.dropdb("anger_c")
