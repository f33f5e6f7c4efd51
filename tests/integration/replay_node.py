"""The database of one node of a replayed run, and what is asked of it.

Only the real functions are called. Time is the trace's: a change gets the simulated wall time
of the moment in which it is published (peersync.change.at, before it is published), and what is
announced, whose time no table holds beforehand, is given it in the transaction that announces
it. So every hlc is the same as in the run, and with it every version.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import asyncpg

from peersync.core.patterns import Patterns
from peersync.postgres.conninfo import resolve
from peersync.postgres.log.apply import Applied, Applier
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import add_member
from peersync.postgres.log.membership import say_expire, say_leave
from peersync.postgres.log.publish import beat, publish
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED, Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.feed import FeedHead, FeedReader, FeedRequest
from tests.integration.replay_join import admit
from tests.plugins.clusters import Database as TestDatabase
from tests.plugins.clusters import MakeDatabase
from tests.simulation.trace import Step

GROUP: Final = "00000000-0000-4000-8000-000000000000"
_FOUND: Final = queries("members")["found"]
_TABLE: Final = "CREATE TABLE public.item (k text PRIMARY KEY, v text NOT NULL)"
_EMPTY: Final = """
SET session_replication_role = replica;
TRUNCATE public.item, peersync.replica, peersync.member, peersync.change, peersync.transaction,
         peersync.relayed, peersync.conflict, peersync.quarantine, peersync.row_base
         RESTART IDENTITY;
RESET session_replication_role;
"""
_WRITES: Final = {
    "I": "INSERT INTO public.item (k, v) VALUES ($1, $2)",
    "U": "UPDATE public.item SET v = $2 WHERE k = $1",
    "D": "DELETE FROM public.item WHERE k = $1",
    "T": "TRUNCATE public.item",
}
_SET_TIME: Final = """
UPDATE peersync.change AS c SET at = 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
 WHERE NOT EXISTS (SELECT FROM peersync.transaction AS t WHERE t.xid = c.xid)"""
_SET_ANNOUNCED: Final = """
WITH t AS (UPDATE peersync.transaction SET hlc = $3::bigint WHERE origin = $1 AND position = $2),
     m AS (UPDATE peersync.member SET applied_hlc = $3 WHERE origin = $1)
