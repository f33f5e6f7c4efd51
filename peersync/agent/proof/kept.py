"""The look at a table by what both sides know of it already: kept digests instead of reading it.

The peer tells its list; here each block is held against our own list where that has the same
bounds, else against the rows. What differs is only a place to look at: blocks and rows of these
ranges are then read on both sides, as after a coarse look. So kept digests alone never say that
rows differ; that they are equal is said with the time of the oldest reading that it rests on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import asyncpg

from peersync.agent.proof.coarse import CoarseLook
from peersync.agent.proof.remote import Remote
from peersync.config.model import Config
from peersync.postgres.digest import Block, Range, Shape, Tally, compare_blocks
from peersync.postgres.pool import Database
from peersync.postgres.proof_blocks import Kept, compare_kept, kept_total, open_kept
from peersync.postgres.proof_lists import keepable, register

_RANGES: Final = 50  # that differ; the rest of the table is then one more


@dataclass
class KeptLook(CoarseLook):
    """`at`: when the oldest of the blocks that were not read now was read, as ISO 8601."""

    at: str | None = None


async def look_at_kept(
    conn: asyncpg.Connection, remote: Remote, shape: Shape, report: Callable[[int], None]
) -> KeptLook | None:
    """None where the peer keeps nothing of this table."""
    if not keepable(shape):
        return None
    whole = await remote.kept_total()
    if whole is None:
        return None
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        kept = await open_kept(conn, shape)
        if kept is not None and await kept_total(conn, kept) == whole:
            report(whole[0])
            return KeptLook(rows=whole[0], at=_oldest(remote, kept))
    return await _by_blocks(conn, remote, shape, report)


async def _by_blocks(
    conn: asyncpg.Connection, remote: Remote, shape: Shape, report: Callable[[int], None]
) -> KeptLook | None:
    found, tally = KeptLook(), Tally()
    differing = 0
    async with (
        conn.transaction(isolation="repeatable_read"),
        aclosing(remote.kept()) as there,
    ):
        kept = await open_kept(conn, shape)
        async with aclosing(_compared(conn, shape, kept, there, tally)) as ranges:
            async for some in ranges:
                for one in some:
                    found.add((one.low, one.high))
                    differing += one.rows_there
                report(tally.rows_there - differing)
                if len(found.differing) > _RANGES:
                    return None  # not worth it: very much has changed
    if not tally.blocks:
        return None
    found.rows = tally.rows_there - differing
    report(found.rows)
    found.at = _oldest(remote, kept)
    return found


def _oldest(remote: Remote, kept: Kept | None) -> str | None:
    own = kept.oldest.isoformat() if kept is not None and kept.oldest is not None else None
    return min(filter(None, (remote.kept_at, own)), default=None)


def _compared(
    conn: asyncpg.Connection,
    shape: Shape,
    kept: Kept | None,
    there: AsyncGenerator[list[Block], None],
    tally: Tally,
) -> AsyncGenerator[list[Range], None]:
    if kept is not None:
        return compare_kept(conn, kept, there, tally=tally)
    return compare_blocks(conn, shape, there, tally=tally)


async def ask_to_keep(config: Config, database: Database, shape: Shape | None) -> None:
    """A table that is verified is kept from now on, where that is switched on."""
    if config.verify.continuous_budget and shape is not None and keepable(shape):
        async with database.acquire("asking for kept digests") as conn:
            await register(conn, shape)
