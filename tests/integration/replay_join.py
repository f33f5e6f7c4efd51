"""A join in a replay: the sponsor's baseline, and the joiner that takes it over, log and all.

It is the part of `peersync join` that is about the order of changes. How rows travel is that of
a full sync, which has its own tests; here they are few and are simply read and written.
"""

from __future__ import annotations

import asyncio

import asyncpg
import psycopg

from peersync.core.names import TableName
from peersync.postgres.backup import View
from peersync.postgres.copyout import CopyOut
from peersync.postgres.log.baseline import Taken, baseline
from peersync.postgres.log.logcopy import LogStage, log_tables
from peersync.postgres.log.takeover import join_group
from peersync.postgres.pool import Database
from peersync.wire.messages import GroupBaseline, JoinRequest

ITEM = TableName("public", "item")


async def admit(sponsor: Database, subject: int) -> None:
    """Publishes what is pending and the join. A later baseline finds it said."""
    async with sponsor.connect("keeper", what="keeping a view") as keeper:
        async with _baseline(sponsor, keeper, subject):
            pass


async def take_over(sponsor: Database, joiner: Database, subject: int) -> None:
    """The joiner has the sponsor's rows and knows what it knows."""
    async with sponsor.connect("keeper", what="keeping a view") as keeper:
        async with _baseline(sponsor, keeper, subject) as taken:
            rows = await keeper.fetch("SELECT k, v FROM public.item")
            assert taken.log is not None and taken.group is not None
            log = await asyncio.to_thread(_read_log, sponsor, taken.log)
            items = [(row["k"], row["v"]) for row in rows]
            await asyncio.to_thread(_become, joiner, taken.group, log, items)
