"""A new certificate gets to all peers by its signature, and to nobody by anything else."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgspec
import pytest

from peersync.core.errors import ConfigError, Denied
from peersync.transport.app import SUCCESSION_PATH, listen_peers
from peersync.transport.client import PeerClient
from peersync.transport.files import write_private
from peersync.transport.identity import create_identity, load_identity, rotate_identity
from peersync.transport.peer_routes import pair_routes, ping
from peersync.transport.peers import PeerBook
from peersync.transport.renewal import Renewal
from peersync.transport.succession import prove
from peersync.transport.tls import anonymous_context
from peersync.wire.address import Address
from peersync.wire.codec import encode
from peersync.wire.succession import MAX_STEPS, Succession
from tests.integration.two_nodes import Node, listening, set_up
from tests.plugins.nodes import free_port

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


def rotated(node: Node) -> Node:
    """The node as its agent finds it after `peersync node rotate-certificate`."""
    rotate_identity(node.state_dir, now=NOW)
    again = set_up(node.state_dir.parent, node.name)
    again.desk.advertise = node.desk.advertise
    return replace(again, address=node.address)


@asynccontextmanager
async def serving(node: Node) -> AsyncIterator[None]:
    """At the port where its peers look for it."""
    async with listen_peers(
        node.book, node.identity, pair_routes(node.desk), "127.0.0.1", node.address.port
    ):
        yield


async def reach(node: Node, name: str) -> None:
    renewal = Renewal(node.identity, node.book)
    peer = node.book.get(name)
    async with PeerClient(peer, node.identity, connect_timeout_s=5, renewal=renewal) as client:
        await ping(client)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Node, Node]:
    a, b = set_up(tmp_path, "server-a"), set_up(tmp_path, "server-b")
    for node in (a, b):
        node.address = Address("127.0.0.1", free_port())
        node.desk.advertise = str(node.address)
    return a, b


@pytest.fixture
async def pair(made: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two that are paired, neither of which listens."""
    a, b = made
    async with serving(a):
        await b.desk.join((await a.desk.invite())[0].line())
    return a, b


async def test_a_node_with_a_new_certificate_tells_a_peer_that_does_not_know_it(
    pair: tuple[Node, Node],
) -> None:
    a, b = pair
    a = await asyncio.to_thread(rotated, a)
    async with serving(b):
        with pytest.raises(Denied, match="may not trust this server's certificate"):
            async with a.client("server-b") as client:
                await ping(client)
        await reach(a, "server-b")
        async with a.client("server-b") as client:  # it is known now
            await ping(client)
    known = b.book.get("server-a")
    assert (known.node_id, known.certificate_id) == (a.identity.node_id, a.identity.certificate_id)
    assert known.certificate_id != known.node_id
    read = await asyncio.to_thread(PeerBook, b.state_dir / "peers.json", b.identity.node_id)
    assert read.peers() == b.book.peers()


async def test_a_peer_that_was_away_asks_for_the_new_certificate(pair: tuple[Node, Node]) -> None:
    a, b = pair
    for _ in range(3):
        a = await asyncio.to_thread(rotated, a)
    async with serving(a):
        await reach(b, "server-a")
    assert b.book.get("server-a").certificate_id == a.identity.certificate_id


async def test_both_can_have_new_certificates(pair: tuple[Node, Node]) -> None:
    a, b = [await asyncio.to_thread(rotated, node) for node in pair]
    async with serving(a), serving(b):
        await reach(b, "server-a")
        await reach(a, "server-b")


async def test_the_earlier_certificate_is_refused_from_then_on(pair: tuple[Node, Node]) -> None:
    a, b = pair
    stolen = a.state_dir.parent / "stolen"
    await asyncio.to_thread(copy_identity, a.state_dir, stolen)
    a_now = await asyncio.to_thread(rotated, a)
    async with serving(b):
        await reach(a_now, "server-b")
        thief = replace(a, identity=await asyncio.to_thread(load_identity, stolen))
        with pytest.raises(Denied):
            await reach(thief, "server-b")
        forked = await asyncio.to_thread(lambda: rotate_identity(stolen, now=NOW))
        with pytest.raises(Denied):
            await reach(replace(a, identity=forked), "server-b")
        await reach(a_now, "server-b")
    assert b.book.get("server-a").certificate_id == a_now.identity.certificate_id


