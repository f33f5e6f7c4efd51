"""What PostgreSQL does to our sessions on either side, and a process that was put to sleep."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest

from tests.fault.rig import OLD, Refused, Rig, ask, eventually
from tests.plugins.nodes import Node, free_port

END = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'peersync/{}%'"
)


@pytest.mark.parametrize("kind", ["lease", "load", "pool"])
def test_a_session_of_the_target_is_ended_in_transfer(rig: Rig, kind: str) -> None:
    with rig.transfer_held() as job:
        ended = rig.target.database.psql(END.format(kind))
        assert ended != "0"
    rig.done(job)


def test_the_final_transaction_is_ended(rig: Rig) -> None:
    with rig.final_held() as job:
        assert rig.target.database.psql(END.format("restore")) == "1"
        assert rig.state() == OLD
        eventually("it tries again", lambda: rig.view(job)["progress"]["resumed"] == 1)
    rig.done(job)


def test_the_view_of_the_source_is_ended_while_it_dumps(rig: Rig) -> None:
    with rig.dump_held() as job:
        assert rig.source.database.psql(END.format("backup")) != "0"
    rig.done(job)


@pytest.mark.parametrize("side", ["source", "target"])
def test_postgresql_restarts_in_transfer(rig: Rig, side: Literal["source", "target"]) -> None:
    node: Node = getattr(rig, side)
    with rig.transfer_held() as job:
        node.database.cluster.restart("immediate")
    rig.done(job)


def test_postgresql_of_the_source_restarts_while_it_dumps(rig: Rig) -> None:
    with rig.dump_held() as job:
        rig.source.database.cluster.restart("immediate")
        eventually("the dump begins again", lambda: "starting again" in rig.source.log)
    rig.done(job)


def test_postgresql_of_the_target_is_away_for_a_while(rig: Rig) -> None:
    with rig.transfer_held() as job:
        cluster = rig.target.database.cluster
        cluster.stop("immediate")
        rig.proxy.heal()
        eventually("it is seen", lambda: f"{job}:" in rig.target.log)
        cluster.start()
    rig.done(job)


def test_a_sleeper_finds_its_session_done_by_another_process(rig: Rig) -> None:
    with rig.final_held() as job, asleep(rig):
        twin = start_twin(rig)
        rig.waits(rig.target, "peersync/restore/%")
        # the sleeper's transaction was ended: it would hold the rows for as long as it sleeps
    eventually("the twin is done", lambda: view(twin, job)["state"] == "done")
    rig.target.database.psql("UPDATE items SET v = 7 WHERE id = 1")
    wake(rig)
    assert rig.end(job)["state"] == "done"
    assert rig.target.database.psql("SELECT v FROM items WHERE id = 1") == "7"
    twin.close()
    rig.assert_clean()


def test_a_sleeper_does_not_write_when_another_node_has_come(rig: Rig) -> None:
    with rig.final_held() as job, asleep(rig):
        other = start_other(rig)
        taken = rig.begin(other)
        rig.waits(rig.target, "peersync/restore/%")
    eventually("the other is done", lambda: view(other, taken)["state"] == "done")
    rig.target.database.psql("UPDATE items SET v = 7 WHERE id = 1")
    wake(rig)
    ended = rig.end(job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "locked")
    assert rig.target.database.psql("SELECT v FROM items WHERE id = 1") == "7"
    rig.assert_clean()
    history = {entry["id"]: entry for entry in ask(other, "GET", "/api/sync/history")}
    assert taken in history[job]["error"]["message"]
    other.close()


@contextmanager
def asleep(rig: Rig) -> Iterator[None]:
    """The target's agent is stopped, and has lost its lease's connection."""
    assert rig.target.process is not None
    os.kill(rig.target.process.pid, signal.SIGSTOP)
    rig.target.database.psql(END.format("lease"))
    yield


def wake(rig: Rig) -> None:
    assert rig.target.process is not None
    os.kill(rig.target.process.pid, signal.SIGCONT)


def view(node: Node, job: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(node, "GET", f"/api/admin/jobs/{job}")
    return found


def test_a_fence_that_was_raised_stops_the_session(rig: Rig) -> None:
    with rig.transfer_held() as job:
        rig.target.database.psql("UPDATE peersync.leases SET fence = fence + 1")
        rig.failed(job)
    assert rig.view(job)["error"]["code"] == "locked"


def test_a_second_agent_leaves_a_running_session_alone(rig: Rig) -> None:
    with rig.transfer_held() as job:
        twin = start_twin(rig)
        with pytest.raises(Refused, match=f"409.*{job}"):
            rig.begin(twin)
        twin.close()
        assert rig.view(job)["state"] == "running"
    rig.done(job)


def start_twin(rig: Rig) -> Node:
    """A second agent with a copy of the target's configuration and state."""
    target = rig.target
    home = target.home.parent / f"twin-{free_port()}"
    shutil.copytree(target.home / "state", home / "state", ignore=shutil.ignore_patterns("spool"))
    twin = Node("server-b", target.database, home)
    text = target.config.read_text()
    for mine, theirs in (
        (str(target.home), str(home)),
        (target.listen, twin.listen),
        (target.admin, twin.admin),
    ):
        text = text.replace(mine, theirs)
    twin.config.write_text(text)
    twin.env = target.env
    rig.extra.append(twin)
    twin.start()
    return twin


def start_other(rig: Rig) -> Node:
    """Another node on the database of the target."""
    home = rig.target.home.parent / f"other-{free_port()}"
    home.mkdir()
    other = Node("server-c", rig.target.database, home, env=rig.target.env)
    rig.extra.append(other)
    other.init()
    other.start()
    other.run("peer", "join", rig.source.invite())
    return other
