"""What the transactions of a group say about its members, and the end of a membership.

A join, a leave and an expiry are transactions like others: they have a position, and everybody
learns of them in the same order as of the changes around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from peersync.core.errors import ProtocolError
from peersync.core.order.membership import expiry_complete
from peersync.core.order.stability import Known
from peersync.postgres.log import capture
from peersync.postgres.log.members import Member, add_member, read_members, read_replica
from peersync.postgres.log.publish import announce
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("members")


async def apply_event(
    conn: asyncpg.Connection,
    origin: int,
    position: int,
    kind: str,
    info: Mapping[str, Any] | None,
    seen: Mapping[int, int],
) -> None:
    """What a transaction of kind j, l or e changes here, inside the transaction that applies it."""
    subject = (info or {}).get("origin")
    if not isinstance(subject, int):
        raise ProtocolError(f"a transaction of kind {kind} does not say whom it is about")
    if kind == "j":
        known = {member.origin for member in await read_members(conn)}
        if subject not in known:
            await add_member(
                conn,
                subject,
                str((info or {}).get("nodeId", ""))[:255],
                str((info or {}).get("nodeName", ""))[:255],
                seen={**seen, origin: position},
                sponsor=origin,
                joined_at=position,
            )
    elif kind == "l":
        await conn.execute(_SQL["leave"], subject)
    elif kind == "e":
        await conn.execute(_SQL["expire"], subject, origin, position)


async def say_leave(conn: asyncpg.Connection, origin: int) -> int:
    """Publishes that an origin takes part no more; gives the position. Inside a transaction."""
    position = await announce(conn, "l", {"origin": origin})
    await conn.execute(_SQL["leave"], origin)
    return position


async def say_expire(conn: asyncpg.Connection, origin: int) -> int:
    """Publishes that an origin is waited for no more; gives the position. Inside a transaction.

    It still counts for what is kept until `still_counts` says that nobody can hear of it any more.
    """
    replica = await read_replica(conn)
    assert replica is not None
    position = await announce(conn, "e", {"origin": origin})
    await conn.execute(_SQL["expire"], origin, replica.origin, position)
    return position


def counting(members: Sequence[Member]) -> list[Member]:
    """For whom the log is kept: members, and the expired of whom something may still come."""
    known = {m.origin: Known(m.applied, m.seen) for m in members if m.counts}
    fenced = {m.origin for m in members if not m.counts}
    vector = {m.origin: m.applied for m in members}
    return [m for m in members if m.counts or not _is_over(m, vector, known, fenced)]


def _is_over(
    member: Member, vector: Mapping[int, int], known: Mapping[int, Known], fenced: set[int]
) -> bool:
    if member.expired_by is None or member.expired_at is None or member.state != "expired":
        return True
    return expiry_complete(
        member.origin, member.expired_by, member.expired_at, vector, known, fenced
    )


async def dissolve(conn: asyncpg.Connection) -> None:
    """Ends the part of this database: no capture, no log, no members. Conflicts stay readable."""
    await capture.remove(conn)
    async with conn.transaction():
        await conn.execute(_SQL["dissolve"])
