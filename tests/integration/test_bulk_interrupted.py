"""Bulk syncs that are stopped in the middle, and two at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.agent.orchestration.bulk_outcome import BulkView
from tests.integration.bulk_rig import NAMES, Rig, bulk_rig
from tests.integration.shared_pair import wait_until
from tests.plugins.clusters import GetCluster

CUT = dict(zip(NAMES, ("success", "skipped", "interrupted", "not_run", "not_run"), strict=True))


@pytest.fixture(scope="module")
def rig(clusters: GetCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with bulk_rig(clusters, tmp_path_factory.mktemp("bulk")) as made:
        yield made


def states(view: BulkView) -> dict[str, str]:
    return {one.database: one.status for one in view.databases}


def complete(rig: Rig, view: BulkView) -> str:
    """How the complete sync of crm ended, by its own record."""
    run = next(one.complete_id for one in view.databases if one.database == "crm")
    return rig.ours["crm"].psql(
        f"SELECT status FROM peersync.complete_syncs WHERE complete_id = '{run}'"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_done_and_marks_the_rest(rig: Rig, number: signal.Signals) -> None:
    key = rig.write("shop")
    with rig.stuck_in("crm") as process:
        began = time.monotonic()
        process.send_signal(number)
        out, err = (text.decode() for text in process.communicate(timeout=20))
        assert time.monotonic() - began < 10, "it does not wait for the lock"
    assert process.returncode == 130, err
    lines = out.splitlines()
    assert lines[0].startswith("[1/5] ✓ shop – 1 peer, ")
    assert lines[2].startswith("[3/5] ✗ crm – interrupted")
    assert lines[3] == "[4/5] ○ broken – not run: the bulk sync was interrupted"
    assert lines[6].split()[:5] == ["5", "1", "0", "1", "3"]
    view = rig.runs()[0]
    assert (view.status, view.success, states(view)) == ("interrupted", False, CUT)
    assert view.completed_at is not None
    assert complete(rig, view) == "interrupted"
    assert rig.has("shop", key)


def test_a_second_ctrl_c_does_not_wait_for_an_agent_that_hangs(rig: Rig) -> None:
    agent = rig.node.process
    assert agent is not None
    with rig.stuck_in("crm", "-q") as process:
        agent.send_signal(signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
        finally:
            agent.send_signal(signal.SIGCONT)
    assert process.returncode == 130
    assert b"left before the bulk sync had ended" in err
    wait_until(lambda: rig.runs()[0].status != "running")


def test_a_second_run_is_refused_and_names_the_first(rig: Rig) -> None:
    with rig.stuck_in("crm", "-q") as process:
        first = rig.runs()[0]
        assert first.status == "running"
        second = rig.node.run("bulk-sync", "--json", check=False)
        assert second.code == 1
        assert second.json["error"]["data"]["holder"] == first.id
        assert f"bulk sync {first.id[:8]} runs already" in second.err
        assert "now at crm" in second.err
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert [run.id for run in rig.runs()].count(first.id) == 1
    assert rig.node.run("bulk-sync", "--databases", "shop").code == 0, "its place is free again"


@pytest.fixture
def own_rig(clusters: GetCluster, tmp_path: Path) -> Iterator[Rig]:
    """For a test that starts an agent: it must not outlive the test."""
    with bulk_rig(clusters, tmp_path, prefix="own") as made:
        yield made


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_run_whose_agent_ends_is_interrupted_afterwards(own_rig: Rig, end: str) -> None:
    rig = own_rig
    with rig.stuck_in("crm", "-q") as process:
        started = rig.runs()[0]
        getattr(rig.node, end)()
        rig.node.start()
        _, err = process.communicate(timeout=20)
        assert process.returncode == 1, err  # 130 is for who stopped it
        assert b"interrupted: 1 successful, 0 failed, 1 skipped, 3 not run" in err
    view = rig.runs()[0]
    assert (view.id, view.status, states(view)) == (started.id, "interrupted", CUT)
    assert (view.completed_at is None) == (end == "kill")
    wait_until(lambda: complete(rig, view) == "interrupted")
    assert rig.node.run("bulk-sync", "--databases", "shop,crm", check=False).code == 1
    assert rig.runs()[0].successful == 1
