"""Who takes part in the periodic sync of a database: its own origin, and every other.

Owns `peersync.replica` and the founding of a group. How far each member is applied is written
by publish and apply, in their own transactions; here it is only read.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
import msgspec

from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("members")
MAX_ORIGIN: Final = (1 << 53) - 1  # a JSON number keeps every bit of it

Vector = dict[int, int]


@dataclass(frozen=True)
class Replica:
    """This database as an origin. `hlc` in microseconds since 1970."""

    group_id: str
    origin: int
    node_id: str
    state: str  # joining, active, held, expired
    reason: str | None
    position: int
    hlc: int
    direction: str = "both"  # receive: gives no changes of its own; give: applies none of others


@dataclass(frozen=True)
class Earlier:
    """What a database that is joining goes back to if that comes to nothing."""

    origin: int
    position: int
    direction: str


class Word(msgspec.Struct, frozen=True):
    """`at`: when it came here, in seconds since 1970. `asks`: for the word of the others."""

    at: float
    asks: bool


@dataclass(frozen=True)
class Member:
    """An origin of the group, as this database knows it. `seen`: the vector of its last word."""

    origin: int
    node_id: str
    node_name: str
    state: str  # member, joining, left, expired
    applied: int
    applied_hlc: int
    floor: int
    seen: Vector
    sponsor: int | None
    joined_at: int | None
    expired_by: int | None = None  # who said so, and at which of its positions
    expired_at: int | None = None
    direction: str = "both"  # as it has told
    words: str = "{}"  # see `said`

    @property
    def counts(self) -> bool:
        """Whether the log waits for it."""
        return self.state in ("member", "joining")

    @property
    def said(self) -> dict[int, Word]:
        """Who has said that it be waited for no more (R12)."""
        return msgspec.json.decode(self.words, type=dict[int, Word])


def new_origin() -> int:
    return secrets.randbelow(MAX_ORIGIN) + 1


async def read_replica(conn: asyncpg.Connection) -> Replica | None:
    """None where this database takes part in no periodic sync."""
    row = await conn.fetchrow(_SQL["replica"])
    return None if row is None else Replica(**row)


async def last_said(conn: asyncpg.Connection) -> int:
    """The position that the others can be waited for: heartbeats after it are never answered."""
    position: int = await conn.fetchval(_SQL["last_said"])
    return position


async def read_home(conn: asyncpg.Connection) -> str:
    """What stays as long as the numbers of transactions mean the same; a dump changes it."""
    home: str = await conn.fetchval(_SQL["home"])
    return home


async def read_members(conn: asyncpg.Connection) -> list[Member]:
    """All origins that were ever known, the own one included."""
    rows = await conn.fetch(_SQL["members"])
    return [Member(**{**row, "seen": decode_vector(row["seen"])}) for row in rows]


async def read_vector(conn: asyncpg.Connection) -> Vector:
    """How far each origin is applied here; the own origin with what is published."""
    return {row["origin"]: row["applied"] for row in await conn.fetch(_SQL["vector"])}


async def found(
    conn: asyncpg.Connection,
    node_id: str,
    node_name: str,
    *,
    group_id: str | None = None,
    state: str = "active",
) -> Replica:
    """Makes this database an origin, of a new group unless one is named."""
    origin = new_origin()
    group = group_id or str(uuid.uuid4())
    await conn.execute(_SQL["found"], group, origin, node_id, state, time.time_ns() // 1000)
    await add_member(conn, origin, node_id, node_name)
    replica = await read_replica(conn)
    assert replica is not None
    return replica


async def change_origin(conn: asyncpg.Connection, node_id: str, node_name: str) -> Replica:
    """A new origin for a database that comes back, which is then joining. Inside a transaction.

    Where it is a copy of another node's, nothing that its log has counts as sent.
    """
    replica = await read_replica(conn)
    assert replica is not None
    if replica.node_id != node_id:
        await conn.execute(_SQL["disown"], new_origin(), node_id)
    earlier = await read_replica(conn)
    assert earlier is not None
    origin = new_origin()
    await conn.execute(_SQL["change_origin"], origin)
    await add_member(conn, origin, node_id, node_name)
    await conn.execute(_SQL["note_earlier"], origin, earlier.origin, earlier.direction)
    changed = await read_replica(conn)
    assert changed is not None
    return changed


async def read_earlier(conn: asyncpg.Connection) -> Earlier | None:
    """What this database was before it began to join; None where this is its first join."""
    row = await conn.fetchrow(_SQL["earlier_origin"])
    return None if row is None else Earlier(**row)


async def back_to_earlier_origin(conn: asyncpg.Connection, reason: str) -> bool:
    """Takes a new origin back that was never used; False where there was no earlier one."""
    earlier = await read_earlier(conn)
    if earlier is None:
        return False
    await conn.execute(
        _SQL["back_to_origin"], earlier.origin, earlier.position, reason, earlier.direction
    )
    return True


async def add_member(
    conn: asyncpg.Connection,
    origin: int,
    node_id: str,
    node_name: str,
    *,
    state: str = "member",
    applied: int = 0,
    floor: int = 0,
    seen: Mapping[int, int] | None = None,
    sponsor: int | None = None,
    joined_at: int | None = None,
) -> None:
    """Makes an origin known here."""
    await conn.execute(
        _SQL["add_member"],
        origin,
        node_id,
        node_name,
        state,
        applied,
        floor,
        encode_vector(seen or {}),
        sponsor,
        joined_at,
    )


async def set_state(conn: asyncpg.Connection, state: str, reason: str | None = None) -> None:
    await conn.execute(_SQL["set_replica_state"], state, reason)


def decode_vector(text: str) -> Vector:
    """{"<origin>": position} as jsonb prints it."""
    return msgspec.json.decode(text, type=dict[int, int])


def encode_vector(vector: Mapping[int, int]) -> str:
    """A vector as jsonb reads it."""
    return msgspec.json.encode(dict(vector)).decode()
