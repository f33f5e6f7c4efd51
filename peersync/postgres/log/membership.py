"""What the transactions of a group say about its members, and the end of a membership.

A join, a leave and an expiry are transactions like others: they have a position, and everybody
learns of them in the same order as of the changes around them. Before an expiry that no person
has decided, its author asks: who does not hear that member either gives its word, and more than
half must have (`agreed`), so that two parts of a split never expire each other.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import asyncpg

from peersync.core.errors import ProtocolError
from peersync.core.order.membership import (
    acknowledged,
    expiry_complete,
    join_is_void,
    may_be_expired,
)
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
    """What a transaction of kind j, l, e, w changes here, inside the one that applies it."""
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
    elif kind == "w":
        asks = bool((info or {}).get("asks"))
        await conn.execute(_SQL["note_word"], subject, origin, time.time(), asks)


async def say_leave(conn: asyncpg.Connection, origin: int) -> int:
    """Publishes that an origin takes part no more; gives the position. Inside a transaction."""
    position = await announce(conn, "l", {"origin": origin})
    await conn.execute(_SQL["leave"], origin)
    return position


async def say_expire(conn: asyncpg.Connection, origin: int) -> int:
    """Publishes that an origin is waited for no more; gives the position. Inside a transaction.

    The caller is a person, or has `agreed`. It still counts for what is kept until `counting`
    says that nobody can hear of it any more.
    """
    replica = await read_replica(conn)
    assert replica is not None
    position = await announce(conn, "e", {"origin": origin})
    await conn.execute(_SQL["expire"], origin, replica.origin, position)
    return position


async def say_word(conn: asyncpg.Connection, origin: int, *, asks: bool) -> None:
    """Publishes that this database does not hear an origin. Inside a transaction.

    `asks`: the others are to say whether they do, and this database expires it if they agree.
    """
    replica = await read_replica(conn)
    assert replica is not None
    await announce(conn, "w", {"origin": origin, "asks": asks})
    await conn.execute(_SQL["note_word"], origin, replica.origin, time.time(), asks)


def agreed(members: Sequence[Member], subject: Member, *, since: float) -> bool:
    """Whether more than half have given their word, after `since`, that a member be expired."""
    known, fenced, joins = _knowledge(members)
    agreeing = {origin for origin, word in subject.said.items() if word.at >= since}
    return may_be_expired(subject.origin, agreeing, joins, known, fenced)


def who_lacks_the_join(members: Sequence[Member], origin: int) -> list[Member]:
    """Members that have not told yet that they know of the join of `origin`; [] for a founder (R8).

    As long as there are any it may let nobody join: were its sponsor expired now, the join would
    be void, and whoever came through it would be cut off with it.
    """
    own = next((m for m in members if m.origin == origin), None)
    if own is None or own.sponsor is None or own.joined_at is None:
        return []
    known, fenced, _ = _knowledge(members)
    sponsor, position = own.sponsor, own.joined_at
    if not (known.keys() - {origin}) or acknowledged(origin, sponsor, position, known, fenced):
        return []
    others = [m for m in members if m.counts and m.origin != origin]
    return [m for m in others if known[m.origin].of(m.origin, sponsor) < position]


def who_may_have_more(members: Sequence[Member], origin: int) -> list[Member]:
    """Members that may have transactions of an expired origin that are not here (R10).

    Those that have not told that they know of its expiry, and those that have told of more.
    """
    gone = next((m for m in counting(members) if m.origin == origin and not m.counts), None)
    if gone is None:
        return []
    known, _, _ = _knowledge(members)
    by, at = gone.expired_by or 0, gone.expired_at or 0
    return [
        m
        for m in members
        if m.counts
        and (known[m.origin].of(m.origin, by) < at or m.seen.get(origin, 0) > gone.applied)
    ]


def counting(members: Sequence[Member]) -> list[Member]:
    """For whom the log is kept: members, and the expired of whom something may still come."""
    known, fenced, _ = _knowledge(members)
    vector = {m.origin: m.applied for m in members}
    return [m for m in members if m.counts or not _is_over(m, vector, known, fenced)]


def forgotten(members: Sequence[Member]) -> list[int]:
    """The origins whose expiry is complete here: nothing of them can come any more."""
    still = {m.origin for m in counting(members)}
    return [m.origin for m in members if m.state == "expired" and m.origin not in still]


def sponsor_if_void(members: Sequence[Member], origin: int, expired: Collection[int]) -> str | None:
    """The sponsor's name where a member that does not know `origin` has forgotten these (R9)."""
    own = next((m for m in members if m.origin == origin), None)
    if own is None or own.sponsor is None or not join_is_void(origin, (), expired, own.sponsor):
        return None
    return next((m.node_name for m in members if m.origin == own.sponsor), "its sponsor")


def _knowledge(
    members: Sequence[Member],
) -> tuple[dict[int, Known], set[int], dict[int, tuple[int, int]]]:
    """What each member that counts has told of, who counts no more, and who joined by whom."""
    known = {m.origin: Known(m.applied, m.seen) for m in members if m.counts}
    fenced = {m.origin for m in members if not m.counts}
    joins = {m.origin: (m.sponsor, m.joined_at) for m in members if m.sponsor and m.joined_at}
    return known, fenced, joins


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
