"""Who is in the group of a database, for people; and who of them is waited for no more.

The log is kept for every member. One that never comes back is expired by a person, or, where more
than half of the members can still be heard, by itself after `periodic.retention_d`. It loses
nothing by that: when it comes back it takes everything anew and sends what it has (rebaseline).
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.admin_api import InDatabaseQuery, OperatorRequest
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.loop import Periodic
from peersync.core.errors import BadRequest, Locked, NotFound
from peersync.postgres.log.members import Member, Replica, read_members, read_replica
from peersync.postgres.log.membership import say_expire
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query

log = logging.getLogger("peersync.periodic")

WHO_BYTES = 4096
ALIVE_S: Final = 60.0  # who was heard since then is there


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member. `applied`: its highest position here; `has`: the highest of ours it told of.

    `heard_s`: how long ago it last asked or answered, or made a change; None for never.
    """

    name: str
    node_id: str
    origin: int
    state: str
    own: bool
    applied: int
    has: int
    sponsor: str | None = None
    heard_s: float | None = None


class MembersView(msgspec.Struct, frozen=True, kw_only=True):
    """`group` is None where the database takes part in nothing."""

    database: str
    group: str | None = None
    members: tuple[MemberView, ...] = ()


class ExpireRequest(OperatorRequest, frozen=True):
    """`POST /api/admin/members/expire`; `member` is a node's name.

    `force`: also one that is there. `dry_run`: only says whether it would be done.
    """

    member: str
    force: bool = False
    dry_run: bool = False


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
        return json_response(await self._view(read_query(request, InDatabaseQuery).database))

    async def _expire(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, ExpireRequest, limit=WHO_BYTES)
        database = await self._databases.ready(wanted.database)
        async with database.connect("members", what="expiring a member") as conn:
            replica = await read_replica(conn)
            if replica is None or replica.state != "active":
                raise BadRequest(f"{database.name} of this node is no active member of a group")
            member = _one(await read_members(conn), replica, wanted.member)
            if not wanted.force:
                _refuse_alive(self._periodic.hub(database.name), member)
            if not wanted.dry_run:
                async with conn.transaction():
                    await say_expire(conn, member.origin)
                log.warning("%s: %s was expired by %s", database.name, member.node_name, wanted.by)
        self._periodic.refresh(database.name)
        return json_response(await self._view(database.name))

    async def _view(self, name: str) -> MembersView:
        database = await self._databases.ready(name)
        async with database.acquire("reading the members") as conn:
            replica, members = await read_replica(conn), await read_members(conn)
        if replica is None:
            return MembersView(database=name)
        hub = self._periodic.hub(name)
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
                    heard_s=None if m.origin == replica.origin else _heard_s(hub, m),
                )
                for m in members
            ),
        )


def _heard_s(hub: Hub, member: Member) -> float | None:
    """How long ago a member asked or answered, or made the last change of it that is here."""
    link = hub.links.get(member.node_id)
    direct = link.contact_at if link is not None and link.origin == member.origin else None
    told = hub.proved_at.get(member.origin)
    times = [t for t in (direct, told, member.applied_hlc / 1_000_000) if t]
    return round(max(time.time() - max(times), 0.0), 1) if times else None


def _refuse_alive(hub: Hub, member: Member) -> None:
    """Raises Locked for a member that was heard a moment ago: expiring is for those that are gone.

    It would have to take everything anew, and what it does not know of yet is not sent to it.
    """
    heard_s = _heard_s(hub, member)
    if heard_s is None or heard_s > ALIVE_S:
        return
    raise Locked(
        f"{member.node_name} is there: it was heard {heard_s:.0f} s ago; nothing was changed",
        hint=f"To take it out of the group, on {member.node_name}: "
        f"peersync leave --database {hub.name}\n"
        f"Expire it all the same: peersync members expire {member.node_name} "
        f"--database {hub.name} --force",
    )


def _one(members: list[Member], replica: Replica, name: str) -> Member:
    found = [m for m in members if m.counts and m.node_name == name and m.origin != replica.origin]
    if len(found) != 1:
        others = ", ".join(m.node_name for m in members if m.counts and m.origin != replica.origin)
        raise NotFound(f"no member is called {name!r}", detail=f"there are: {others or 'none'}")
    return found[0]
