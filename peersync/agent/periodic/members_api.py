"""Who is in the group of a database, for people; and who of them is waited for no more.

The log is kept for every member. One that never comes back is expired by a person, or, where more
than half of the members can still be heard, by itself after `periodic.retention_d`. It loses
nothing by that: when it comes back it takes everything anew and sends what it has (rebaseline).

A typed expiry, too, needs more than half of the members: those who miss that one as well give
their word (`expiring`). Of two members neither is more than half, so there the person who types it
decides; elsewhere `force` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import asyncpg
import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.admin_api import InDatabaseQuery, OperatorRequest
from peersync.agent.periodic.expiring import (
    ALIVE_S,
    expire_if_agreed,
    heard_s,
    waits_for_words,
)
from peersync.agent.periodic.hub import Hub
from peersync.agent.periodic.loop import Periodic
from peersync.core.errors import BadRequest, Locked, NotFound
from peersync.postgres.log.members import Member, Replica, read_members, read_replica
from peersync.postgres.log.membership import say_expire, say_word
from peersync.postgres.log.oneway import set_direction
from peersync.transport.app import json_response
from peersync.transport.body import read_message
from peersync.transport.query import read_query
from peersync.wire.messages import Direction

log = logging.getLogger("peersync.periodic")

WHO_BYTES = 4096
SETTLE_S: Final = 15.0  # for so long the answer waits for the word of the other members
LOOK_S: Final = 0.2


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member. `applied`: its highest position here; `has`: the highest of ours it told of.

    `heard_s`: how long ago it last asked or answered, or made a change; None for never.
    `direction`: both, receive (it gives no changes of its own) or give (it applies none of others).
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
    direction: str = "both"


class MembersView(msgspec.Struct, frozen=True, kw_only=True):
    """`group` is None where the database takes part in nothing."""

    database: str
    group: str | None = None
    members: tuple[MemberView, ...] = ()


class ExpireRequest(OperatorRequest, frozen=True):
    """`POST /api/admin/members/expire`; `member` is a node's name.

    `force`: also one that is there, and without asking the other members. `dry_run`: only says
    whether it would be done.
    """

    member: str
    force: bool = False
    dry_run: bool = False


class DirectionRequest(OperatorRequest, frozen=True):
    """`POST /api/admin/members/direction`: what this database does from now on."""

    direction: Direction


class MembersApi:
    """The handlers; `routes` lists them."""

    def __init__(self, periodic: Periodic, databases: Databases) -> None:
        self._periodic = periodic
        self._databases = databases

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/members", self._list),
            web.post("/api/admin/members/expire", self._expire),
            web.post("/api/admin/members/direction", self._direction),
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
            members = await read_members(conn)
            member = _one(members, replica, wanted.member)
            if not wanted.force:
                _refuse_alive(self._periodic.hub(database.name), member)
            if not wanted.dry_run:
                pair = sum(m.counts for m in members) == 2  # neither is more than half
                await self._say(conn, member, wanted, decided=wanted.force or pair)
        self._periodic.refresh(database.name)
        return json_response(await self._view(database.name))

    async def _direction(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, DirectionRequest, limit=WHO_BYTES)
        database = await self._databases.ready(wanted.database)
        async with database.connect("members", what="changing the direction") as conn:
            await set_direction(conn, wanted.direction)
        log.warning("%s: rows go %s from now on, by %s", database.name, wanted.direction, wanted.by)
        self._periodic.refresh(database.name)
        return json_response(await self._view(database.name))

    async def _say(
        self, conn: asyncpg.Connection, member: Member, wanted: ExpireRequest, *, decided: bool
    ) -> None:
        """Expires a member, or asks the others for their word."""
        async with conn.transaction():
            if decided:
                await say_expire(conn, member.origin)
            else:
                await say_word(conn, member.origin, asks=True)
        what = "was expired by" if decided else "is to be expired, asks"
        log.warning("%s: %s %s %s", wanted.database, member.node_name, what, wanted.by)
        if not decided:
            self._periodic.refresh(wanted.database)
            await _until_agreed(self._periodic.hub(wanted.database), conn, member.origin)

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
                    state=_state(m, replica),
                    own=m.origin == replica.origin,
                    applied=m.applied,
                    has=m.applied if m.origin == replica.origin else m.seen.get(replica.origin, 0),
                    sponsor=names.get(m.sponsor) if m.sponsor else None,
                    heard_s=None if m.origin == replica.origin else heard_s(hub, m),
                    direction=replica.direction if m.origin == replica.origin else m.direction,
                )
                for m in members
            ),
        )


def _state(member: Member, replica: Replica) -> str:
    if member.origin == replica.origin:
        return replica.state
    return "expiring" if waits_for_words(member, replica.origin) else member.state


async def _until_agreed(hub: Hub, conn: asyncpg.Connection, origin: int) -> None:
    """Until more than half have given their word, or for a while: they may be out of reach."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        if await expire_if_agreed(hub, conn, origin):
            return
        if not any(m.counts and m.origin == origin for m in await read_members(conn)):
            return  # the keeper was quicker
        await asyncio.sleep(LOOK_S)


def _refuse_alive(hub: Hub, member: Member) -> None:
    """Raises Locked for a member that was heard a moment ago: expiring is for those that are gone.

    It would have to take everything anew, and what it does not know of yet is not sent to it.
    """
    ago = heard_s(hub, member)
    if ago is None or ago > ALIVE_S:
        return
    raise Locked(
        f"{member.node_name} is there: it was heard {ago:.0f} s ago; nothing was changed",
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
