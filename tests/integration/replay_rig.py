"""Runs of the simulation, done again step by step by real databases.

Each node of the run is a database with the real capture; what it publishes, answers, applies
and prunes is asked of the real functions, in the order of the trace: frames that were lost are
not brought, those that came twice or late are brought twice or late. After each step a database
must have what the simulated node had: rows, vector, clock, log, floors, members, conflicts.

Time is the trace's. A change gets the simulated wall time of the moment in which it is
published (peersync.change.at, before it is published), and what is announced, whose time no
table holds beforehand, is given it in the transaction that announces it. So every hlc is the
same as in the run, and with it every version.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg

from peersync.core.errors import ResyncRequired
from peersync.core.patterns import Patterns
from peersync.postgres.conninfo import resolve
from peersync.postgres.log.apply import Applied, Applier
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.feed import open_feed
from peersync.postgres.log.members import add_member
from peersync.postgres.log.membership import say_expire, say_leave
from peersync.postgres.log.prune import prune
from peersync.postgres.log.publish import beat, publish
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED, Database
from peersync.postgres.sqlfiles import queries
from peersync.wire.feed import FeedHead, FeedReader, FeedRequest
from tests.integration.replay_join import admit, take_over
from tests.plugins.clusters import Database as TestDatabase
from tests.plugins.clusters import MakeDatabase
from tests.simulation.simnode import KEYS
from tests.simulation.trace import Step, Trace

GROUP: Final = "00000000-0000-4000-8000-000000000000"
_FOUND: Final = queries("members")["found"]
_TABLE: Final = "CREATE TABLE public.item (k text PRIMARY KEY, v text NOT NULL)"
_EMPTY: Final = """
SET session_replication_role = replica;
TRUNCATE public.item, peersync.replica, peersync.member, peersync.change, peersync.transaction,
         peersync.relayed, peersync.conflict, peersync.quarantine, peersync.row_base;
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

Place = tuple[int, int]
Brought = tuple[FeedHead, list[bytes]]


class Difference(AssertionError):
    """A database did something else than the simulation."""


class ReplayNode:
    """The database of one node. Its origin is the node's number."""

    def __init__(self, number: int, test: TestDatabase, conn: asyncpg.Connection) -> None:
        self.origin = number
        self.conn = conn
        self.database = Database(f"node{number}", resolve(test.conninfo()))
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
                await admit(self.database, self.conn, step["subject"])
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


async def open_nodes(
    stack: AsyncExitStack, make_database: MakeDatabase, major: int, count: int
) -> dict[int, ReplayNode]:
    """Databases for as many nodes, the joiners among them, to be used for one run after another."""
    first = make_database(major)
    conn = await asyncpg.connect(first.url(), server_settings=PINNED)
    try:
        await migrate(conn)
        await conn.execute(_TABLE)
        await enrol(conn, Patterns(["public.*"]), lock_timeout_s=5)
    finally:
        await conn.close()
    tests = [make_database(major, template=first.name) for _ in range(count)]
    return {n: await ReplayNode.open(stack, n, test) for n, test in enumerate(tests, 1)}


