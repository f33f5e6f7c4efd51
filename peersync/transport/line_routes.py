"""The two routes of reverse lines: "can you connect to me?", and "then use this connection".

Owns the change of roles on the side that was connected to. Both need a known certificate,
like every route of the peers' listener but pairing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from peersync.core.errors import BadRequest
from peersync.transport.app import PEER, json_response
from peersync.transport.linedial import LINE_PATH, LINE_PROTOCOL
from peersync.transport.lines import make_line
from peersync.transport.ways import Ways
from peersync.wire.messages import Message

REACH_PATH = "/api/sync/reach"


class ReachReply(Message, frozen=True, kw_only=True):
    """`reachable`: we can connect to who asks. If not, it should hold so many `lines` open."""

    reachable: bool
    lines: Annotated[int, msgspec.Meta(ge=0, le=256)]


def line_routes(ways: Ways) -> list[web.RouteDef]:
    """For the peers' listener, not for lines themselves: a line is not turned round again."""

    async def reach(request: web.Request) -> web.Response:
        reachable = await ways.reach(request[PEER])
        return json_response(ReachReply(reachable=reachable, lines=ways.lines.wanted))

    async def line(request: web.Request) -> web.StreamResponse:
        peer, lines = request[PEER], ways.lines
        if request.headers.get("Upgrade", "").lower() != LINE_PROTOCOL:
            raise BadRequest(f"this route needs Upgrade: {LINE_PROTOCOL}")
        lines.refuse_more(peer.node_id, peer.name)
        answer = web.StreamResponse(
            status=101, headers={"Connection": "Upgrade", "Upgrade": LINE_PROTOCOL}
        )
        await answer.prepare(request)
        if request.transport is None:
            raise ConnectionResetError("the peer went away")
        held = make_line(peer.node_id, request.transport, lines.times)
        # The answer's own end is written by nobody: the connection ends before the handler.
        await lines.hold(held, useful=lambda: ways.needs_lines(peer.node_id))
        return answer

    return [web.post(REACH_PATH, reach), web.post(LINE_PATH, line)]
