"""The ends of runs as they are told: what failed, why, and what to type."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from peersync.agent.jobview import JobView
from peersync.agent.notify.ended import of_bulk, of_complete, of_job, of_set
from peersync.agent.orchestration.bulk_outcome import BulkDatabase, BulkView
from peersync.agent.orchestration.outcome import CompleteView, PeerResult
from peersync.core.results import ErrorRecord
from peersync.postgres.sets import SetRun

T0 = 1_700_000_000.0
ERROR = ErrorRecord("failed", "it broke", "as the database says")


def a_job(state: str) -> JobView:
    error = ERROR if state == "failed" else None
    return JobView(
        id="0123456789abcdef" * 2, kind="full-sync", role="target", action="pull",
        database="shop", peer="server-b", state=state, progress=None, tables=[], seconds={},
        error=error, requested_by="me", started_at="", completed_at="",
    )  # fmt: skip


def a_complete(status: Any, sync_type: str = "scheduled") -> CompleteView:
    bad = PeerResult(peer="server-c", way="periodic", status="error", error=ERROR)
    good = PeerResult(peer="server-b", way="periodic", status="success")
    return CompleteView(
        id="abc", database="shop", node="server-a", sync_type=sync_type, status=status,
        requested_by="me", bulk=None, retry_of=None, started_at="", completed_at="", seconds=1.0,
        peers_total=2, peers_successful=1, peers_failed=1, peers_skipped=0, rows=7, raw_bytes=0,
        wire_bytes=0, cost=0.0, currency="", peers=[good] if status == "success" else [good, bad],
        configuration={},
    )  # fmt: skip


def a_bulk(status: Any, *databases: BulkDatabase) -> BulkView:
    return BulkView(
        id="abc", node="server-a", status=status, success=status == "success", message="words",
        sync_type="scheduled", requested_by="me", started_at="", completed_at="", duration_s=1.0,
        total=1, successful=0, failed=1, skipped=0, not_run=0, rows=7, wire_bytes=0, cost=0.0,
        currency="", databases=databases,
    )  # fmt: skip


def test_a_complete_sync_names_the_peers_that_failed_and_how_to_try_them_again() -> None:
    fact = of_complete(a_complete("partial")).fact(T0)
    assert fact is not None
    assert (fact.event, fact.sticky) == ("partial", True)
    assert fact.problem == "server-c: it broke: as the database says"
    assert fact.hint == "peersync complete-sync --database shop --retry-failed abc"


def test_one_that_went_well_is_told_with_its_rows_and_ends_the_one_before() -> None:
    ended = of_complete(a_complete("success"))
    fact = ended.fact(T0)
    assert fact is not None
    assert (fact.event, fact.sticky, fact.impact) == ("completed", False, "7 rows came or went")
    assert ended.key == of_complete(a_complete("error")).key


def test_a_peer_that_is_passed_over_after_errors_is_named_and_ends_no_trouble() -> None:
    often = PeerResult(
        peer="server-c", way="periodic", status="skipped", reason="3 errors in a row",
        error=ErrorRecord("passed-over", "3 errors in a row"),
    )  # fmt: skip
    view = msgspec.structs.replace(a_complete("success"), status="partial")
    fact = of_complete(msgspec.structs.replace(view, peers=[*view.peers, often])).fact(T0)
    assert fact is not None
    assert (fact.event, fact.problem) == ("partial", "server-c: 3 errors in a row")


def test_where_every_peer_is_paused_nothing_is_said() -> None:
    rests = PeerResult(peer="server-c", way="periodic", status="skipped", reason="it is paused")
    view = msgspec.structs.replace(
        a_complete("partial"), peers=[rests], peers_total=1, peers_skipped=1
    )
    assert of_complete(view).fact(T0) is None


def test_one_that_was_typed_does_not_last() -> None:
    fact = of_complete(a_complete("interrupted", "manual")).fact(T0)
    assert fact is not None
    assert (fact.event, fact.sticky) == ("failed", False)


@pytest.mark.parametrize(("shown", "event"), [(True, None), (False, "failed")])
def test_a_full_sync_that_failed_is_told_by_the_status_or_else_here(
    shown: bool, event: str | None
) -> None:
    fact = of_job(a_job("failed"), shown=shown).fact(T0)
    assert (fact.event if fact else None) == event
    assert of_job(a_job("cancelled"), shown=False).fact(T0) is None


def test_a_bulk_sync_tells_only_what_no_complete_sync_has_told() -> None:
    told = BulkDatabase(database="shop", status="error", complete_id="abc", error=ERROR)
    assert of_bulk(a_bulk("error", told)).fact(T0) is None
    untold = BulkDatabase(database="crm", status="error", error=ERROR)
    fact = of_bulk(a_bulk("error", told, untold)).fact(T0)
    assert fact is not None
    assert fact.problem == "crm: it broke: as the database says"
    cut = of_bulk(a_bulk("interrupted")).fact(T0)
    assert cut is not None
    assert (cut.event, cut.problem) == ("failed", "words")


def test_a_table_set_is_told_for_each_peer() -> None:
    run = SetRun(
        id=1, set="orders", database="shop", method="full", peer="server-b", direction="pull",
        sync_type="scheduled", requested_by="", status="error", error=ERROR, started_at="",
    )  # fmt: skip
    fact = of_set(run).fact(T0)
    assert fact is not None
    assert (fact.key, fact.hint) == ("set/orders/server-b", "peersync run --set orders --force")
