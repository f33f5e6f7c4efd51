"""An invitation that asks first: who uses it waits for a person, and nobody gets in without."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peersync.cli.peer_cmd import AGAIN_S
from peersync.core.errors import Denied, Locked, NotFound, PairingWaits
from peersync.transport.invites import KEEP_ENDED_S, MAX_WAITING_EACH
from peersync.transport.peer_routes import PING_PATH, Pong
from tests.integration.periodic_rig import wait_until
from tests.integration.test_pairing import Clock, Nodes
from tests.integration.two_nodes import Node, listening, set_up
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def nodes(tmp_path: Path, clock: Clock) -> AsyncIterator[Nodes]:
    names = ("server-a", "server-b", "server-c")
    a, b, c = [await asyncio.to_thread(set_up, tmp_path, name, clock) for name in names]
    async with listening(a), listening(b), listening(c):
        yield a, b, c


async def asking_line(node: Node) -> str:
    invite, _ = await node.desk.invite(confirm=True, by="anna")
    return invite.line()


async def test_who_uses_it_is_a_peer_only_once_somebody_has_accepted(nodes: Nodes) -> None:
    a, b, _ = nodes
    line = await asking_line(a)
    for _ in range(2):  # to ask again changes nothing
        with pytest.raises(PairingWaits, match="asks an admin there first") as waits:
            await b.desk.join(line)
        assert waits.value.data["short_id"] == b.identity.short_id
    assert a.book.peers() == b.book.peers() == ()
    ((invite, waiting),) = a.desk.pending()
    assert (waiting.request.name, waiting.joiner) == ("server-b", b.identity.certificate_id)
    assert (waiting.came_from, invite.made_by) == ("127.0.0.1", "anna")

    await a.desk.accept(b.identity.short_id)
    assert a.desk.pending() == []
    await b.desk.join(line)
    async with a.client("server-b") as to_b, b.client("server-a") as to_a:
        assert (await to_b.call("GET", PING_PATH, None, Pong)).name == "server-b"
        assert (await to_a.call("GET", PING_PATH, None, Pong)).name == "server-a"


async def test_who_was_refused_gets_nothing_and_another_may_still_ask(nodes: Nodes) -> None:
    a, b, c = nodes
    line = await asking_line(a)
    for joiner in (b, c):
        with pytest.raises(PairingWaits):
            await joiner.desk.join(line)
    await a.desk.refuse("server-b")
    with pytest.raises(Denied, match="has refused this one"):
        await b.desk.join(line)
    await a.desk.accept("server-c")
    await c.desk.join(line)
    with pytest.raises(Denied):
        await b.desk.join(line)
    assert [peer.name for peer in a.book.peers()] == ["server-c"]
    with pytest.raises(NotFound):
        await a.desk.accept("server-b")


async def test_the_answer_may_take_a_day_and_the_line_works_no_longer_for_others(
    nodes: Nodes, clock: Clock, tmp_path: Path
) -> None:
    a, b, c = nodes
    line = await asking_line(a)
    with pytest.raises(PairingWaits):
        await b.desk.join(line)
    clock.now += 20 * 60
    with pytest.raises(Denied, match="expired"):
        await c.desk.join(line)
    with pytest.raises(PairingWaits):
        await b.desk.join(line)
    again = await asyncio.to_thread(set_up, tmp_path, "server-a", clock)  # as after a restart
    assert [w.joiner for _, w in again.desk.pending()] == [b.identity.certificate_id]
    clock.now += KEEP_ENDED_S
    assert a.desk.pending() == []
    with pytest.raises(Denied, match="expired"):
        await b.desk.join(line)


async def test_what_was_revoked_or_removed_does_not_come_back(nodes: Nodes) -> None:
    a, b, c = nodes
    line = await asking_line(a)
    with pytest.raises(PairingWaits):
        await c.desk.join(line)
    ((invite, state),) = a.desk.invites()
    assert (state, len(invite.waiting)) == ("open", 1)
    await a.desk.revoke(invite.id[:12])
    assert (a.desk.pending(), a.desk.invites()[0][1]) == ([], "revoked")
    with pytest.raises(Denied, match="revoked"):
        await c.desk.join(line)
    with pytest.raises(Locked):
        await a.desk.revoke(invite.id)
    with pytest.raises(NotFound):
        await a.desk.revoke("")

    line = await asking_line(a)
    with pytest.raises(PairingWaits):
        await b.desk.join(line)
    await a.desk.accept("server-b")
    await b.desk.join(line)
    await a.book.remove("server-b")
    with pytest.raises(Denied, match="used already"):
        await b.desk.join(line)
    assert a.book.peers() == ()


async def test_many_that_are_over_are_forgotten_and_none_that_somebody_waits_with(
    nodes: Nodes, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peersync.transport.invites.MAX_ENDED", 3)
    a, b, _ = nodes
    line = await asking_line(a)
    with pytest.raises(PairingWaits):
        await b.desk.join(line)
    for _ in range(6):
        clock.now += 1
        await asking_line(a)
        await a.desk.revoke(a.desk.invites()[0][0].id)
    assert len(a.desk.invites()) == 1 + 3 + 1  # the one that was changed last is not counted
    assert len(a.desk.pending()) == 1


async def test_only_so_many_wait_and_a_name_that_is_taken_is_said(nodes: Nodes) -> None:
    a, b, c = nodes
    line = await asking_line(a)
    with pytest.raises(PairingWaits):
        await b.desk.join(line)
    c.desk.name = "serverb"
    b_waits = a.desk.pending()[0][1]
    assert a.desk.looks_like(b_waits) is None
    await c.desk.join((await a.desk.invite())[0].line())
    c.desk.name = "server--b"
    await c.desk.join((await a.desk.invite())[0].line())
    assert a.desk.looks_like(b_waits) == "server--b"
    c.desk.name = "server-b"
    await c.desk.join((await a.desk.invite())[0].line())  # that name is taken now
    ((_, waiting),) = a.desk.pending()
    assert "another peer is called 'server-b'" in str(a.desk.problem_of(waiting))
    with pytest.raises(Denied, match="another peer is called"):
        await a.desk.accept(b.identity.short_id)
    assert len(a.desk.pending()) == 1 <= MAX_WAITING_EACH


def test_two_servers_pair_by_it_from_the_command_line(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    a = make_node("server-a", make_database(18))
    b = make_node("server-b", make_database(18))
    line = a.run("peer", "invite", "--confirm", "-q").out.split()[-1]
    refused = b.run("peer", "join", line, "--wait", "0", "--json", check=False)
    assert (refused.code, refused.json["error"]["code"]) == (5, "pairing-waits")
    joining = b.popen(
        "peer", "join", line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert joining.stderr is not None
    told = joining.stderr.readline().decode() + joining.stderr.readline().decode()
    for node in (a, b):
        node.stop()
    time.sleep(AGAIN_S + 0.5)  # it asks in vain meanwhile, which ends nothing
    for node in (a, b):
        node.start()
    (one,) = a.run("peer", "pending", "--json").json["pending"]
    own = json.loads(b.run("peer", "list", "--json").out)["short_id"]
    assert (one["name"], one["short_id"], one["problem"]) == ("server-b", own, None)
    assert a.run("peer", "accept", "server-b", check=False).code == 2  # nobody has compared it
    other = "-".join(["0000"] * 4)
    assert a.run("peer", "accept", "server-b", "--fingerprint", other, check=False).code == 2
    assert a.run("peer", "list", "--json").json["peers"] == []
    assert "server-b" in a.run("peer", "accept", "server-b", "--fingerprint", own).err
    _, err = joining.communicate(timeout=60)
    assert joining.returncode == 0, err.decode()
    assert own in told
    (used,) = a.run("peer", "invites", "--json").json["invites"]
    assert (used["state"], used["used_by"], used["waiting"]) == ("used", own, 0)
    wait_until("both reach each other", lambda: b.run("peer", "list", "--probe").code == 0)

    line = a.run("peer", "invite", "--confirm", "-q").out.split()[-1]
    joining = b.popen("peer", "join", line, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert joining.stderr is not None
    joining.stderr.readline()
    joining.send_signal(signal.SIGINT)
    _, err = joining.communicate(timeout=60)
    assert (joining.returncode, b"type the same command again" in err) == (130, True)
    a.run("peer", "refuse", "server-b")
    refused = b.run("peer", "join", line, check=False)
    assert (refused.code, "has refused this one" in refused.err) == (8, True)

    line = a.run("peer", "invite", "-q").out.split()[-1]
    newest = a.run("peer", "invites", "--json").json["invites"][0]
    a.run("peer", "revoke", newest["id"][:10])
    assert "revoked" in b.run("peer", "join", line, check=False).err
