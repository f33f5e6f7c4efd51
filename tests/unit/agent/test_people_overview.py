"""The overview: worst first, in pages, bounded, and the same when nothing has happened."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from peersync.agent.people.lookout import READ_S, STALE_S, Lookout, _Known
from peersync.agent.people.overview import (
    Facts,
    Overview,
    Waiting,
    make_overview,
    sameness,
)
from peersync.agent.periodic.answers import LinkView
from peersync.agent.status import Look
from peersync.agent.status_sentence import RANK, worst_first
from peersync.agent.status_view import LinkStatus
from peersync.config.model import Config
from peersync.core.progress import Progress


def link(peer: str, database: str = "shop", state: str = "in sync", **periodic: Any) -> LinkStatus:
    view = LinkView(database=database, peer=peer, state=state, **periodic) if periodic else None
    return LinkStatus(database=database, peer=peer, state=state, periodic=view)


def overview(*links: LinkStatus, waiting: Waiting | None = None, **asked: Any) -> Overview:
    return make_overview(facts(*links, waiting=waiting), **asked)


def facts(*links: LinkStatus, waiting: Waiting | None = None, at: str = "now") -> Facts:
    by_peer: dict[str, list[LinkStatus]] = {}
    for one in sorted(links, key=worst_first):
        by_peer.setdefault(one.peer, []).append(one)
    return Facts(
        node="server-a",
        version="1",
        sentence="All 3 links are in sync.",
        fine=True,
        at=at,
        links=by_peer,
        rank=RANK,
        waiting=waiting or Waiting(),
        running=[],
        giving=[],
        history=lambda name: [float(len(name))],
        next_at=lambda _name: None,
    )


def test_a_peer_is_what_its_worst_database_is_and_the_worst_comes_first() -> None:
    seen = overview(
        link("b", "shop", lag_s=0.0, to_take=2, to_give=3),
        link("b", "log", "behind", lag_s=40.0, peer_lag_s=2.0, to_take=5, to_give=None),
        link("c"),
        link("a"),
        link("d", "shop", "failed"),
    )
    assert [(p.peer, p.state) for p in seen.peers] == [
        ("d", "failed"), ("b", "behind"), ("a", "in sync"), ("c", "in sync"),
    ]  # fmt: skip
    behind = seen.peers[1]
    assert (behind.lag_s, behind.rows_waiting, behind.databases_total) == (40.0, 10, 2)
    assert [one.database for one in behind.databases] == ["log", "shop"]
    assert seen.peers[2].lag_s is None
    assert seen.peers[2].rows_waiting is None


def test_the_sentence_says_what_waits_for_a_person_and_how_late_it_is() -> None:
    late = link("b", lag_s=3.4)
    assert overview(link("b", lag_s=0.2)).sentence == "All 3 links are in sync."
    assert overview(late).sentence == "All 3 links are in sync. Worst lag 3 s."
    two = overview(link("b", lag_s=7300.0), waiting=Waiting(conflicts=2))
    assert two.sentence == "All 3 links are in sync. Worst lag 2 h. 2 conflicts wait for you."
    one = overview(link("b"), waiting=Waiting(conflicts=1)).sentence
    assert one.endswith("1 conflict waits for you.")


def test_it_comes_in_pages_and_can_be_narrowed() -> None:
    links = [link(f"server-{n:02}", "shop" if n % 2 else "log") for n in range(10)]
    first, rest = overview(*links, limit=4), overview(*links, limit=4, offset=8)
    assert [p.peer for p in first.peers] == [f"server-{n:02}" for n in range(4)]
    assert [p.peer for p in rest.peers] == ["server-08", "server-09"]
    assert first.peers_total == 10
    assert first.counts.peers == 10
    assert overview(*links, wanted="ver-03").peers_total == 1
    assert overview(*links, wanted="log").peers_total == 5
    assert overview(*links, wanted="failed").peers == []


def test_a_thousand_peers_of_fifty_databases_fit_into_one_small_answer() -> None:
    links = [
        link(f"server-{n}", f"db{d}", lag_s=0.0, last_contact="2026-11-22T15:00:00.000+00:00")
        for n in range(1000)
        for d in range(50)
    ]
    seen = overview(*links)
    assert (len(seen.peers), seen.peers_total, seen.counts.links) == (100, 1000, 50_000)
    assert len(seen.peers[0].databases) == 10
    assert len(msgspec.json.encode(seen)) < 700_000
    assert len(overview(*links, wanted="server-77", limit=5).peers[0].databases) == 50


def test_time_alone_makes_no_news() -> None:
    def at(time: str, lag_s: float = 0.0, percent: float = 1.0) -> Overview:
        moving = Progress(session="1", action="pull", database="shop", source="b", target="a",
                          state="running", percent=percent)  # fmt: skip
        seen = make_overview(facts(link("b", lag_s=lag_s, last_contact=time), at=time))
        return msgspec.structs.replace(seen, running=[moving])

    assert sameness(at("1")) == sameness(at("2", percent=2.0))
    assert sameness(at("1")) != sameness(at("1", lag_s=1.0))


def test_what_a_database_said_long_ago_is_not_shown_as_how_it_is() -> None:
    peer = SimpleNamespace(name="b", node_id="1", address="h:1")
    databases = [SimpleNamespace(name="shop")]
    report = SimpleNamespace(
        node="server-a",
        databases=databases,
        book=SimpleNamespace(peers=lambda: (peer,), get=lambda _name: peer),
        jobs=SimpleNamespace(views=SimpleNamespace(running=list)),
        backups=SimpleNamespace(running=list),
        troubles=tuple,
        proofs={},
    )
    lookout = Lookout(Config(), *[cast(Any, part) for part in (report, None, None, None, None)])
    view = LinkView(database="shop", peer="b", state="in sync")
    look = Look("shop", 0, {}, None, ())
    assert make_overview(lookout.facts()).sentence == "Reading shop …"
    lookout._asked["shop"] = time.monotonic() - READ_S
    assert make_overview(lookout.facts()).sentence == "Database shop can't be reached."
    known = _Known(look, {"b": view}, Waiting(), (), time.monotonic(), 0.01)
    lookout._known["shop"] = known
    assert make_overview(lookout.facts()).sentence == "shop is in sync with b."
    known.at -= STALE_S + 1
    seen = make_overview(lookout.facts())
    assert seen.sentence == "Database shop can't be reached."
    assert (seen.fine, seen.peers[0].state) == (False, "unknown")
