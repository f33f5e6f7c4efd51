"""One sentence says whether everything is fine, and it never says more than is known."""

from __future__ import annotations

import msgspec
import pytest

from peersync.agent.jobview import JobView
from peersync.agent.link_status import link_status
from peersync.agent.proof.view import ProofSummary
from peersync.agent.status_sentence import FINE, ORDER, _sentence, is_fine, sentence
from peersync.agent.status_view import DatabaseStatus, LinkStatus
from peersync.core.errors import PeerUnreachable
from peersync.core.results import ErrorRecord
from peersync.transport.peers import Peer

UP = DatabaseStatus(name="shop", reachable=True)
DOWN = DatabaseStatus(name="shop", reachable=False, problem="no")
NOW = "2026-11-22T12:00:00+00:00"
BEFORE = "2026-11-22T11:57:00+00:00"


def link(state: str, peer: str = "server-a", database: str = "shop") -> LinkStatus:
    return LinkStatus(
        database=database, peer=peer, state=state, last_sync=BEFORE, last_given=BEFORE
    )


@pytest.mark.parametrize(
    ("databases", "links", "sentence"),
    [
        ([], [], "No database is configured."),
        ([UP], [], "No peer is known yet."),
        ([DOWN], [], "Database shop can't be reached."),
        ([DOWN, DOWN], [link("failed")], "Database shop can't be reached, and 1 more."),
        ([UP], [link("never synced")], "shop was never synced with server-a."),
        ([UP], [link("never synced"), link("synced", "c")], "1 of 2 links were never synced."),
        ([UP], [link("failed")], "The last sync of shop from server-a failed."),
        (
            [UP],
            [link("failed"), link("failed", "c"), link("unreachable", "d")],
            "The last sync of shop from server-a failed, and 1 more.",
        ),
        ([UP], [link("partly")], "The last sync of shop from server-a left tables or rows out."),
        ([UP], [link("unreachable")], "server-a can't be reached."),
        (
            [UP],
            [link("unreachable"), link("unreachable", database="log")],
            "server-a can't be reached.",
        ),
        (
            [UP],
            [link("unreachable"), link("unreachable", "server-c")],
            "server-a can't be reached, and 1 more.",
        ),
        ([UP], [link("given")], "shop was given to server-a 3 min ago."),
        ([UP], [link("giving")], "server-a is taking shop from here."),
        ([UP], [link("giving"), link("syncing", "c")], "2 full syncs running."),
        ([UP], [link("given"), link("given", "c")], "All 2 links were given; see below when."),
        (
            [UP],
            [link("given"), link("synced", "c")],
            "All 2 links are fine: 1 synced from peers, 1 given to peers; see below when.",
        ),
        ([UP], [link("syncing"), link("never synced", "c")], "1 of 2 links were never synced."),
        ([UP], [link("unknown")], "Whether shop was ever synced with server-a is not known."),
        ([UP], [link("syncing")], "1 full sync running."),
        ([UP], [link("syncing"), link("syncing", "c")], "2 full syncs running."),
        ([UP], [link("synced")], "shop was synced from server-a 3 min ago."),
        ([UP], [link("synced"), link("synced", "c")], "All 2 links were synced; see below when."),
    ],
)  # fmt: skip
def test_the_worst_comes_first(
    databases: list[DatabaseStatus],
    links: list[LinkStatus],
    sentence: str,
) -> None:
    assert _sentence(databases, links, NOW) == sentence


# --- what a link is, from what was recorded ------------------------------------------------
def past(role: str, state: str, *, hour: int = 1, peer: str = "server-b") -> JobView:
    return JobView(
        id=f"{hour:032x}",
        kind="full-sync",
        role=role,
        action="pull",
        database="shop",
        peer=peer,
        state=state,
        progress=None,
        tables=[],
        seconds={},
        error=ErrorRecord("database", "it broke") if state == "failed" else None,
        requested_by="root",
        started_at=f"2026-11-22T{hour:02}:00:00+00:00",
        completed_at=f"2026-11-22T{hour:02}:30:00+00:00",
    )


