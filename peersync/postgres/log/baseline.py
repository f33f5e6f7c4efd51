"""The baseline of a full sync on a member: rows and log at one moment, for whoever takes them.

Publishing first and looking afterwards never meets a moment without an unpublished change when
there is load. So the changes are published inside the very view: a REPEATABLE READ transaction
publishes, says "join" where somebody joins, exports its snapshot, and a keeper takes that over
before it commits. Whoever reads the keeper's view sees exactly the rows that the vector claims.

It refuses whoever could be misled by what this database has: while it lacks changes itself, while
not everybody knows it, and, of a member that comes back, while another may have more of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from peersync.core.errors import BadRequest, Locked
from peersync.core.names import TableName, quote_literal
from peersync.core.words import counted
from peersync.postgres.backup import View, begin_view, open_view, read_view
from peersync.postgres.log.members import (
    Member,
    Replica,
    add_member,
    read_members,
    read_replica,
    read_vector,
)
from peersync.postgres.log.membership import (
    say_expire,
    who_lacks_the_join,
    who_may_have_more,
)
from peersync.postgres.log.oneway import refuse_one_way
from peersync.postgres.log.publish import announce, publish
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import GroupBaseline, JoinRequest, MemberInfo

_SQL: Final = queries("baseline")
PATIENCE_S: Final = 30.0  # for the others to tell what they know; each does in [periodic] beat_s
_LOOK_S: Final = 0.2


@dataclass(frozen=True)
class Taken:
    """The view of the rows. `log` is the view in which the log is complete, for who joins."""

    view: View
    vector: dict[int, int]
    group: GroupBaseline | None = None
    log: View | None = None


@asynccontextmanager
async def baseline(
    database: Database,
    keeper: asyncpg.Connection,
    tables: Sequence[TableName],
    *,
    node_id: str,
    join: JoinRequest | None,
    lock_timeout_s: float,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[Taken]:
    """What is taken is kept as long as the context and the keeper's transaction last.

    `node_id`: of the one who joins. Raises BadRequest when this database can't let anybody join,
    Locked when it could once other members have told something, after `patience_s` seconds.
    """
    async with database.connect(
        "baseline", what="taking the baseline", lock_timeout_s=lock_timeout_s
    ) as conn:
        replica = await read_replica(conn)
        if replica is None or replica.state != "active":
            if join is not None:
                raise BadRequest(
                    "the source takes part in no periodic sync at the moment",
                    detail=replica.reason if replica else None,
                )
            yield Taken(await open_view(keeper, tables), {})
            return
        if join is not None:
            await refuse_to_sponsor(conn, patience_s=patience_s)
            await _end_earlier(conn, node_id, join, patience_s)
        await begin_view(keeper, tables)  # waits for DDL: before anything waits for us
        await conn.execute(_SQL["lock"])
        try:
            taken = await _take(conn, keeper, node_id, join)
            if join is not None:
                await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                log = await read_view(conn)
                taken = Taken(taken.view, taken.vector, taken.group, log)
        finally:
            if not conn.is_closed():
                await conn.execute(_SQL["unlock"])
        yield taken


async def _take(
    conn: asyncpg.Connection, keeper: Any, node_id: str, join: JoinRequest | None
) -> Taken:
    async with conn.transaction(isolation="repeatable_read"):
        await publish(conn)
        if join is not None:
            await _admit(conn, node_id, join)
        replica, members = await read_replica(conn), await read_members(conn)
        vector = await read_vector(conn)
        assert replica is not None
        exported = await conn.fetchval("SELECT pg_catalog.pg_export_snapshot()")
        await keeper.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(exported)}")
        view = await read_view(keeper)
    return Taken(view, vector, _group(replica, members))


async def _admit(conn: asyncpg.Connection, node_id: str, join: JoinRequest) -> None:
    """Makes the one who joins a member, here and, by a transaction, everywhere."""
    await refuse_to_sponsor(conn, patience_s=0)
    members = await read_members(conn)
    member = next((m for m in members if m.origin == join.origin), None)
    if member is not None:  # an earlier attempt of the same session: nothing of it is published
        if member.node_id != node_id or not member.counts or member.applied:
            raise BadRequest("this origin has taken part before, and must join with a new one")
        return
    info = {"origin": join.origin, "nodeId": node_id, "nodeName": join.node_name}
    position = await announce(conn, "j", info)
    replica = await read_replica(conn)
    assert replica is not None
    await add_member(
        conn,
        join.origin,
        node_id,
        join.node_name,
        seen=await read_vector(conn),
        sponsor=replica.origin,
        joined_at=position,
    )


async def _end_earlier(
    conn: asyncpg.Connection, node_id: str, join: JoinRequest, patience_s: float
) -> None:
    """What the one who joins was before is expired, and all that any member has of it is here.

    It gave that state up, and makes again what this database lacks of it. Where another member
    had some of that, it would be done twice, and over what was written on top of it (R10, R11).
    """
    for earlier in await read_members(conn):
        if earlier.node_id == node_id and earlier.counts and earlier.origin != join.origin:
            async with conn.transaction():
                await say_expire(conn, earlier.origin)

    def lacking(members: Sequence[Member]) -> list[Member]:
        mine = [m.origin for m in members if m.node_id == node_id and m.origin != join.origin]
        return [other for origin in mine for other in who_may_have_more(members, origin)]

    if waited := await _patiently(conn, lacking, patience_s):
        raise Locked(
            f"{join.node_name} can't be taken in again yet: {waited} may have changes of it that "
            "are not here",
            hint=f"Wait until {waited} can be reached from here (peersync members list), then "
            "start again.\nOf one that never comes back, on this server: "
            "peersync members expire NODE",
        )


async def refuse_to_sponsor(conn: asyncpg.Connection, *, patience_s: float = PATIENCE_S) -> None:
    """Raises where nobody may join from this database. No log is needed.

    BadRequest where it is one-way, or while changes wait in quarantine: who joins would never get
    them.
    Locked while not everybody knows this one: were its own sponsor expired, both would be cut off.
    """
    replica = await read_replica(conn)
    if replica is None:
        return
    refuse_one_way(replica)
    if waiting := await conn.fetchval(_SQL["waiting"]):
        raise BadRequest(
            "nobody can join from the source now: it has changes that are not in its rows",
            detail=f"{counted(waiting, 'change')} in its quarantine",
            hint="On the source: peersync quarantine list (retry, edit or skip them), and "
            "peersync tables list for parked tables. Or join from another member.",
        )

    def lacking(members: Sequence[Member]) -> list[Member]:
        return who_lacks_the_join(members, replica.origin)

    if waited := await _patiently(conn, lacking, patience_s):
        members = await read_members(conn)
        sponsor = next((m.sponsor for m in members if m.origin == replica.origin), None)
        name = next((m.node_name for m in members if m.origin == sponsor and m.counts), None)
        raise Locked(
            "nobody can join from the source yet: it has joined itself, and "
            f"{waited} has not told that it knows",
            hint=f"Join from {name or 'another member'}, or wait until {waited} can be reached.\n"
            "Of one that never comes back, on any member: peersync members expire NODE",
        )


async def _patiently(
    conn: asyncpg.Connection, lacking: Callable[[Sequence[Member]], list[Member]], patience_s: float
) -> str | None:
    """Waits until nobody is lacking; the names of those who still are, None for nobody."""
    deadline = time.monotonic() + patience_s
    while found := lacking(await read_members(conn)):
        if time.monotonic() >= deadline:
            return ", ".join(sorted({m.node_name for m in found}))
        await asyncio.sleep(_LOOK_S)
    return None


def _group(replica: Replica, members: Sequence[Member]) -> GroupBaseline:
    return GroupBaseline(
        group=replica.group_id,
        origin=replica.origin,
        hlc=replica.hlc,
        members=tuple(
            MemberInfo(
                origin=m.origin,
                node_id=m.node_id,
                node_name=m.node_name,
                state=m.state,  # type: ignore[arg-type]  # a CHECK of its table
                applied=m.applied,
                applied_hlc=m.applied_hlc,
                floor=m.floor,
                seen=m.seen,
                sponsor=m.sponsor,
                joined_at=m.joined_at,
                expired_by=m.expired_by,
                expired_at=m.expired_at,
                direction=m.direction,  # type: ignore[arg-type]  # as it was noted
            )
            for m in members
        ),
    )
