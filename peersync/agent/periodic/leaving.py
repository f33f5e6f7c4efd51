"""How a database leaves its group: its changes fetched by the others, then its good-bye.

It refuses to go while a member has not fetched everything: `force` is the operator's word that it
may be lost to them. What a member has is what it told itself, or what came of it through others.
The rows here stay as they are.
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
from peersync.postgres.history import History
from peersync.postgres.log.members import Member, last_said, read_members, read_replica
from peersync.postgres.log.membership import dissolve, say_leave
from peersync.postgres.log.publish import publish
from peersync.postgres.pool import Database
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


class Left(msgspec.Struct, frozen=True, kw_only=True):
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
        """Locked while a member lacks something and `force` is not given, or a full sync runs."""
        hub = self._periodic.hub(wanted.database)
        database = await self._databases.ready(wanted.database)
        await _refuse_busy(database)
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
                    has = {m.node_name: _has(hub, m, replica.origin) for m in behind}
                    raise _not_yet(hub.name, has, await last_said(conn))
                async with conn.transaction():
                    await say_leave(conn, replica.origin)
                hub.news.tell()
                untold = await self._fetched(hub, conn, _GOODBYE_S, direct=True)
                late = {m.origin for m in untold}
                told = [m for m in await _others(conn) if m.origin not in late]
            async with hub.capturing:  # who looks for tables meanwhile would capture them again
                await dissolve(conn)
        self._periodic.refresh(hub.name)
        return Left(
            database=hub.name,
            told=tuple(member.node_name for member in told),
            behind=tuple(member.node_name for member in behind),
        )

    async def _fetched(
        self, hub: Hub, conn: asyncpg.Connection, timeout_s: float, *, direct: bool = False
    ) -> list[Member]:
        """Waits for the others; gives those that still lack something of ours.

        `direct`: only those that talk to this node are waited for; they tell the rest.
        """
        replica = await read_replica(conn)
        assert replica is not None
        wanted = await last_said(conn)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            behind = [m for m in await _others(conn) if _has(hub, m, replica.origin) < wanted]
            waited = [m for m in behind if not direct or m.origin in hub.proved]
            if not waited or asyncio.get_running_loop().time() >= deadline:
                return behind
            await asyncio.sleep(_LOOK_S)


async def _others(conn: asyncpg.Connection) -> list[Member]:
    replica = await read_replica(conn)
    own = replica.origin if replica else None
    return [m for m in await read_members(conn) if m.counts and m.origin != own]


def _has(hub: Hub, member: Member, origin: int) -> int:
    """How many transactions of an origin a member has: told by itself, or through others."""
    return max(hub.proved.get(member.origin, {}).get(origin, 0), member.seen.get(origin, 0))


async def _refuse_busy(database: Database) -> None:
    """Locked while a full sync writes here: after a join that runs it would be a member again."""
    found = await History(database).unfinished("target")
    if not found:
        return
    entry = found[0]
    what = "a join" if entry.options.get("join") else "a full sync"
    raise Locked(
        f"{database.name} is busy: {what} from {entry.peer} is running (job {entry.session})",
        hint=f"Watch it: peersync jobs watch {entry.session[:8]}\n"
        f"or stop it: peersync jobs cancel {entry.session[:8]}",
        holder={"job": entry.session, "since": entry.started_at},
    )


def _not_yet(database: str, has: dict[str, int], position: int) -> Locked:
    """`has`: by node, how many of the `position` transactions of this database it has."""
    facts = ", ".join(f"{node} has {number} of {position}" for node, number in has.items())
    return Locked(
        f"not all changes of {database} were fetched yet: {facts}; nothing was changed",
        hint=f"See what the others have: peersync members list --database {database}\n"
        "Of one that never comes back: "
        f"peersync members expire {next(iter(has))} --database {database}\n"
        "Leave all the same, and keep those changes to this server: "
        f"peersync leave --database {database} --force",
    )
