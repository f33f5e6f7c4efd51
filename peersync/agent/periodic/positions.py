"""Asks a member how far it is, after telling it how far this database is.

The one question on which proofs rest: both sides learn by it what the other has. What the answer
proves is said in `links` and `barrier`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.links import Local
from peersync.agent.periodic.messages import PositionReply, PositionRequest
from peersync.core.errors import ProtocolError
from peersync.postgres.log.members import Vector
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer

POSITION_PATH: Final = "/api/sync/position"
READ_S: Final = 10.0


class Positions:
    """`ask` raises what the peer raised, or that it can't be reached."""

    def __init__(self, client_for: Callable[[Peer], PeerClient]) -> None:
        self._client_for = client_for

    async def ask(
        self,
        hub: Hub,
        peer: Peer,
        local: Local,
        *,
        want: Vector | None = None,
        wait_s: float = 0,
        settle: bool = False,
    ) -> PositionReply:
        """`local`: this database as it was read a moment ago. With `want` the peer waits for it."""
        question = PositionRequest(
            database=hub.name,
            group=local.replica.group_id,
            origin=local.replica.origin,
            vector=local.vector,
            want=want or {},
            wait_s=wait_s,
            settle=settle,
        )
        began = time.time()
        reply = await self._client_for(peer).call(
            "POST", POSITION_PATH, question, PositionReply, read_timeout_s=wait_s + READ_S
        )
        if reply.group != local.replica.group_id:
            raise ProtocolError(f"{peer.name} answers for another group of {hub.name}")
        hub.prove(reply.origin, reply.vector)
        link = hub.links.get(peer.node_id)
        if link is not None and not wait_s:
            link.offset_s = round(reply.unix_time - (began + time.time()) / 2, 3)
        return reply
