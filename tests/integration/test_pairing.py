"""Two nodes learn to trust each other over real TLS, and nobody else gets in."""

from __future__ import annotations

import asyncio
import logging
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from peersync.core.errors import BadRequest, ConfigError, Denied, NotFound, PeerUnreachable
from peersync.transport.app import control_app
from peersync.transport.identity import create_identity, load_identity
from peersync.transport.listener import listen_unix
from peersync.transport.local import AgentClient
from peersync.transport.peer_routes import (
    PING_PATH,
    InviteReply,
    InviteRequest,
    JoinRequest,
    PeerList,
    PeerView,
    Pong,
    peer_book_routes,
    ping_peer,
)
from peersync.transport.peers import PeerBook
from peersync.transport.problems import clean
from peersync.wire.pairing import Invite, encode_secret, parse_invite
from tests.integration.two_nodes import Node, listening, set_up


class Clock:
    """A wall clock that a test moves."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> tuple[Node, Node, Node]:
    return (
        set_up(tmp_path, "server-a", clock),
        set_up(tmp_path, "server-b", clock),
        set_up(tmp_path, "server-c", clock),
    )


@pytest.fixture
async def nodes(made: tuple[Node, Node, Node]) -> AsyncIterator[tuple[Node, Node, Node]]:
    a, b, c = made
    async with listening(a), listening(b), listening(c):
        yield a, b, c


Nodes = tuple[Node, Node, Node]


async def line_of(node: Node) -> str:
    invite, _ = await node.desk.invite()
    return invite.line()


async def test_one_line_pairs_both_ends_at_once(nodes: Nodes) -> None:
    a, b, _ = nodes
    peer = await b.desk.join(await line_of(a))
    assert (peer.name, peer.node_id, peer.address) == (
        "server-a", a.identity.node_id, str(a.address),
    )  # fmt: skip
    assert a.book.get("server-b").node_id == b.identity.node_id
    assert a.book.get("server-b").address == str(b.address)
    async with a.client("server-b") as to_b, b.client("server-a") as to_a:
        assert (await to_b.call("GET", PING_PATH, None, Pong)).name == "server-b"
        assert (await to_a.call("GET", PING_PATH, None, Pong)).name == "server-a"


async def test_a_new_peer_may_pull_and_push_and_not_bring_schema(nodes: Nodes) -> None:
    a, b, _ = nodes
    await b.desk.join(await line_of(a))
    peer = a.book.get("server-b")
    peer.require("pull", "shop")
    peer.require("push", "shop")
    with pytest.raises(Denied, match="may not bring table definitions") as caught:
        peer.require("schema", "shop")
    assert "peersync peer allow server-b --schema" in str(caught.value.hint)


async def test_an_invite_works_once(nodes: Nodes) -> None:
    a, b, c = nodes
    line = await line_of(a)
    await b.desk.join(line)
    with pytest.raises(Denied, match="used already"):
        await c.desk.join(line)
    assert [peer.name for peer in a.book.peers()] == ["server-b"]
    assert c.book.peers() == ()


async def test_a_lost_answer_can_be_asked_for_again_by_the_same_node(nodes: Nodes) -> None:
    a, b, _ = nodes
    line = await line_of(a)
    await b.desk.join(line)
    await b.book.remove("server-a")  # as if the answer had not arrived
    await b.desk.join(line)
    assert b.book.get("server-a").node_id == a.identity.node_id


async def test_a_used_line_does_not_bring_back_who_was_removed(nodes: Nodes) -> None:
    a, b, _ = nodes
    line = await line_of(a)
    await b.desk.join(line)
    await a.book.remove("server-b")
    with pytest.raises(Denied, match="used already"):
        await b.desk.join(line)
    assert a.book.peers() == ()


async def test_a_name_with_a_line_break_at_its_end_is_no_name(nodes: Nodes) -> None:
    a, b, c = nodes
    await b.desk.join(await line_of(a))
    c.desk.name = "server-b\n"  # would look like the peer that is there
    with pytest.raises(BadRequest, match=r"\$\.name"):
        await c.desk.join(await line_of(a))
    assert [peer.name for peer in a.book.peers()] == ["server-b"]


async def test_an_invite_ends_after_fifteen_minutes(nodes: Nodes, clock: Clock) -> None:
    a, b, _ = nodes
    line = await line_of(a)
    clock.now += 15 * 60
    with pytest.raises(Denied, match="expired"):
        await b.desk.join(line)
    assert a.book.peers() == b.book.peers() == ()


async def test_an_invite_survives_a_restart(made: Nodes, tmp_path: Path, clock: Clock) -> None:
    a, b, _ = made
    a.desk.advertise = "127.0.0.1:1"
    invite, _ = await a.desk.invite()
    after_restart = await asyncio.to_thread(set_up, tmp_path, "server-a", clock)
    async with listening(after_restart):
        moved = Invite(after_restart.address, invite.fingerprint, invite.secret)
        await b.desk.join(moved.line())
    assert after_restart.book.get("server-b").node_id == b.identity.node_id


async def test_a_wrong_secret_is_refused_and_five_wrong_proofs_end_the_invite(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = nodes
    invite, _ = await a.desk.invite()
    guess = Invite(invite.address, invite.fingerprint, encode_secret(b"g" * 20))
    with pytest.raises(Denied, match="no such invite"):
        await b.desk.join(guess.line())
    monkeypatch.setattr("peersync.wire.pairing.invite_key", lambda _secret: "00" * 32)
    for _ in range(5):
        with pytest.raises(Denied, match="proof of the invite's secret is wrong"):
            await b.desk.join(invite.line())
    monkeypatch.undo()
    with pytest.raises(Denied, match="void after too many"):
        await b.desk.join(invite.line())
    assert a.book.peers() == ()


async def test_a_server_in_between_is_noticed_before_anything_is_sent(nodes: Nodes) -> None:
    a, b, c = nodes
    invite = parse_invite(await line_of(a))
    diverted = Invite(c.address, invite.fingerprint, invite.secret)
    with pytest.raises(Denied, match="another certificate than the one in the line") as caught:
        await b.desk.join(diverted.line())
    assert caught.value.data["got"] == c.identity.node_id


async def test_nobody_there_is_said_with_the_address(nodes: Nodes, unused_tcp_port: int) -> None:
    a, b, _ = nodes
    invite, _ = await a.desk.invite(f"127.0.0.1:{unused_tcp_port}")
    with pytest.raises(PeerUnreachable, match=f"127.0.0.1:{unused_tcp_port} cannot be reached"):
        await b.desk.join(invite.line())


async def test_a_node_does_not_pair_with_itself_or_its_namesake(
    nodes: Nodes, tmp_path: Path
) -> None:
    a, b, c = nodes
    with pytest.raises(BadRequest, match="this very node"):
        await a.desk.join(await line_of(a))
    c.desk.name = "server-a"
    with pytest.raises(Denied, match="both nodes are called 'server-a'"):
        await c.desk.join(await line_of(a))
    await b.desk.join(await line_of(a))
    c.desk.name = "server-b"
    with pytest.raises(Denied, match="another peer is called 'server-b'"):
        await c.desk.join(await line_of(a))


async def test_a_node_that_pairs_again_keeps_its_rights(nodes: Nodes) -> None:
    a, b, _ = nodes
    await b.desk.join(await line_of(a))
    await a.book.change_rights("server-b", "*", {"schema": True, "push": False})
    b.desk.name = "renamed"
    await b.desk.join(await line_of(a))
    assert [peer.name for peer in a.book.peers()] == ["renamed"]
    assert a.book.get("renamed").may("schema", "shop")
    assert not a.book.get("renamed").may("push", "shop")


async def test_an_unknown_certificate_is_refused_and_the_refusal_is_explained(
    nodes: Nodes,
) -> None:
    a, b, _ = nodes
    await b.book.store(a.as_peer())  # b knows a; a does not know b
    async with b.client("server-a") as client:
        with pytest.raises(Denied, match="closed the connection during authentication") as caught:
            await client.call("GET", PING_PATH, None, Pong)
    assert b.identity.short_id in str(caught.value)
    assert "on server-a run: peersync peer list" in str(caught.value.hint)


async def test_a_server_with_another_certificate_is_refused_with_both_fingerprints(
    nodes: Nodes,
) -> None:
    a, b, c = nodes
    imposter = a.as_peer(address=str(c.address))
    async with b.client_to(imposter) as client:
        with pytest.raises(Denied, match="another certificate than the one that was paired") as e:
            await client.call("GET", PING_PATH, None, Pong)
    assert e.value.data == {"expected": a.identity.node_id, "got": c.identity.node_id}


async def test_a_removed_peer_is_refused_on_its_next_request(nodes: Nodes) -> None:
    a, b, _ = nodes
    await b.desk.join(await line_of(a))
    async with b.client("server-a") as client:
        await client.call("GET", PING_PATH, None, Pong)
        await a.book.remove("server-b")
        with pytest.raises(Denied, match="does not know node"):
            await client.call("GET", PING_PATH, None, Pong)


async def test_without_a_certificate_only_pairing_answers(nodes: Nodes) -> None:
    a, _, _ = nodes
    async with aiohttp.ClientSession(
        f"https://{a.address}", connector=aiohttp.TCPConnector(ssl=False)
    ) as anybody:
        for method, path in (
            ("GET", "/"), ("GET", PING_PATH), ("GET", "/healthz"), ("GET", "/api/sync/pair"),
            ("POST", "/api/sync/pair/"), ("POST", "/api/sync/hello"), ("PUT", "/nowhere"),
        ):  # fmt: skip
            async with anybody.request(method, path) as response:
                assert response.status == 403, path
                assert response.content_type == "application/problem+json"
        async with anybody.post("/api/sync/pair", data=b"x" * 100_000) as response:
            assert response.status == 400
            assert "larger than" in await response.text()


async def test_the_secret_and_the_keys_are_in_no_log_and_no_file(
    nodes: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    a, b, _ = nodes
    line = await line_of(a)
    secret = parse_invite(line).secret
    await b.desk.join(line)
    with pytest.raises(Denied):
        await nodes[2].desk.join(line)
    assert "paired with server-b" in caplog.text  # the log was on
    assert secret not in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    found = subprocess.run(
        ["grep", "-rl", secret, str(a.state_dir), str(b.state_dir)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stdout == ""


async def test_the_book_is_managed_over_the_unix_socket(nodes: Nodes, tmp_path: Path) -> None:
    a, b, _ = nodes
    path = "/api/admin/peers"
    async with (
        listen_unix(control_app(peer_book_routes(a.desk)), tmp_path / "a.sock") as socket_a,
        listen_unix(control_app(peer_book_routes(b.desk)), tmp_path / "b.sock") as socket_b,
        AgentClient(socket_a) as cli_a,
        AgentClient(socket_b) as cli_b,
    ):
        invite = await cli_a.post(f"{path}/invite", InviteRequest(), InviteReply)
        joined = await cli_b.post(f"{path}/join", JoinRequest(invite.line), PeerView)
        assert joined.name == "server-a"
        body = {"rights": {"schema": True}, "database": "shop"}
        changed = await cli_a.put(f"{path}/server-b/rights", body, PeerView)
        assert changed.rights["shop"].schema and not changed.rights["*"].schema
        probed = await cli_b.get(path, PeerList, params={"probe": "1"})
        assert [peer.reachable for peer in probed.peers] == [True]
        removed = await cli_a.delete(f"{path}/server-b", PeerView)
        assert removed.name == "server-b"
        refused = (await cli_b.get(path, PeerList, params={"probe": "1"})).peers[0]
        assert refused.reachable is False and "does not know node" in str(refused.problem)
        with pytest.raises(NotFound, match="no peer 'server-b'"):
            await cli_a.delete(f"{path}/server-b", PeerView)
        with pytest.raises(BadRequest, match="not an invite line"):
            await cli_b.post(f"{path}/join", JoinRequest("psync1:nonsense"), PeerView)


async def test_a_probe_of_a_stopped_peer_says_that_it_cannot_be_reached(made: Nodes) -> None:
    a, b, _ = made
    async with listening(a):
        async with listening(b):
            await b.desk.join(await line_of(a))
        with pytest.raises(PeerUnreachable, match=r"server-b .* cannot be reached"):
            await ping_peer(a.book.get("server-b"), a.identity)


def test_the_book_and_the_key_are_private_and_read_again(made: Nodes) -> None:
    a, b, _ = made
    asyncio.run(a.book.store(b.as_peer(address="[::1]:8791")))
    for file in (a.state_dir / "peers.json", a.identity.key_path, a.identity.cert_path):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = PeerBook(a.state_dir / "peers.json", a.identity.node_id)
    assert again.peers() == a.book.peers()


def test_an_identity_is_never_overwritten_and_its_key_never_readable(tmp_path: Path) -> None:
    made = create_identity(tmp_path, "server-a")
    assert load_identity(tmp_path) == made
    with pytest.raises(ConfigError, match="has an identity already"):
        create_identity(tmp_path, "server-a")
    assert load_identity(tmp_path) == made
    made.key_path.chmod(0o640)
    with pytest.raises(Denied, match="mode 0640"):
        load_identity(tmp_path)


def test_text_of_a_peer_cannot_move_the_cursor() -> None:
    assert clean("a\x1b[2Jb\x00\nc") == "a\ufffd[2Jb\ufffd\nc"
