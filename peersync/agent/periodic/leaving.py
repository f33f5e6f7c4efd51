"""How a database leaves its group: its changes fetched by the others, then its good-bye.

It refuses to go while a peer has not fetched everything, because nobody else has it: `force` is
the operator's word that it may be lost to them. The rows here stay as they are.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import asyncpg
import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.loop import Periodic
from peersync.core.errors import BadRequest, Locked
from peersync.postgres.log.members import Member, read_members, read_replica
from peersync.postgres.log.membership import dissolve, say_leave
from peersync.postgres.log.publish import publish
from peersync.transport.app import json_response
from peersync.transport.body import read_message

_LOOK_S = 0.1
_GOODBYE_S = 10.0  # how long the others have for the good-bye itself


class LeaveRequest(
    msgspec.Struct, frozen=True, rename="camel", kw_only=True, forbid_unknown_fields=True
):
    """`POST /api/admin/periodic/leave`."""

    database: str
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    force: bool = False


class Left(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`told`: the nodes that know of it. `behind`: those that lack changes of ours for ever."""

    database: str
    told: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


class Leaving:
    """The handler; `routes` lists it."""

    def __init__(self, periodic: Periodic, databases: Databases) -> None:
        self._periodic = periodic
        self._databases = databases

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/api/admin/periodic/leave", self._leave)]

    async def _leave(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, LeaveRequest)
        return json_response(await self.leave(wanted))

    async def leave(self, wanted: LeaveRequest) -> Left:
        """Locked, naming the peers, while one of them lacks something and `force` is not given."""
        hub = self._periodic.hub(wanted.database)
        database = await self._databases.ready(wanted.database)
        async with database.connect("leave", what=f"leaving the group of {hub.name}") as conn:
            replica = await read_replica(conn)
            if replica is None:
                raise BadRequest(f"{hub.name} of this node takes part in no periodic sync")
            told: list[Member] = []
            behind: list[Member] = []
            if replica.state == "active":
                await publish(conn)
                behind = await self._fetched(hub, conn, wanted.timeout_s)
                if behind and not wanted.force:
                    raise _not_yet(hub.name, behind)
                async with conn.transaction():
                    await say_leave(conn, replica.origin)
                hub.news.tell()
                untold = await self._fetched(hub, conn, _GOODBYE_S)
                told = [m for m in await _others(conn) if m not in untold]
            await dissolve(conn)
        self._periodic.refresh(hub.name)
        return Left(
            database=hub.name,
            told=tuple(member.node_name for member in told),
            behind=tuple(member.node_name for member in behind),
        )

    async def _fetched(self, hub: Hub, conn: asyncpg.Connection, timeout_s: float) -> list[Member]:
        """Waits for the others; gives those that still lack something of ours."""
        replica = await read_replica(conn)
        assert replica is not None
        others = await _others(conn)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            behind = [
                m
                for m in others
                if hub.proved.get(m.origin, {}).get(replica.origin, 0) < replica.position
            ]
            if not behind or asyncio.get_running_loop().time() >= deadline:
                return behind
            await asyncio.sleep(_LOOK_S)


async def _others(conn: asyncpg.Connection) -> list[Member]:
    replica = await read_replica(conn)
    own = replica.origin if replica else None
    return [m for m in await read_members(conn) if m.counts and m.origin != own]


def _not_yet(database: str, behind: list[Member]) -> Locked:
    names = ", ".join(member.node_name for member in behind)
    return Locked(
        f"{names} did not fetch all changes of {database} yet; nothing was changed",
        hint="See how far they are: peersync lag. Leave all the same, and keep those changes to "
        "this server: peersync leave --force",
    )
