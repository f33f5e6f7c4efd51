"""The state of a link is the worst thing that is known, and "in sync" is proved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from peersync.agent.periodic.hub import NOTHING, Backlog, Link
from peersync.agent.periodic.links import Facts, Local, judge, linked, view
from peersync.agent.periodic.messages import PositionReply
from peersync.agent.periodic.restart import Failures
from peersync.config.model import Config
from peersync.core.errors import Denied, PeersyncError, PeerUnreachable
from peersync.postgres.log.members import Member, Replica
from peersync.transport.peers import Peer

NOW = 1_000_000.0
PEER = Peer(name="server-b", node_id="b" * 64, cert_pem="", address=None, added_at="")
REPLICA = Replica("g", 1, "a" * 64, "active", None, 5, 0)
MEMBER = Member(2, "b" * 64, "server-b", "member", 7, 0, 0, {}, None, None)
LOCAL = Local(REPLICA, [MEMBER], {1: 5, 2: 7}, {}, {}, 0, 0, running=True)
ANSWER = PositionReply(group="g", origin=2, vector={1: 5, 2: 7}, unix_time=NOW, hlc=0)
WELL = Facts(PEER, MEMBER, LOCAL, ANSWER, now=NOW)


def answer(**changes: Any) -> PositionReply:
    values = {name: getattr(ANSWER, name) for name in ANSWER.__struct_fields__}
    return PositionReply(**{**values, **changes})


def failing(error: PeersyncError) -> Link:
    trouble = Failures("shop from server-b", Config())
    trouble.note(error)
    return Link("server-b", "b" * 64, 2, trouble)


def facts(**changes: Any) -> Facts:
    local = {k: changes.pop(k) for k in list(changes) if k in LOCAL.__dataclass_fields__}
    return replace(WELL, local=replace(LOCAL, **local), **changes)


@pytest.mark.parametrize(
    ("known", "state", "word"),
    [
        (WELL, "in sync", ""),
        (facts(backlog=Backlog(3, 0, None)), "in sync", ""),  # heartbeats are no backlog
        (facts(answer=answer(pending_changes=2, oldest=NOW - 1)), "syncing", "2 changes to take"),
        (facts(backlog=Backlog(1, 9, NOW - 1)), "syncing", "9 to give"),
        (facts(backlog=Backlog(1, 9, NOW - 31)), "behind", "9 to give"),
        (facts(quarantined=1), "conflict", "1 change in quarantine"),
        (facts(parked=2), "conflict", "2 tables parked"),
        (facts(answer=answer(quarantined=3)), "conflict", "on server-b 3 changes"),
        (facts(left_out=1), "in sync", "here 1 table left out"),
        (facts(answer=answer(left_out=2)), "in sync", "on server-b 2 tables left out"),
        (facts(uncaptured=1), "in sync", "here the changes of 1 table can't be caught"),
        (facts(conflicts=1), "conflict", "1 conflict waits for you"),
        (facts(answer=PeerUnreachable("gone")), "unreachable", "gone"),
        (facts(answer=PeerUnreachable("gone"), late_s=9e5), "unreachable", "10.4 d"),
        (facts(answer=Denied("not a member yet")), "failed", "not a member"),
        (facts(answer=Denied("paused there", reason="paused")), "paused", "paused there"),
        (facts(link=failing(PeersyncError("its clock"))), "failed", "its clock"),
        (facts(link=failing(PeerUnreachable("was gone"))), "in sync", ""),  # it answers now
        (facts(failure=PeersyncError("no publisher")), "failed", "no publisher"),
        (facts(running=False), "failed", "no process runs"),
        (facts(running=False, idle_at=NOW - 3), "syncing", "about to begin"),
        (facts(running=False, idle_at=NOW - 60), "failed", "no process runs"),
        (facts(paused={"b" * 64: "me"}, answer=None), "paused", ""),
        (facts(replica=replace(REPLICA, state="held", reason="older")), "failed", "older"),
        (facts(member=replace(MEMBER, state="expired"), answer=None), "expired", "was expired"),
    ],
)
def test_the_worst_reason_is_the_state(known: Facts, state: str, word: str) -> None:
    said, problem, _hint = judge("shop", known)
    assert said == state
    assert word in (problem or "")


def test_what_waits_is_listed_where_the_hint_says() -> None:
    def hint(known: Facts) -> str | None:
        return judge("shop", known)[2]

    own = replace(MEMBER, origin=1, node_id="a" * 64, node_name="server-a")
    assert hint(facts(parked=1, quarantined=2)) == "peersync tables list --database shop"
    assert hint(facts(quarantined=2)) == "peersync quarantine list --database shop"
    parked = facts(answer=answer(parked=1, quarantined=2))
    assert hint(parked) == "on server-b: peersync tables list --database shop"
    expired = facts(members=[own], member=replace(MEMBER, state="expired"), answer=None)
    assert hint(expired) == "on server-b: peersync rebaseline server-a --database shop"


def test_one_trouble_does_not_hide_another() -> None:
    def said(**known: Any) -> str | None:
        return judge("shop", facts(**known))[1]

    assert said(parked=1, conflicts=1) == "1 table parked, 1 conflict waits for you"
    theirs = answer(parked=1, quarantined=3, left_out=1)
    assert said(quarantined=1, conflicts=2, answer=theirs) == (
        "1 change in quarantine, 2 conflicts wait for you; "
        "on server-b 1 table parked, 3 changes in quarantine; on server-b 1 table left out"
    )
    gone = said(conflicts=1, answer=PeerUnreachable("gone"))
    assert gone == "gone; 1 conflict waits for you"
    hint = judge("shop", facts(parked=1, conflicts=1))[2]
    assert hint == "peersync tables list --database shop"


def test_what_is_not_known_is_not_zero() -> None:
    shown = view("shop", facts(answer=PeerUnreachable("gone")))
    assert (shown.to_take, shown.to_give, shown.lag_s, shown.peer_lag_s) == (None,) * 4
    shown = view("shop", facts(answer=PeerUnreachable("gone"), backlog=Backlog(1, 4, NOW - 7)))
    assert (shown.to_take, shown.to_give, shown.peer_lag_s) == (None, 4, 7.0)
    shown = view("shop", facts(backlog=NOTHING))
    assert (shown.to_take, shown.to_give, shown.lag_s, shown.peer_lag_s) == (0, 0, 0.0, 0.0)


def test_a_peer_that_came_back_with_a_new_origin_is_linked_under_that() -> None:
    expired = replace(MEMBER, origin=9, state="expired")
    local = replace(LOCAL, members=[MEMBER, expired])
    assert [m.origin for _, m in linked(local, [PEER])] == [2]
    local = replace(LOCAL, members=[expired])
    assert [m.origin for _, m in linked(local, [PEER])] == [9]
    assert linked(replace(LOCAL, members=[]), [PEER]) == []
