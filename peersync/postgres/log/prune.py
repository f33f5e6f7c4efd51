"""Takes out of the log what every member is known to have, and says what is left and why.

What is stable is decided in `core.order.stability`. Here the floor of an origin is raised
first, so that no peer is given a part of what goes, and what a row in conflict still needs of it
goes into its base (`prune_rows`). Then the rows are deleted in pieces, each in a transaction of
its own: no lock is held that a writer, the capture or an apply would wait for, and whatever ends
it in between, the next call goes on.

It refuses to decide that a member is not waited for any more: it only names those that could
be expired. The columns of old images stay known: one row for each ALTER TABLE.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from peersync.core.order.stability import Known, floors
from peersync.postgres.log.members import Member, read_members, read_replica
from peersync.postgres.log.membership import counting
from peersync.postgres.log.prune_rows import fold_rows
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("prune")
BATCH_ROWS: Final = 10_000


@dataclass(frozen=True)
class Pruned:
    """What one call took away; `floors` are those of all origins now."""

    transactions: int = 0
    changes: int = 0
    floors: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """A member that has not said that it has everything. `age_s`: since the oldest of it."""

    origin: int
    node_id: str
    node_name: str
    age_s: float


@dataclass(frozen=True)
class LogSize:
    """Published transactions and changes that are kept, the size on disk, and for whom.

    `waits_for` has whoever lacks the oldest change first; nobody: all is acknowledged.
    """

    transactions: int
    changes: int
    size_bytes: int
    waits_for: tuple[Waiting, ...]


async def prune(conn: asyncpg.Connection, *, batch_rows: int = BATCH_ROWS) -> Pruned:
    """Deletes what is stable. Not inside a transaction: it makes many short ones.

    Does nothing unless this database is an active member of its group, nor while somebody takes
    its log as a baseline.
    """
    replica = await read_replica(conn)
    if replica is None or replica.state != "active" or not await conn.fetchval(_SQL["try_prune"]):
        return Pruned()
    try:
        return await _prune(conn, batch_rows)
    finally:
        if not conn.is_closed():
            await conn.execute(_SQL["end_prune"])


async def _prune(conn: asyncpg.Connection, batch_rows: int) -> Pruned:
    members = await read_members(conn)  # first: what becomes stable later is not looked at here
    if await conn.fetchval(_SQL["quarantined"]):
        await conn.execute(_SQL["supersede"])
    await conn.execute(_SQL["thin_withheld"])
    reached = await _raise_floors(conn, members)
    transactions = changes = 0
    for member in members:
        async for rows in _batches(conn, member.origin, batch_rows):
            await _delete(conn, member.origin, rows, batch_rows)
            transactions += len(rows)
            changes += sum(row["changes"] for row in rows)
    return Pruned(transactions, changes, reached)


def known(members: Sequence[Member]) -> dict[int, Known]:
    """What each member that counts is known to have: of the last that it published (R3)."""
    return {m.origin: Known(m.applied, m.seen) for m in counting(members)}


async def log_size(conn: asyncpg.Connection) -> LogSize:
    """For alarms. Reads all of peersync.transaction, none of the changes."""
    size = await conn.fetchrow(_SQL["size"])
    replica = await read_replica(conn)
    rows = [] if replica is None else await conn.fetch(_SQL["waits_for"], replica.origin)
    return LogSize(
        transactions=size["transactions"],
        changes=size["changes"],
        size_bytes=size["size_bytes"],
        waits_for=tuple(Waiting(**row) for row in rows),
    )


def expired_candidates(size: LogSize, *, max_age_s: float, max_bytes: int) -> tuple[Waiting, ...]:
    """Members that hold the log back beyond what is kept: by age all of them, by size the last."""
    late = tuple(w for w in size.waits_for if w.age_s > max_age_s)
    if not late and size.size_bytes > max_bytes:
        return size.waits_for[:1]
    return late


async def _raise_floors(conn: asyncpg.Connection, members: Sequence[Member]) -> dict[int, int]:
    """Nothing is published or applied meanwhile: a row in conflict is counted, or not there yet."""
    stable = floors((m.origin for m in members), known(members))
    wanted = {m.origin: min(stable[m.origin], m.applied) for m in members}
    for origin, position in await conn.fetch(queries("proof_blocks")["holds"]):
        wanted[origin] = min(wanted.get(origin, position), position)
    if all(wanted[m.origin] <= m.floor for m in members):
        return {m.origin: m.floor for m in members}
    async with conn.transaction():
        await conn.execute(_SQL["lock"])
        wanted = await fold_rows(conn, wanted)
        for member in members:
            if wanted[member.origin] > member.floor:
                await conn.execute(_SQL["raise_floor"], member.origin, wanted[member.origin])
        if await conn.fetchval(_SQL["based"]):
            await conn.execute(_SQL["delete_bases"])
    return {m.origin: max(m.floor, wanted[m.origin]) for m in members}


async def _batches(
    conn: asyncpg.Connection, origin: int, batch_rows: int
) -> AsyncIterator[list[Any]]:
    """Transactions below the floor, in groups that follow each other without too many changes."""
    while rows := await conn.fetch(_SQL["doomed"], origin, batch_rows):
        for group in _groups(rows, batch_rows):
            yield group


def _groups(rows: Sequence[Any], batch_rows: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    size = 0
    for row in rows:
        if group and size + row["changes"] > batch_rows:
            yield group
            group, size = [], 0
        group.append(row)
        size += row["changes"]
    if group:
        yield group


async def _delete(
    conn: asyncpg.Connection, origin: int, rows: Sequence[Any], batch_rows: int
) -> None:
    if rows[0]["changes"] > batch_rows:  # then it is alone
        await _delete_large(conn, origin, rows[0], batch_rows)
    async with conn.transaction():
        await conn.execute(_SQL["plans"])
        first, last = rows[0]["position"], rows[-1]["position"]
        await conn.execute(_SQL["delete_transactions"], origin, first, last)


async def _delete_large(conn: asyncpg.Connection, origin: int, row: Any, batch_rows: int) -> None:
    after: int | None = -1
    while after is not None:
        async with conn.transaction():
            await conn.execute(_SQL["plans"])
            if row["xid"] is not None:
                after = await conn.fetchval(_SQL["delete_changes"], row["xid"], after, batch_rows)
            else:
                after = await conn.fetchval(
                    _SQL["delete_relayed"], origin, row["position"], after, batch_rows
                )
