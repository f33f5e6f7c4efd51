"""What the transactions of a group say about its members, and the end of a membership.

A join, a leave and an expiry are transactions like others: they have a position, and everybody
learns of them in the same order as of the changes around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from peersync.core.errors import ProtocolError
from peersync.postgres.log import capture
from peersync.postgres.log.members import add_member, read_members
from peersync.postgres.log.publish import announce
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("members")
_LEFT: Final = {"l": "left", "e": "expired"}


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
    elif kind in _LEFT:
        await conn.execute(_SQL["set_member_state"], subject, _LEFT[kind])


async def say_leave(conn: asyncpg.Connection, origin: int) -> int:
    """Publishes that an origin takes part no more; gives the position. Inside a transaction."""
    position = await announce(conn, "l", {"origin": origin})
    await conn.execute(_SQL["set_member_state"], origin, _LEFT["l"])
    return position


async def dissolve(conn: asyncpg.Connection) -> None:
    """Ends the part of this database: no capture, no log, no members. Conflicts stay readable."""
    await capture.remove(conn)
    async with conn.transaction():
        await conn.execute(_SQL["dissolve"])