class Replay:
    """One trace. `frames` are what was answered and is still to be brought."""

    def __init__(self, trace: Trace, nodes: dict[int, ReplayNode]) -> None:
        self.trace = trace
        self.nodes = nodes
        self.frames: dict[tuple[int, str], Brought] = {}
        self.ops: dict[int, list[dict[str, Any]]] = {}  # by uid
        self.made: dict[Place, Step] = {}  # what was published, by origin and position
        self.rivals: dict[Place, list[list[Any]]] = {}  # by what was applied last
        self.expected: list[dict[str, Any]] = []
        self.runs: list[Step] = []
        self.conflicts = 0
        self.applied: Applied | None = None
        self._wanted: dict[int, set[str]] = defaultdict(set)
        for step in trace.of("deliver"):
            if step["txs"]:
                self._wanted[step["number"]].add(json.dumps(step["txs"]))

    async def run(self) -> None:
        """Raises Difference, with the step."""
        for node in self.nodes.values():
            await node.begin(range(1, self.trace.nodes + 1), self.trace.strategy)
            node.last_conflict = 0
        for number, step in enumerate(self.trace.steps):
            try:
                await getattr(self, f"_{step['do']}")(self.nodes[step["node"]], step)
            except BaseException as error:
                error.add_note(f"seed {self.trace.seed}, step {number}: {step}")
                raise

    # --- the steps --------------------------------------------------------------------------
    async def _write(self, node: ReplayNode, step: Step) -> None:
        self.ops[step["uid"]] = step["ops"]
        await node.write(step["ops"])

    async def _publish(self, node: ReplayNode, step: Step) -> None:
        self.made[node.origin, step["position"]] = step
        await node.publish(step)

    async def _serve(self, node: ReplayNode, step: Step) -> None:
        """Asks for the whole answer, and again for each piece of it that will be brought."""
        number, asker = step["number"], step["asker"]
        wanted = self._wanted[number]
        if not wanted and number % 8:
            return
        vector = vector_of(step["vector"])
        if "floor" in step:
            await self._refused(node, asker, vector, step)
            return
        head, rows = await node.answer(asker, vector, step["most"])
        found = [_told(t, seen) for t, seen in zip(head.transactions, head.seens, strict=True)]
        same(found, [self._expected_head(*place) for place in step["txs"]], "answered")
        same(sum(h[4] for h in found), sum(row.count(b"\n") for row in rows), "rows answered")
        for text in wanted:
            txs = json.loads(text)
            if txs == step["txs"]:
                self.frames[number, text] = (head, rows)
                continue
            before = step["txs"][: step["txs"].index(txs[0])]
            upto = {**vector, **{o: p for o, p in map(tuple, before)}}
            piece = await node.answer(asker, upto, len(txs))
            same([[t.origin, t.position] for t in piece[0].transactions], txs, "piece answered")
            self.frames[number, text] = piece

    async def _refused(
        self, node: ReplayNode, asker: int, vector: dict[int, int], step: Step
    ) -> None:
        floors = {
            o: p
            for o, p in vector_of(step["floor"]).items()
            if o != asker and p > vector.get(o, 0)
        }
        try:
            await node.answer(asker, vector, step["most"])
        except ResyncRequired as refusal:
            same(vector_of(refusal.data["floors"]), floors, "floors of a refusal")
            return
        raise Difference(f"answered, though {floors} have left the log")

    async def _deliver(self, node: ReplayNode, step: Step) -> None:
        self.expected, self.runs, self.applied = [], [], None
        if step["txs"]:
            brought = self.frames[step["number"], json.dumps(step["txs"])]
            self.applied = await node.apply(brought, step["wall"])

    async def _run(self, node: ReplayNode, step: Step) -> None:
        self.runs.append(step)

    async def _apply(self, node: ReplayNode, step: Step) -> None:
        origin, position, run = step["origin"], step["position"], self.runs[-1]
        self.rivals[origin, position] = step["conflicts"]
        if position == run["last"]:
            self.expected += self._conflicts_of(run)

    async def _delivered(self, node: ReplayNode, step: Step) -> None:
        if self.applied is None:
            return
        stop = self.applied.stopped
        found = stop and [str(stop.reason), stop.origin, stop.position]
        same(found, step["stopped"], "stopped at")
        count = sum(run["last"] - run["first"] + 1 for run in self.runs)
        same(self.applied.transactions, count, "transactions applied")
        same(self.applied.vector, vector_of(step["vector"]), "vector told", zeros=True)
        order = sorted(self.expected, key=repr)
        same(sorted(await node.new_conflicts(), key=repr), order, "conflicts")
        self.conflicts += len(order)
        await self._compare(node, step)

    async def _prune(self, node: ReplayNode, step: Step) -> None:
        await prune(node.conn)
        await self._compare(node, step)

    async def _join(self, node: ReplayNode, step: Step) -> None:
        await take_over(self.nodes[step["sponsor"]].database, node.database, node.origin)

    async def _crash(self, node: ReplayNode, step: Step) -> None:
        await node.crash()

    # --- what must be -----------------------------------------------------------------------
    async def _compare(self, node: ReplayNode, step: Step) -> None:
        state = await node.state()
        same(state["rows"] or {}, step["rows"], "rows")
        same(vector_of(state["vector"]), vector_of(step["vector"]), "vector")
        same(state["hlc"], step["hlc"], "hlc")
        same(state["log"] or [], step["log"], "log")
        kept = sorted(state["kept"] or [], key=str)
        same(kept, step["kept"], "changes kept")
        same(vector_of(state["floor"]), vector_of(step["floor"]), "floors")
        same(state["members"], step["members"], "members")
        same(state["waiting"], 0, "changes in quarantine")

    def _expected_head(self, origin: int, position: int) -> tuple[Any, ...]:
        step = self.made[origin, position]
        changes = len(self.ops[step["uid"]]) if step["kind"] == "d" else 0
        return origin, position, step["hlc"], step["kind"], changes, vector_of(step["seen"])

    def _conflicts_of(self, run: Step) -> list[dict[str, Any]]:
        """What is recorded of a run: of each row the last change, against the highest rival.

        A run is applied at once, so what a later change of it replaces is never in a row. The
        rivals that were published before come first; those that only got their place meanwhile
        are met where the incoming change has won until then.
        """
        last: dict[str, Place] = {}
        for position in range(run["first"], run["last"] + 1):
            for op in self._ops(run["origin"], position):
                for key in KEYS if op["key"] is None else [op["key"]]:
                    last[key] = (run["origin"], position)
        found = []
        for key, place in last.items():
            rivals = {tuple(r[1:3]) for r in self.rivals[place] if r[0] == key}
            late = {r for r in rivals if r[0] == run["node"] and r[1] > run["own"]}
            for group in (rivals - late, late):
                told, kept_wins = self._told_of(key, place, group)
                found += told
                if kept_wins and self._op(place, key)["op"] != "T":
                    break
        return found

    def _told_of(
        self, key: str, place: Place, rivals: set[Place]
    ) -> tuple[list[dict[str, Any]], bool]:
        came = self._op(place, key)
        if came["op"] == "T":
            rivals = {r for r in rivals if self._op(r, key)["op"] != "T"}
        if not rivals:
            return [], False
        top = max(rivals, key=lambda r: (self.made[r]["hlc"], *r))
        kept = self._op(top, key)
        kept_wins = (self.made[top]["hlc"], *top) > (self.made[place]["hlc"], *place)
        if (kept["image"], came["image"]) == (None, None):
            return [], kept_wins
        told = {
            "key": key,
            "kind": _kind(came["op"], kept["op"]),
            "winner": "kept" if kept_wins else "incoming",
            "state": "open" if self.trace.strategy == "manual" else "resolved",
            **self._side("kept", key, top, kept),
            **self._side("in", key, place, came),
        }
        return [told], kept_wins

    def _side(self, side: str, key: str, place: Place, op: dict[str, Any]) -> dict[str, Any]:
        return {
            f"{side}_origin": place[0],
            f"{side}_position": place[1],
            f"{side}_hlc": self.made[place]["hlc"],
            f"{side}_op": op["op"],
            f"{side}_image": op["image"] and f"({key},{op['image']})",
        }

    def _ops(self, origin: int, position: int) -> list[dict[str, Any]]:
        return self.ops.get(self.made[origin, position]["uid"], [])

    def _op(self, place: Place, key: str) -> dict[str, Any]:
        return next(op for op in self._ops(*place) if op["key"] in (key, None))


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


def _told(t: Any, seen: Mapping[int, int]) -> tuple[Any, ...]:
    return t.origin, t.position, t.hlc, t.kind, t.changes, dict(seen)


def _kind(came: str, kept: str) -> str:
    if came in ("D", "T"):
        return "delete_origin_differs"
    if kept in ("D", "T"):
        return "insert_deleted" if came == "I" else "update_missing"
    return "insert_exists" if came == "I" else "update_origin_differs"


async def _stream(rows: list[bytes]) -> AsyncIterator[bytes]:
    for row in rows:
        yield row