UPDATE peersync.replica SET hlc = $3"""
_PUBLISHED: Final = """
SELECT t.hlc, t.kind::text, t.seen::text, t.changes, (t.info ->> 'origin')::bigint AS subject
  FROM peersync.transaction AS t
 WHERE t.position = $1 AND t.origin = (SELECT origin FROM peersync.replica)"""
_STATE: Final = """
SELECT json_build_object(
    'hlc', (SELECT hlc FROM peersync.replica),
    'vector', (SELECT json_object_agg(origin, applied) FROM peersync.member WHERE applied > 0),
    'floor', (SELECT json_object_agg(origin, floor) FROM peersync.member WHERE floor > 0),
    'members', (SELECT json_agg(origin ORDER BY origin) FROM peersync.member
                 WHERE state IN ('member', 'joining')),
    'rows', (SELECT json_object_agg(k, v) FROM public.item),
    'log', (SELECT json_agg(json_build_array(origin, position) ORDER BY origin, position)
              FROM peersync.transaction),
    'kept', (SELECT json_agg(json_build_array(origin, position, op, trim(key, '()')))
               FROM peersync.entry),
    'waiting', (SELECT count(*) FROM peersync.quarantine))::text"""
_CONFLICTS: Final = """
SELECT id, trim(key, '()') AS key, kind, winner, state, kept_origin, kept_position, kept_hlc,
       kept_op::text, kept_image, in_origin, in_position, in_hlc, in_op::text, in_image
  FROM peersync.conflict WHERE id > $1 ORDER BY id"""

Brought = tuple[FeedHead, list[bytes]]


class Difference(AssertionError):
    """A database did something else than the simulation."""


class ReplayNode:
    """The database of one node, whose number is its origin; used for one run after another."""

    def __init__(self, number: int, test: TestDatabase, conn: asyncpg.Connection) -> None:
        self.origin = number
        self.conn = conn
        self.resolved = resolve(test.conninfo())
        self.database = Database(f"node{number}", self.resolved)
        self.applier = Applier(self.database, number)
        self.last_conflict = 0

    @classmethod
    async def open(cls, stack: AsyncExitStack, number: int, test: TestDatabase) -> ReplayNode:
        settings = {**PINNED, "search_path": "pg_catalog, public"}
        conn = await asyncpg.connect(test.url(), server_settings=settings)
        stack.push_async_callback(conn.close)
        node = cls(number, test, conn)
        stack.push_async_callback(node.database.close)
        stack.push_async_callback(node.close)
        return node

    async def close(self) -> None:
        await self.applier.__aexit__(None, None, None)

    async def begin(self, members: range, strategy: str) -> None:
        """Nothing but the table; a member of a group of these, or joining where it is none."""
        await self.conn.execute(_EMPTY)
        self.last_conflict = 0
        await self.conn.execute("UPDATE peersync.synced_table SET strategy = $1", strategy)
        state = "active" if self.origin in members else "joining"
        await self.conn.execute(_FOUND, GROUP, self.origin, name_of(self.origin), state, 0)
        for member in members if state == "active" else [self.origin]:
            await add_member(self.conn, member, name_of(member), f"node{member}")

    async def write(self, ops: list[dict[str, Any]]) -> None:
        async with self.conn.transaction():
            for op in ops:
                values = [op[name] for name in ("key", "image") if op[name] is not None]
                status = await self.conn.execute(_WRITES[op["op"]], *values)
                same(status.split()[-1], "TABLE" if op["op"] == "T" else "1", "rows written")

    async def publish(self, step: Step) -> None:
        """Does what the step says, unless an earlier one of the same moment has."""
        own = self.origin
        position = await self.conn.fetchval("SELECT position FROM peersync.replica")
        if position < step["position"]:
            await self.set_time(step["wall"])
            if step["kind"] == "d":
                await publish(self.conn)
            elif step["kind"] == "j":
                await admit(self.database, step["subject"], name_of(step["subject"]))
                await self.conn.execute(_SET_ANNOUNCED, own, step["position"], step["hlc"])
            else:
                await self._announce(step)
        found = await self.conn.fetchrow(_PUBLISHED, step["position"])
        expected = (step["hlc"], step["kind"], vector_of(step["seen"]), step["subject"])
        assert found is not None, f"position {step['position']} was not given"
        seen = vector_of(json.loads(found["seen"]))
        same((found["hlc"], found["kind"], seen, found["subject"]), expected, "published")

    async def _announce(self, step: Step) -> None:
        async with self.conn.transaction():
            before = await self.conn.fetchval("SELECT hlc FROM peersync.replica")
            same(step["hlc"], max(before + 1, step["wall"]), "the next hlc")
            if step["kind"] == "b":
                await beat(self.conn)
            elif step["kind"] == "l":
                await say_leave(self.conn, step["subject"])
            else:
                await say_expire(self.conn, step["subject"])
            await self.conn.execute(_SET_ANNOUNCED, self.origin, step["position"], step["hlc"])

    async def set_time(self, wall: int) -> None:
        """What is committed and not yet published was made now, by the simulated clock."""
        await self.conn.execute(_SET_TIME, wall)

    async def answer(self, asker: int, vector: Mapping[int, int], most: int) -> Brought:
        """A frame as it travels. Raises ResyncRequired."""
        wanted = FeedRequest(
            database="shop", group=GROUP, origin=asker, vector=dict(vector), transactions=most
        )
        opened = await open_feed(self.conn, wanted)
        pieces: list[bytes] = []

        async def write(data: bytes) -> None:
            pieces.append(data)

        await opened.send(write)
        reader = FeedReader()
        rows = [row for piece in pieces for row in reader.feed(piece)]
        reader.end()
        assert reader.head is not None
        return reader.head, rows

    async def apply(self, brought: Brought, wall: int) -> Applied:
        head, rows = brought
        await self.set_time(wall)
        return await self.applier.apply(head, _stream(rows))

    async def crash(self) -> None:
        """Its sessions end; what is committed stays."""
        await self.close()
        self.applier = Applier(self.database, self.origin)

    async def state(self) -> dict[str, Any]:
        return dict(json.loads(await self.conn.fetchval(_STATE)))

    async def new_conflicts(self) -> list[dict[str, Any]]:
        rows = [dict(row) for row in await self.conn.fetch(_CONFLICTS, self.last_conflict)]
        for row in rows:
            self.last_conflict = row.pop("id")
        return rows


class Nodes:
    """The databases by number, made when first asked for, to be used for one run after another."""

    def __init__(self, stack: AsyncExitStack, make: Callable[[], TestDatabase]) -> None:
        self._stack = stack
        self._make = make
        self._made: dict[int, ReplayNode] = {}

    async def get(self, number: int) -> ReplayNode:
        if number not in self._made:
            self._made[number] = await ReplayNode.open(self._stack, number, self._make())
        return self._made[number]


async def open_nodes(stack: AsyncExitStack, make_database: MakeDatabase, major: int) -> Nodes:
    """All from one template, in which the table is captured."""
    first = make_database(major, migrated=True)
    conn = await asyncpg.connect(first.url(), server_settings=PINNED)
    try:
        await migrate(conn)
        await conn.execute(_TABLE)
        await enrol(conn, Patterns(["public.*"]), lock_timeout_s=5)
    finally:
        await conn.close()
    return Nodes(stack, partial(make_database, major, template=first.name))


def same(found: object, expected: object, what: str, *, zeros: bool = False) -> None:
    """Raises Difference. `zeros`: a vector that may tell of origins without any transaction."""
    if zeros and isinstance(found, dict):
        found = {origin: position for origin, position in found.items() if position}
    if found != expected:
        raise Difference(f"{what}: {found!r}, in the simulation {expected!r}")


def vector_of(values: Mapping[Any, int] | None) -> dict[int, int]:
    """With numbers as keys, also where it was JSON."""
    return {int(origin): position for origin, position in (values or {}).items()}


def name_of(origin: int) -> str:
    """The id of a node."""
    return f"{origin:032x}"


async def _stream(rows: list[bytes]) -> AsyncIterator[bytes]:
    for row in rows:
        yield row
