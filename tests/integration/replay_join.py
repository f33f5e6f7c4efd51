"""A join in a replay: the sponsor's baseline, and the joiner that takes it over, log and all.

It is the part of `peersync join` that is about the order of changes. How rows travel is that of
a full sync, which has its own tests; here they are few and are simply read and written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.backup import View
from peersync.postgres.bulk import Stop, connect
from peersync.postgres.conninfo import Resolved
from peersync.postgres.copyout import CopyOut
from peersync.postgres.log.baseline import Taken, baseline
from peersync.postgres.log.logcopy import LogStage, log_tables
from peersync.postgres.log.takeover import join_group
from peersync.postgres.pool import Database
from peersync.wire.messages import GroupBaseline, JoinRequest

Items = list[tuple[str, str]]


async def admit(sponsor: Database, subject: int, node_id: str) -> None:
    """Publishes what is pending, and the join. A baseline that follows finds it said."""
    async with _taken(sponsor, subject, node_id):
        pass


async def take_over(
    sponsor: Database, sponsor_at: Resolved, joiner: Resolved, subject: int, node_id: str
) -> None:
    """The joiner gets the sponsor's rows, and knows what it knows."""
    async with _taken(sponsor, subject, node_id) as (keeper, taken):
        items = [(row["k"], row["v"]) for row in await keeper.fetch("SELECT k, v FROM public.item")]
        assert taken.log is not None
        assert taken.group is not None
        log = await asyncio.to_thread(_read_log, sponsor_at, taken.log)
        await asyncio.to_thread(_become, joiner, taken.group, log, items)


@asynccontextmanager
async def _taken(
    sponsor: Database, subject: int, node_id: str
) -> AsyncIterator[tuple[asyncpg.Connection, Taken]]:
    join = JoinRequest(origin=subject, node_name=f"node{subject}")
    tables = [TableName("public", "item")]
    async with (
        sponsor.connect("keeper", what="keeping a view") as keeper,
        baseline(sponsor, keeper, tables, node_id=node_id, join=join, lock_timeout_s=5) as taken,
    ):
        yield keeper, taken


def _read_log(sponsor: Resolved, view: View) -> list[bytes]:
    pieces: list[bytes] = []
    CopyOut(sponsor, view, log_tables()).run(pieces.append)
    return pieces


def _become(joiner: Resolved, group: GroupBaseline, log: list[bytes], items: Items) -> None:
    stage = LogStage("replay")
    with (
        connect(joiner, "join", Stop(), what="joining") as connection,
        connection.transaction(),
    ):
        connection.execute("SET LOCAL session_replication_role = replica")
        stage.create(connection)
        stage.load(connection, iter(log))
        connection.cursor().executemany("INSERT INTO public.item (k, v) VALUES (%s, %s)", items)
        join_group(connection, group, stage)
        for kind in ("transaction", "entry", "shape", "base", "strategy"):
            connection.execute(f"DROP TABLE {stage.table(kind).sql}".encode())
