"""The routes of the peer book: for the CLI on the Unix socket, and two for peers.

Owns paths and JSON forms. What pairing means is in `pairing`, what a right means in `peers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from peersync import __version__
from peersync.core.errors import BadRequest, PeersyncError, PeerUnreachable
from peersync.transport.app import PAIR_PATH, json_response
from peersync.transport.body import read_message
from peersync.transport.client import PeerClient
from peersync.transport.identity import Identity, short_form
from peersync.transport.pairing import PairingDesk
from peersync.transport.peers import ALL_DATABASES, Peer, PeerBook, Right, Rights
from peersync.transport.query import read_query
from peersync.transport.renewal import renewal_routes
from peersync.transport.ways import Way
from peersync.wire.messages import Message
from peersync.wire.pairing import MAX_PAIR_BYTES, PairRequest

ADMIN_PATH = "/api/admin/peers"
PING_PATH = "/api/sync/ping"
PROBE_S = 5.0
MAX_BODY_BYTES = 64 * 1024


class ProbeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`probe`: each is tried now."""

    probe: bool = False


class InviteRequest(msgspec.Struct, frozen=True):
    """`address`: where the joiner will find this node, if not at node.advertise."""

    address: str | None = None


class InviteReply(msgspec.Struct, frozen=True):
    line: str
    address: str
    node_id: str
    expires_at: str


class JoinRequest(msgspec.Struct, frozen=True):
    """`line`: of the invite; people paste it with the command before it, too."""

    line: str
    address: str | None = None


class RightsRequest(msgspec.Struct, frozen=True):
    """Rights that are not named stay as they are."""

    rights: dict[Right, bool]
    database: str = ALL_DATABASES


class PeerView(msgspec.Struct, frozen=True):
    """A peer as people see it. `reachable` is None where nobody asked.

    `reached`: how, as far as is known here; None where nothing is.
    """

    name: str
    node_id: str
    short_id: str
    address: str | None
    added_at: str
    rights: dict[str, Rights]
    reachable: bool | None = None
    reached: Way | None = None
    problem: str | None = None
    hint: str | None = None


class PeerList(msgspec.Struct, frozen=True):
    """This node, and the peers in the order in which they were added."""

    name: str
    node_id: str
    short_id: str
    peers: tuple[PeerView, ...]


class Pong(Message, frozen=True, kw_only=True):
    """What a peer that is known here gets for its certificate."""

    name: str
    version: str


Probe = Callable[[Peer], Awaitable[None]]
WayOf = Callable[[Peer], Way | None]


def pair_routes(desk: PairingDesk) -> list[web.RouteDef]:
    """For the peers' listener: pairing, and a ping that proves that both trust each other."""

    async def pair(request: web.Request) -> web.Response:
        message = await read_message(request, PairRequest, limit=MAX_PAIR_BYTES, timeout_s=10)
        return json_response(await desk.answer(message))

    async def ping(_request: web.Request) -> web.Response:
        return json_response(Pong(name=desk.name, version=__version__))

    return [
        web.post(PAIR_PATH, pair),
        web.get(PING_PATH, ping),
        *renewal_routes(desk.identity, desk.book),
    ]


def peer_book_routes(
    desk: PairingDesk, *, probe: Probe | None = None, way: WayOf = lambda _peer: None
) -> list[web.RouteDef]:
    """For the Unix socket. `probe` raises when a peer cannot be reached or refuses us.

    `way` says how it is reached.
    """
    book = desk.book
    ask = probe or (lambda peer: ping_peer(peer, desk.identity))

    async def invite(request: web.Request) -> web.Response:
        wanted = await read_message(request, InviteRequest, limit=MAX_BODY_BYTES)
        made, expires_at = await desk.invite(wanted.address)
        until = datetime.fromtimestamp(expires_at, UTC).isoformat(timespec="seconds")
        reply = InviteReply(made.line(), str(made.address), desk.identity.node_id, until)
        return json_response(reply, status=201)

    async def join(request: web.Request) -> web.Response:
        wanted = await read_message(request, JoinRequest, limit=MAX_BODY_BYTES)
        *_command, line = wanted.line.split() or [""]
        return json_response(view(await desk.join(line, wanted.address)), status=201)

    async def list_peers(request: web.Request) -> web.Response:
        views = [view(peer) for peer in book.peers()]
        if read_query(request, ProbeQuery).probe:
            views = await _probe_all(book, ask)
        found = [(one, book.find(one.node_id)) for one in views]
        views = [_with_way(one, way(peer)) for one, peer in found if peer is not None]
        own = desk.identity
        return json_response(PeerList(desk.name, own.node_id, own.short_id, tuple(views)))

    async def remove(request: web.Request) -> web.Response:
        return json_response(view(await book.remove(request.match_info["name"])))

    async def change_rights(request: web.Request) -> web.Response:
        wanted = await read_message(request, RightsRequest, limit=MAX_BODY_BYTES)
        if not wanted.rights:
            raise BadRequest("which right? pull, push or schema")
        name = request.match_info["name"]
        return json_response(view(await book.change_rights(name, wanted.database, wanted.rights)))

    return [
        web.post(f"{ADMIN_PATH}/invite", invite),
        web.post(f"{ADMIN_PATH}/join", join),
        web.get(ADMIN_PATH, list_peers),
        web.delete(f"{ADMIN_PATH}/{{name}}", remove),
        web.put(f"{ADMIN_PATH}/{{name}}/rights", change_rights),
    ]


def view(
    peer: Peer, *, reachable: bool | None = None, error: PeersyncError | None = None
) -> PeerView:
    return PeerView(
        name=peer.name,
        node_id=peer.node_id,
        short_id=short_form(peer.node_id),
        address=peer.address,
        added_at=peer.added_at,
        rights=peer.rights,
        reachable=reachable,
        problem=error.message if error else None,
        hint=error.hint if error else None,
    )


def _with_way(shown: PeerView, way: Way | None) -> PeerView:
    if shown.reachable is not None:  # what was tried just now says more than what is remembered
        reached = "direct" if way in (None, "not at all") else way
        way = reached if shown.reachable else "not at all"
    return msgspec.structs.replace(shown, reached=way)


async def ping_peer(peer: Peer, identity: Identity) -> None:
    """Raises when the peer does not answer at its address, or does not know this node."""
    async with PeerClient(peer, identity, connect_timeout_s=PROBE_S) as client:
        await ping(client)


async def ping(client: PeerClient) -> None:
    """Raises when the peer cannot be reached, is another node, or does not know this one."""
    await client.call("GET", PING_PATH, None, Pong, read_timeout_s=PROBE_S)


async def _probe_all(book: PeerBook, probe: Probe) -> list[PeerView]:
    async def one(peer: Peer) -> PeerView:
        try:
            async with asyncio.timeout(3 * PROBE_S):
                await probe(peer)
        except TimeoutError:
            slow = PeerUnreachable(f"{peer.name} did not answer in time")
            return view(peer, reachable=False, error=slow)
        except PeersyncError as error:
            return view(peer, reachable=False, error=error)
        return view(peer, reachable=True)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(peer), name=f"probe {peer.name}") for peer in book.peers()]
    return [task.result() for task in tasks]
