"""The routes of the peer book: for the CLI on the Unix socket, and two for peers.

Owns paths and JSON forms. What pairing means is in `pairing`, what a right means in `peers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from aiohttp import web

from peersync import __version__
from peersync.core.errors import BadRequest, PeersyncError, PeerUnreachable
from peersync.transport.app import PAIR_PATH, json_response
from peersync.transport.body import read_message
from peersync.transport.client import PeerClient
from peersync.transport.identity import Identity, short_form
from peersync.transport.invites import KEEP_ENDED_S, InviteState, StoredInvite, Waiting
from peersync.transport.pairing import PairingDesk, node_id
from peersync.transport.peers import ALL_DATABASES, Peer, PeerBook, Right, Rights
from peersync.transport.problems import clean
from peersync.transport.query import read_query
from peersync.transport.renewal import renewal_routes
from peersync.transport.ways import Way
from peersync.wire.messages import Message
from peersync.wire.pairing import MAX_PAIR_BYTES, PairRequest, invite_id

ADMIN_PATH = "/api/admin/peers"
PING_PATH = "/api/sync/ping"
PROBE_S = 5.0
MAX_BODY_BYTES = 64 * 1024
SHOWN_ID = 16  # digits of an invite's id: who knows all 64 can spoil it with wrong proofs


class ProbeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """`probe`: each is tried now."""

    probe: bool = False


class InviteRequest(msgspec.Struct, frozen=True):
    """`address`: where the joiner will find this node, if not at node.advertise.

    `confirm`: who uses the line waits until an admin here accepts it.
    """

    address: str | None = None
    confirm: bool = False
    requested_by: Annotated[str, msgspec.Meta(max_length=200)] = msgspec.field(
        default="", name="requestedBy"
    )


class InviteReply(msgspec.Struct, frozen=True):
    """`id` names the invitation from now on; it says nothing of the secret in the line."""

    line: str
    address: str
    node_id: str
    expires_at: str
    id: str
    confirm: bool


class InviteView(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation without its secret. `used_by`: the short fingerprint of who was paired by it.

    `waiting`: how many nodes wait with it for a person. `made_at` is null of one that an earlier
    version made.
    """

    id: str
    state: InviteState
    confirm: bool
    address: str
    made_at: str | None
    made_by: str
    expires_at: str
    used_by: str | None
    waiting: int
    wrong_proofs: int


class PendingView(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has used an invitation and waits to be accepted.

    `id` and `fingerprint` are those of its certificate, `short_id` what people compare.
    `came_from`: the address that asked; `problem`: why it can't be accepted as things are;
    `looks_like`: another name here for which its own could be taken.
    """

    id: str
    name: str
    fingerprint: str
    short_id: str
    address: str | None
    came_from: str
    asked_at: str
    expires_at: str
    invite: str
    invited_by: str
    problem: str | None
    looks_like: str | None = None


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
        return json_response(await desk.answer(message, clean(request.remote or "")))

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
        by = clean(wanted.requested_by)
        made, expires_at = await desk.invite(wanted.address, confirm=wanted.confirm, by=by)
        reply = InviteReply(
            made.line(),
            str(made.address),
            desk.identity.node_id,
            _iso(expires_at),
            invite_id(made.secret)[:SHOWN_ID],
            wanted.confirm,
        )
        return json_response(reply, status=201)

    async def invites(_request: web.Request) -> web.Response:
        return json_response([_invite_view(*one) for one in desk.invites()])

    async def revoke(request: web.Request) -> web.Response:
        return json_response(_invite_view(await desk.revoke(request.match_info["id"]), "revoked"))

    async def pending(_request: web.Request) -> web.Response:
        return json_response([_pending_view(desk, *one) for one in desk.pending()])

    async def accept(request: web.Request) -> web.Response:
        return json_response(view(await desk.accept(request.match_info["id"])))

    async def refuse(request: web.Request) -> web.Response:
        refused = await desk.refuse(request.match_info["id"])
        return json_response(_pending_view(desk, *refused))

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
        web.get(f"{ADMIN_PATH}/invites", invites),
        web.delete(f"{ADMIN_PATH}/invites/{{id}}", revoke),
        web.get(f"{ADMIN_PATH}/pending", pending),
        web.post(f"{ADMIN_PATH}/pending/{{id}}/accept", accept),
        web.post(f"{ADMIN_PATH}/pending/{{id}}/refuse", refuse),
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


def _invite_view(stored: StoredInvite, state: InviteState) -> InviteView:
    return InviteView(
        id=stored.id[:SHOWN_ID],
        state=state,
        confirm=stored.confirm,
        address=stored.address,
        made_at=_iso(stored.made_at) if stored.made_at is not None else None,
        made_by=stored.made_by,
        expires_at=_iso(stored.expires_at),
        used_by=short_form(stored.used_by) if stored.used_by else None,
        waiting=len(stored.waiting),
        wrong_proofs=stored.wrong_proofs,
    )


def _pending_view(desk: PairingDesk, stored: StoredInvite, waiting: Waiting) -> PendingView:
    return PendingView(
        id=waiting.joiner,
        name=waiting.request.name,
        fingerprint=waiting.joiner,
        short_id=short_form(node_id(waiting)),
        address=waiting.request.address,
        came_from=waiting.came_from,
        asked_at=_iso(waiting.asked_at),
        expires_at=_iso(waiting.asked_at + KEEP_ENDED_S),
        invite=stored.id[:SHOWN_ID],
        invited_by=stored.made_by,
        problem=desk.problem_of(waiting),
        looks_like=desk.looks_like(waiting),
    )


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


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
