"""A database with lists of kept digests, and an oracle that reads what they tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import xor

import asyncpg

from peersync.core.patterns import Patterns
from peersync.postgres.digest import Block, Shape, Tally, blocks
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import found
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED
from peersync.postgres.proof_blocks import (
    compare_kept,
    hash_ranges,
    kept_blocks,
    kept_total,
    open_kept,
)
from peersync.postgres.proof_lists import register
from peersync.postgres.proof_work import Worked, work
from tests.integration.digest_rig import shape_of
from tests.plugins.clusters import Database

TABLES = """
CREATE TABLE public.t (id int PRIMARY KEY, v text);
INSERT INTO public.t SELECT g, 'row ' || g FROM generate_series(1, 3000) AS g;
CREATE TABLE public.words (word text COLLATE "C", n numeric, v jsonb, PRIMARY KEY (word, n));
INSERT INTO public.words SELECT 'w' || g / 3, g / 2.0, '{"a": 1}' FROM generate_series(1, 900) g;
CREATE TABLE public.parted (day date, id int, v text, PRIMARY KEY (day, id))
    PARTITION BY RANGE (day);
CREATE TABLE public.p1 PARTITION OF public.parted FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
CREATE TABLE public.p2 PARTITION OF public.parted FOR VALUES FROM ('2024-07-01') TO ('2025-01-01');
INSERT INTO public.parted
SELECT '2024-01-01'::date + g % 366, g, g FROM generate_series(1, 1500) AS g;
"""


@dataclass
class Rig:
    """`app`: somebody's session. `agent`: ours. `other`: a second one of somebody's."""

    app: asyncpg.Connection
    agent: asyncpg.Connection
    other: asyncpg.Connection
    url: str

    async def keep(self, name: str) -> Shape:
        """A list of the table, made and complete."""
        shape = await shape_of(self.agent, name)
        await register(self.agent, shape)
        await self.agent.execute("UPDATE peersync.proof_list SET armed = true")
        await self.work_off()
        return shape

    async def work_off(self, rows: int = 500) -> list[Worked]:
        """Everything that is to be done, in pieces."""
        done = []
        for row in await self.agent.fetch("SELECT list FROM peersync.proof_list"):
            more = True
            while more:
                done.append(await work(self.agent, row["list"], rows=rows))
                more = done[-1].more
        return done

    async def told(self, shape: Shape) -> list[Block] | None:
        """What the list tells in a view of now, checked by reading; None where it is not used."""
        async with self.agent.transaction(isolation="repeatable_read"):
            kept = await open_kept(self.agent, shape)
            if kept is None:
                return None
            found = [block async for some in kept_blocks(self.agent, kept) for block in some]
            lows = [block.low for block in found]
            assert lows[0] is None and None not in lows[1:]
            ranges = list(zip(lows, [*lows[1:], None], strict=True))
            read = await hash_ranges(self.agent, shape, kept.subject.order, ranges)
            assert [(b.rows, b.digest) for b in found] == read
            await self._compared(shape, found)
            rows = sum(count for count, _ in read)
            assert await kept_total(self.agent, kept) == (rows, reduce(xor, (d for _, d in read)))
        return found

    async def _compared(self, shape: Shape, found: list[Block]) -> None:
        """As the other side: against what is really there nothing differs, and a lie is found."""
        real = [block async for some in blocks(self.agent, shape) for block in some]
        for there, differing in ((found, 0), (real, 0), (_lying(found), 1)):
            kept, tally = await open_kept(self.agent, shape), Tally()
            assert kept is not None
            ranges = [
                one
                async for some in compare_kept(self.agent, kept, stream(there), tally=tally)
                for one in some
            ]
            assert len(ranges) == differing == tally.differing
            assert tally.rows_there == sum(block.rows for block in there)
            assert tally.rows_here == sum(block.rows for block in real)

    async def reads(self, name: str) -> int:
        """Rows of a table that were read, ever."""
        await self.agent.execute("SELECT pg_stat_force_next_flush()")
        await self.agent.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await self.agent.fetchval(
                "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) + (SELECT sum(idx_tup_read)"
                " FROM pg_stat_user_indexes AS i WHERE i.relid = s.relid)::bigint"
                " FROM pg_stat_user_tables AS s WHERE relname = $1",
                name,
            )
        )


def _lying(told: list[Block]) -> list[Block]:
    some = len(told) // 2
    return [*told[:some], replace(told[some], digest=told[some].digest ^ 1), *told[some + 1 :]]


async def stream(told: list[Block]) -> AsyncIterator[list[Block]]:
    for at in range(0, len(told), 7):
        yield told[at : at + 7]


async def enrol_all(conn: asyncpg.Connection) -> None:
    await enrol(conn, Patterns(["public.*"]), lock_timeout_s=5)


@asynccontextmanager
async def open_rig(database: Database, tables: str | None = TABLES) -> AsyncIterator[Rig]:
    """Makes the tables and captures them; None: the database is taken as it is."""
    async with AsyncExitStack() as stack:
        conns = []
        for settings in ({}, PINNED, {}):
            conn = await asyncpg.connect(
                database.url(), server_settings=settings, statement_cache_size=0
            )
            stack.push_async_callback(conn.close)
            conns.append(conn)
        rig = Rig(conns[0], conns[1], conns[2], database.url())
        if tables is not None:
            await migrate(rig.agent)
            await rig.app.execute(tables)
            await found(rig.agent, "a" * 32, "alpha")
            await enrol_all(rig.agent)
        yield rig