def copy_identity(source: Path, target: Path) -> None:
    (target / "identity").mkdir(mode=0o700, parents=True)
    for file in (source / "identity").iterdir():
        write_private(target / "identity" / file.name, file.read_bytes())


async def test_another_nodes_certificate_is_not_taken(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    """A server in between shows a succession of its own, and one that is broken."""
    a, b = pair
    other = await asyncio.to_thread(set_up, tmp_path, "server-x")
    other = await asyncio.to_thread(rotated, replace(other, address=a.address))
    async with serving(other):
        with pytest.raises(Denied, match="another certificate"):
            await reach(b, "server-a")
    assert other.identity.succession is not None
    broken = Succession(first=a.identity.cert_pem, steps=other.identity.succession.steps)
    with pytest.raises(Denied, match="not signed"):
        prove(broken)
    async with serving(b):
        assert (await told(b, broken))[0] == 403
        assert (await told(b, other.identity.succession))[0] == 403
    assert b.book.get("server-a").certificate_id == a.identity.certificate_id


async def told(node: Node, succession: Succession) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=anonymous_context())) as session,
        session.post(
            f"https://{node.address}{SUCCESSION_PATH}", data=encode(succession)
        ) as response,
    ):
        return response.status, await response.text()


async def test_a_node_with_a_later_certificate_pairs_and_stays_the_same_node(
    pair: tuple[Node, Node], tmp_path: Path
) -> None:
    a, b = pair
    a = await asyncio.to_thread(rotated, a)
    c = await asyncio.to_thread(set_up, tmp_path, "server-c")
    async with listening(c), serving(a):
        await a.desk.join((await c.desk.invite())[0].line())
        assert c.book.get("server-a").node_id == a.identity.node_id
        await c.book.remove("server-a")
        await c.desk.join((await a.desk.invite())[0].line())
        assert c.book.get("server-a").node_id == a.identity.node_id
        await reach(c, "server-a")
        await reach(a, "server-c")
        await b.desk.join((await a.desk.invite())[0].line())  # again, in place of being told
    assert [peer.node_id for peer in b.book.peers()] == [a.identity.node_id]


@pytest.mark.parametrize("dies_at", ["key", "certificate", "succession", "removal"])
def test_a_rotation_that_is_cut_off_leaves_one_identity(tmp_path: Path, dies_at: str) -> None:
    """The state in which a crash leaves the directory, at each step."""
    first = create_identity(tmp_path, "server-a")
    directory, kept = tmp_path / "identity", {}
    for path in (first.cert_path, first.key_path):
        kept[path] = path.read_bytes()
    made = rotate_identity(tmp_path, now=NOW)
    gone = {"key": 3, "certificate": 2, "succession": 1, "removal": 0}[dies_at]
    for path in [directory / "succession.json", made.cert_path, made.key_path][:gone]:
        path.unlink()
    for path, data in kept.items():
        write_private(path, data)
    found = load_identity(tmp_path)
    assert found == (made if dies_at == "removal" else first)
    again = rotate_identity(tmp_path, now=NOW)
    assert again.node_id == first.node_id
    assert again == load_identity(tmp_path)
    assert len(list(directory.glob("*.key"))) == 1


def test_a_damaged_succession_is_said(tmp_path: Path) -> None:
    create_identity(tmp_path, "server-a")
    made = rotate_identity(tmp_path, now=NOW)
    file = tmp_path / "identity" / "succession.json"
    good = msgspec.json.decode(file.read_bytes(), type=Succession)
    for data in (b"{", msgspec.json.encode(Succession(first=made.cert_pem, steps=good.steps))):
        write_private(file, data)
        with pytest.raises(ConfigError):
            load_identity(tmp_path)
    write_private(file, msgspec.json.encode(good))
    assert load_identity(tmp_path) == made


def test_the_number_of_rotations_is_bounded_and_said(tmp_path: Path) -> None:
    create_identity(tmp_path, "server-a")
    for _ in range(MAX_STEPS):
        rotate_identity(tmp_path, now=NOW)
    before = load_identity(tmp_path)
    with pytest.raises(ConfigError) as refused:
        rotate_identity(tmp_path, now=NOW)
    assert "reset-identity" in str(refused.value.hint)
    assert load_identity(tmp_path) == before
