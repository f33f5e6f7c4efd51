"""How a database becomes a member of a group, and how it stops being one.

It joins by a full sync from any one member, its sponsor: that publishes the join and gives its
rows together with its log. The joiner catches its own changes from before the first row comes,
and publishes them only when it has taken over: whatever people did here meanwhile counts as done
after what the sponsor had, stays, and is sent.
"""

from __future__ import annotations

import logging
from typing import Final

import asyncpg

from peersync.agent.plan import Plan
from peersync.config.model import Config
from peersync.core.errors import (
    BadRequest,
    Locked,
    PeersyncError,
    PermissionMissing,
    SchemaMismatch,
)
from peersync.core.patterns import Patterns
from peersync.core.words import counted
from peersync.postgres.log import capture
from peersync.postgres.log.members import (
    Replica,
    back_to_earlier_origin,
    change_origin,
    found,
    read_earlier,
    read_members,
    read_replica,
)
from peersync.postgres.log.membership import dissolve, say_leave
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import JoinRequest, Options

log = logging.getLogger("peersync.periodic")

LOCK_TIMEOUT_S: Final = 5.0
_SQL: Final = queries("members")
_NO_GROUP: Final = "00000000-0000-0000-0000-000000000000"  # until the sponsor says which


async def found_group(database: Database, config: Config, *, node_id: str, name: str) -> None:
    """Makes a database the first of a group, unless it is in one. Its tables are captured first.

    Raises Locked while a table can't be captured because somebody holds it.
    """
    async with database.connect("join", what="founding a group") as conn:
        if await read_replica(conn) is None:
            await _capture(conn, _patterns(config, database))
            async with conn.transaction():
                await found(conn, node_id, name)
            log.info("%s: this node is the first of its group", database.name)


async def prepare_join(
    database: Database,
    config: Config,
    *,
    node_id: str,
    name: str,
    anew: bool,
    direction: str | None = None,
) -> JoinRequest:
    """Catches the changes of a database from now on, under the origin that it joins with.

    `anew`: it was a member, and comes back. Raises SchemaMismatch where it is one and that is
    not wanted, Locked as `found_group` does.
    """
    async with database.connect("join", what="preparing to join") as conn:
        replica = await read_replica(conn)
        if not anew:
            refuse_member(replica, database.name)
        await _capture(conn, _patterns(config, database))
        async with conn.transaction():
            if replica is None:
                replica = await found(conn, node_id, name, group_id=_NO_GROUP, state="joining")
            elif replica.state != "joining":
                replica = await change_origin(conn, node_id, name)
            if direction is None:  # not what an attempt before this one was told
                earlier = await read_earlier(conn)
                direction = earlier.direction if earlier else "both"
            await conn.execute(_SQL["set_direction"], direction)
        return JoinRequest(origin=replica.origin, node_name=name)


def refuse_member(replica: Replica | None, database: str) -> None:
    """Raises SchemaMismatch for a database that has joined already."""
    if replica is not None and replica.state != "joining":
        raise SchemaMismatch(
            f"{database} of this node takes part in periodic sync already",
            hint="See how it is: peersync status. Take everything anew from a peer: "
            "peersync rebaseline PEER. Stop taking part: peersync leave",
        )


def refuse_plan(plan: Plan, options: Options, *, replica_role: bool) -> None:
    """Raises what keeps a database from being a member after the full sync that is planned."""
    if (options.merge or options.anew) and not options.join:
        raise BadRequest("merge and anew are ways to join")
    if options.direction and not options.join:
        raise BadRequest("which way rows go is said when a database joins")
    if not options.join:
        return
    if options.tables or options.exclude_tables or options.per_table or options.source_wins:
        raise BadRequest(
            "a join takes all tables of a database, in one transaction",
            hint="Leave tables out by exclude = [...] of the database, on both servers.",
        )
    if not options.verify:
        raise BadRequest("a join compares what it has taken; --no-verify can't be had with it")
    if not replica_role:
        raise PermissionMissing(
            "the role of the conninfo may not set session_replication_role, so what it applies "
            "could not be told from what people change here",
            hint="peersync grants prints the statement; a superuser runs it once.",
        )
    if plan.blocked:
        listed = "\n".join(f"{t.table}: {t.reason}" for t in plan.blocked)
        raise SchemaMismatch(
            "a join takes all tables, and some can't be taken",
            detail=listed,
            hint="Mend that, or leave the tables out on both servers: exclude = [...]",
        )
    hidden = [str(t.table) for t in plan.tables if t.filtered]
    if hidden:
        raise SchemaMismatch(
            f"{plan.source} keeps rows of {', '.join(hidden)} to itself by a filter",
            hint="A member has all rows. Leave the table out on both servers, or pull instead.",
        )
    if options.anew:
        return  # rows that it alone has are changes that it has not sent, or were deleted elsewhere
    only_here = sum(t.counts.target_only or 0 for t in plan.tables if t.counts.exact)
    if only_here and not (options.mirror or options.merge):
        raise SchemaMismatch(
            f"{counted(only_here, 'row')} are only on this server",
            hint=f"Send them to the others: peersync merge {plan.source}. "
            f"Or delete them: peersync join {plan.source} --mirror",
        )


async def capture_created(database: Database, config: Config) -> None:
    """Tables that the full sync has just created: their rows are in, nobody has changed them."""
    async with database.connect("join", what="capturing new tables") as conn:
        await _capture(conn, _patterns(config, database))


async def abandon_join(database: Database) -> None:
    """A join that failed for good leaves no capture behind. Never raises for the database."""
    try:
        async with database.connect("join", what="giving up a join") as conn:
            replica = await read_replica(conn)
            if replica is None or replica.state != "joining":
                return
            async with conn.transaction():
                held = await back_to_earlier_origin(conn, "it was not taken anew from a peer")
            if not held:
                await dissolve(conn)
    except PeersyncError as exc:
        log.warning("%s: giving up a join: %s", database.name, exc)


async def withdraw_join(database: Database, join: JoinRequest) -> None:
    """On the sponsor: who was admitted, and did not take over, is waited for no more."""
    async with database.connect("join", what="withdrawing a join") as conn:
        replica = await read_replica(conn)
        members = {member.origin: member for member in await read_members(conn)}
        member = members.get(join.origin)
        if replica is None or replica.state != "active" or member is None:
            return
        if member.counts and not member.applied:
            async with conn.transaction():
                await say_leave(conn, join.origin)


def _patterns(config: Config, database: Database) -> Patterns:
    settings = config.database[database.name]
    return Patterns(settings.include, settings.exclude)


async def _capture(conn: asyncpg.Connection, patterns: Patterns) -> None:
    states = await capture.enrol(conn, patterns, lock_timeout_s=LOCK_TIMEOUT_S)
    held = [str(s.name) for s in states if s.state == "refused" and s.reason == capture.LOCKED]
    if held:
        raise Locked(
            f"changes of {', '.join(held)} can't be captured yet: somebody holds the table",
            hint="Wait for the transaction that uses it to end, then start again.",
        )
