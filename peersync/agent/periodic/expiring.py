"""When a member is expired without a person's word: more than half of the others do not hear it.

Each part of a network that is cut in two misses the other. So who would expire a member asks
first, and each that misses it as well gives its word; with the words of more than half the one who
asked expires it (ORDER R12). Two parts can't both have that. Of two members, or of two halves,
neither has it: a person decides.

It refuses to judge why a member is missed, and decides nothing about what is kept for it.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import asyncpg

from peersync.agent.periodic.hub import Hub
from peersync.postgres.log.members import Member, Replica, read_members
from peersync.postgres.log.membership import agreed, say_expire, say_word

log = logging.getLogger("peersync.periodic")

ALIVE_S: Final = 60.0  # who was heard since then is there
WORD_S: Final = 300.0  # for so long a word counts


def heard_s(hub: Hub, member: Member) -> float | None:
    """How long ago a member asked or answered, or made the last change of it that is here."""
    link = hub.links.get(member.node_id)
    direct = link.contact_at if link is not None and link.origin == member.origin else None
    told = hub.proved_at.get(member.origin)
    times = [t for t in (direct, told, member.applied_hlc / 1_000_000) if t]
    return round(max(time.time() - max(times), 0.0), 1) if times else None


def is_missed(hub: Hub, member: Member) -> bool:
    """Whether it was not heard for a while, or is behind by more than is kept for anybody."""
    ago = heard_s(hub, member)
    return ago is None or ago > ALIVE_S or member.origin in hub.late


def waits_for_words(member: Member, own: int) -> bool:
    """Whether this database has asked the others about a member, and still counts their words."""
    word = member.said.get(own) if member.counts else None
    return word is not None and word.asks and word.at > time.time() - WORD_S


async def answer(hub: Hub, conn: asyncpg.Connection, replica: Replica) -> None:
    """Gives the word that others ask for, and expires whom the others agree to expire."""
    for member in await read_members(conn):
        if member.words == "{}" or not member.counts or member.origin == replica.origin:
            continue
        if waits_for_words(member, replica.origin):
            await expire_if_agreed(hub, conn, member.origin)
        elif _is_asked(member, replica.origin) and _has_listened(hub) and is_missed(hub, member):
            async with conn.transaction():
                await say_word(conn, member.origin, asks=False)
            await hub.tell(conn)


async def expire_if_agreed(hub: Hub, conn: asyncpg.Connection, origin: int) -> bool:
    """Expires a member if more than half have given their word and it is missed here too."""
    members = await read_members(conn)
    member = next((m for m in members if m.origin == origin and m.counts), None)
    if member is None or not is_missed(hub, member):
        return False
    if not agreed(members, member, since=time.time() - WORD_S):
        return False
    log.error(
        "%s: %s is expired, more than half of the members miss it: nothing is kept for it any "
        "more; when it is back, on that server: peersync rebaseline PEER --database %s",
        hub.name,
        member.node_name,
        hub.name,
    )
    async with conn.transaction():
        await say_expire(conn, origin)
    hub.recheck.tell()
    await hub.tell(conn)
    return True


def _is_asked(member: Member, own: int) -> bool:
    """Whether somebody asks about it, and this database has not said anything of late."""
    since = time.time() - WORD_S
    said = member.said
    if own in said and said[own].at > since:
        return False
    return any(word.asks and word.at > since for word in said.values())


def _has_listened(hub: Hub) -> bool:
    """Whether this agent runs for long enough to know whom it does not hear."""
    return time.time() - hub.idle_at > ALIVE_S