def seen(
    *entries: JobView, now: str | None = None, away: bool = False, address: str | None = "b:1"
) -> LinkStatus:
    """The link of shop with server-b; the entries are given newest first, as in history."""
    peer = Peer(name="server-b", node_id="b" * 64, cert_pem="", address=address, added_at="")
    unreachable = PeerUnreachable("server-b does not answer", hint="look") if away else None
    return link_status("server-a", "shop", peer, unreachable, list(entries), now)


def test_a_node_that_only_gives_is_fine_and_is_not_told_to_take_the_copy_back() -> None:
    link = seen(past("source", "done", hour=2), past("source", "failed"))
    assert (link.state, link.hint, link.problem) == ("given", None, None)
    assert (link.last_given, link.last_sync) == ("2026-11-22T02:30:00+00:00", None)
    assert link.state in FINE


def test_where_nothing_was_ever_synced_both_ways_are_offered() -> None:
    link = seen(past("source", "done", peer="server-c"))
    assert link.state == "never synced"
    assert link.hint is not None
    assert "peersync pull server-b --database shop" in link.hint
    assert "on server-b: peersync pull server-a --database shop" in link.hint
    hidden = seen(address=None, away=True)
    assert (hidden.state, hidden.hint) == (
        "never synced",
        "on server-b: peersync pull server-a --database shop",
    )


@pytest.mark.parametrize(
    ("entries", "now", "state"),
    [
        ([past("source", "failed", hour=2), past("source", "done")], None, "failed"),
        ([past("source", "partly")], None, "partly"),
        ([past("source", "cancelled", hour=2), past("source", "done")], None, "given"),
        ([past("source", "cancelled")], None, "never synced"),
        ([past("target", "cancelled", hour=2), past("target", "failed")], None, "failed"),
        ([past("target", "done", hour=2), past("source", "failed")], None, "failed"),
        ([past("target", "partly", hour=2), past("source", "failed")], None, "failed"),
        ([past("target", "done", hour=2), past("source", "done")], None, "synced"),
        ([past("source", "failed")], "giving", "giving"),
        ([past("target", "failed")], "syncing", "syncing"),
        ([past("target", "failed")], "giving", "failed"),
        ([], "giving", "giving"),
    ],
)
def test_a_link_is_as_well_as_the_worse_of_its_two_ways(
    entries: list[JobView], now: str | None, state: str
) -> None:
    assert seen(*entries, now=now).state == state
    assert state in ORDER


def test_what_failed_is_looked_at_where_it_failed() -> None:
    gave = seen(past("source", "failed"))
    assert gave.hint == "on server-b: peersync jobs show 00000000"
    assert _sentence([UP], [gave], NOW) == "The last sync of shop to server-b failed."
    took = seen(past("target", "failed"), past("source", "done"))
    assert took.hint == "peersync jobs show 00000000"
    assert _sentence([UP], [took], NOW) == "The last sync of shop from server-b failed."


def test_a_peer_that_can_only_come_to_us_is_not_missed() -> None:
    assert seen(past("source", "done"), away=True).state == "unreachable"
    assert seen(past("source", "done"), away=True, address=None).state == "given"


def test_a_history_that_is_too_long_to_read_is_not_never() -> None:
    others = [past("source", "done", peer="server-c")] * 200
    assert seen(*others).state == "unknown"


def test_what_a_verification_found_to_differ_is_not_fine() -> None:
    proof = ProofSummary(checked_at=BEFORE, differs_since=BEFORE, differing=1)
    links = [msgspec.structs.replace(link("in sync"), proof=proof)]
    assert not is_fine([UP], links)
    assert sentence([UP], links).startswith("shop differs from server-a, as was found ")
    assert is_fine([UP], [msgspec.structs.replace(links[0], proof=None)])
