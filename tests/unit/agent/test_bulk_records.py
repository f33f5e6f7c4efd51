"""Bulk syncs: how runs are counted and how they end, and the files that remember them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peersync.agent.orchestration.bulk_outcome import (
    BulkDatabase,
    BulkView,
    DatabaseRun,
    ended,
    idle,
    left,
    outcome,
    summed,
)
from peersync.agent.orchestration.bulk_records import KEPT, BulkRecords
from peersync.agent.orchestration.outcome import (
    CompletePlan,
    CompleteView,
    PeerResult,
    PlannedPeer,
)
from peersync.core.errors import BadRequest, NotFound
from peersync.core.results import ErrorRecord

STATES = get_args(DatabaseRun)
DEAD = ErrorRecord("peer-unreachable", "server-c cannot be reached")
runs = st.lists(
    st.builds(
        BulkDatabase,
        database=st.just("shop"),
        status=st.sampled_from(STATES),
        rows=st.integers(0, 10**12),
        cost=st.integers(0, 10**9).map(lambda millionths: millionths / 10**6),
    ),
    max_size=8,
).map(tuple)


def view(number: int = 1, *databases: BulkDatabase) -> BulkView:
    empty = BulkView(
        id=f"{number:032x}", node="server-b", status="running", success=False, message="",
        sync_type="manual", requested_by="me", completed_at=None, duration_s=0.0, total=0,
        started_at=f"2026-11-22T02:{number // 60:02}:{number % 60:02}.847+00:00", successful=0,
        failed=0, skipped=0, not_run=0, rows=0, wire_bytes=0, cost=0.0, currency="", databases=(),
    )  # fmt: skip
    return summed(empty, databases, seconds=1.0)


# --- how a run ends -------------------------------------------------------------------------
@given(runs)
def test_every_database_is_counted_once_and_none_is_left_running(
    databases: tuple[BulkDatabase, ...],
) -> None:
    end = ended(view(1, *databases), at="then", seconds=2.0)
    assert end.total == end.successful + end.failed + end.skipped + end.not_run == len(databases)
    assert not {one.status for one in end.databases} & {"waiting", "running"}
    assert end.status != "running"
    assert (end.status == "interrupted") == (end.not_run > 0)
    assert end.success == (end.successful > 0 and not end.failed and not end.not_run)
    assert end.rows == sum(one.rows for one in databases)
    assert round(end.cost * 10**6) == sum(round(one.cost * 10**6) for one in databases)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (("success", "skipped"), "success"),
        (("success", "error"), "partial"),
        (("partial",), "partial"),
        (("error", "skipped"), "error"),
        (("skipped", "skipped"), "nothing"),
        ((), "nothing"),
        (("success", "running", "waiting"), "interrupted"),
        (("skipped", "not_run"), "interrupted"),
    ],
)
def test_a_run_is_what_became_of_its_databases(
    states: tuple[DatabaseRun, ...], status: str
) -> None:
    databases = [BulkDatabase(database=f"d{i}", status=one) for i, one in enumerate(states)]
    assert ended(view(1, *databases), at=None, seconds=0).status == status


# --- what a complete sync counts as ---------------------------------------------------------
def complete(status: str, *peers: PeerResult) -> CompleteView:
    states = [peer.status for peer in peers]
    fields: dict[str, object] = {
        "id": "c", "database": "shop", "node": "server-b", "sync_type": "manual",
        "status": status, "requested_by": "me", "bulk": "b", "retry_of": None, "started_at": "",
        "completed_at": "", "seconds": 2.5, "peers_total": len(peers),
        "peers_successful": states.count("success"), "peers_failed": states.count("error"),
        "peers_skipped": states.count("skipped"), "rows": 7, "raw_bytes": 9, "wire_bytes": 3,
        "cost": 0.25, "currency": "", "peers": [], "configuration": {},
    }  # fmt: skip
    made = msgspec.convert(fields, CompleteView)
    return msgspec.structs.replace(made, peers=list(peers))


GOOD = PeerResult(peer="server-a", way="periodic", status="success")
BAD = PeerResult(peer="server-c", way="periodic", status="error", error=DEAD)
PASSED = PeerResult(peer="server-d", way="periodic", status="skipped", reason="it is paused")
OFTEN = PeerResult(
    peer="server-d", way="periodic", status="skipped", reason="3 errors in a row",
    error=ErrorRecord("passed-over", "3 errors in a row"),
)  # fmt: skip


def test_a_database_of_which_a_peer_failed_names_it_and_its_error() -> None:
    told = BulkDatabase(
        database="shop", **outcome(complete("partial", GOOD, BAD, PASSED), stopped=False)
    )
    assert (told.status, told.error, told.rows, told.cost) == ("partial", DEAD, 7, 0.25)
    assert told.reason == ("1 of 3 peers failed (server-c); passed over: server-d: it is paused")


def test_a_database_whose_every_peer_is_passed_over_is_skipped() -> None:
    told = outcome(complete("partial", PASSED), stopped=False)
    assert told["status"] == "skipped"
    planned = PlannedPeer(peer="server-d", way="periodic", reason="it is paused")
    plan = CompletePlan(database="shop", peers=[planned], parallel=1)
    assert idle(plan) == "server-d: it is paused"
    assert left(plan) is None


def test_a_database_whose_every_peer_is_passed_over_after_errors_has_failed() -> None:
    assert outcome(complete("partial", OFTEN), stopped=False)["status"] == "partial"
    planned = PlannedPeer(
        peer="server-d", way="periodic", reason="3 errors in a row", after_errors=True
    )
    trouble = left(CompletePlan(database="shop", peers=[planned], parallel=1))
    assert trouble is not None
    assert "server-d: 3 errors in a row" in trouble.message
    assert trouble.hint == "peersync complete-sync --database shop --peers server-d"


def test_a_complete_sync_that_somebody_else_stopped_has_failed() -> None:
    view = complete("interrupted", GOOD)
    assert outcome(view, stopped=True)["status"] == "interrupted"
    told = outcome(view, stopped=False)
    assert (told["status"], told["error"].code) == ("error", "cancelled")


# --- the files ------------------------------------------------------------------------------
def test_the_newest_runs_are_kept_and_the_oldest_forgotten(tmp_path: Path) -> None:
    records = BulkRecords(tmp_path / "bulk")
    for number in range(KEPT + 3):
        records.begin(view(number))
    kept = records.newest(KEPT + 3)
    assert [one.id for one in kept] == [view(n).id for n in range(KEPT + 2, 2, -1)]
    assert records.newest(2) == kept[:2]


def test_a_run_is_written_over_and_found_again_by_another_process(tmp_path: Path) -> None:
    records = BulkRecords(tmp_path)
    records.begin(view(5))
    end = ended(view(5), at="then", seconds=2.0)
    records.write(end)
    again = BulkRecords(tmp_path)
    assert again.newest(10) == [end] == [again.get(end.id)]


def test_an_id_is_found_by_its_beginning_unless_several_have_it(tmp_path: Path) -> None:
    records = BulkRecords(tmp_path)
    one, two = (
        msgspec.structs.replace(view(n), id=c * 4 + "0" * 28) for n, c in ((1, "a"), (2, "b"))
    )
    for run in (one, two, msgspec.structs.replace(view(3), id="b" * 32)):
        records.begin(run)
    assert records.get("aaaa") == one
    assert records.get("bbbb0") == two
    with pytest.raises(BadRequest, match="several"):
        records.get("bbbb")
    with pytest.raises(NotFound):
        records.get("cccc")
    with pytest.raises(BadRequest):
        records.get("../x")


def test_a_damaged_record_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = BulkRecords(tmp_path)
    for number in (1, 2, 3):
        records.begin(view(number))
    damaged, readable = sorted(tmp_path.iterdir())[:2]
    damaged.write_bytes(b"{")
    os.chmod(readable, 0o644)
    assert [one.id for one in records.newest(10)] == [view(3).id]
    assert caplog.text.count("can't be read") == 2
