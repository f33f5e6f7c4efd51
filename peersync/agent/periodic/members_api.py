"""Who is in the group of a database, for people; and who of them is waited for no more.

The log is kept for every member. One that never comes back is expired by a person, or, where more
than half of the members can still be heard, by itself after `periodic.retention_d`. It loses
nothing by that: when it comes back it takes everything anew and sends what it has (rebaseline).
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.admin_api import OperatorRequest
from peersync.agent.periodic.loop import Periodic
from peersync.core.errors import BadRequest, NotFound
from peersync.postgres.log.members import Member, Replica, read_members, read_replica
from peersync.postgres.log.membership import say_expire
from peersync.transport.app import json_response
from peersync.transport.body import read_message

WHO_BYTES = 4096


class MemberView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One member. `applied`: its highest position here; `has`: the highest of ours it told of."""

    name: str
    node_id: str
    origin: int
    state: str
    own: bool
    applied: int
    has: int
    sponsor: str | None = None


class MembersView(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`group` is None where the database takes part in nothing."""

    database: str
    group: str | None = None
    members: tuple[MemberView, ...] = ()


class ExpireRequest(OperatorRequest, frozen=True):
    """`POST /api/admin/members/expire`; `member` is a node's name."""

    member: str


class MembersApi:
    """The handlers; `routes` lists them."""

    def __init__(self, periodic: Periodic, databases: Databases) -> None:
        self._periodic = periodic
        self._databases = databases

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/members", self._list),
            web.post("/api/admin/members/expire", self._expire),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        return json_response(await self._view(request.query.get("database", "")))

    async def _expire(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, ExpireRequest, limit=WHO_BYTES)
        database = await self._databases.ready(wanted.database)
        async with database.connect("members", what="expiring a member") as conn:
            replica = await read_replica(conn)
            if replica is None or replica.state != "active":
                raise BadRequest(f"{database.name} of this node is no active member of a group")
            member = _one(await read_members(conn), replica, wanted.member)
            async with conn.transaction():
                await say_expire(conn, member.origin)
        self._periodic.refresh(database.name)
        return json_response(await self._view(database.name))

    async def _view(self, name: str) -> MembersView:
        database = await self._databases.ready(name)
        async with database.acquire("reading the members") as conn:
            replica, members = await read_replica(conn), await read_members(conn)
        if replica is None:
            return MembersView(database=name)
        names = {member.origin: member.node_name for member in members}
        return MembersView(
            database=name,
            group=replica.group_id,
            members=tuple(
                MemberView(
                    name=m.node_name,
                    node_id=m.node_id,
                    origin=m.origin,
                    state=replica.state if m.origin == replica.origin else m.state,
                    own=m.origin == replica.origin,
                    applied=m.applied,
                    has=m.applied if m.origin == replica.origin else m.seen.get(replica.origin, 0),
                    sponsor=names.get(m.sponsor) if m.sponsor else None,
                )
                for m in members
            ),
        )


def _one(members: list[Member], replica: Replica, name: str) -> Member:
    found = [m for m in members if m.counts and m.node_name == name and m.origin != replica.origin]
    if len(found) != 1:
        others = ", ".join(m.node_name for m in members if m.counts and m.origin != replica.origin)
        raise NotFound(f"no member is called {name!r}", detail=f"there are: {others or 'none'}")
    return found[0]
