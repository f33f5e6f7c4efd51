"""What the members of a group ask each other about one row, and about their sequences.

The questions of people (`peersync trace`, `peersync sequences`) and the peers' answers to them.
A member that does not answer is named with the reason, and never counts as agreeing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar
from urllib.parse import quote

import asyncpg
import msgspec
from aiohttp import web

from peersync.agent.databases import Databases
from peersync.agent.periodic.admin_api import InDatabaseQuery, OperatorRequest
from peersync.config.model import Config
from peersync.core.errors import BadRequest, PeersyncError, PeerUnreachable, PermissionMissing
from peersync.core.names import TableName
from peersync.core.sequences import MAX_STEP, MIN_STEP
from peersync.postgres.log.members import read_members, read_replica
from peersync.postgres.log.sequence_views import (
    NodeSequences,
    SequencePlan,
    SequencesCheck,
    SequencesPlan,
)
from peersync.postgres.log.sequences import (
    Place,
    apply_sequences,
    check_sequences,
    choose_place,
    plan_sequences,
    read_sequences,
)
from peersync.postgres.log.trace import (
    RowState,
    TraceRequest,
    asked_subject,
    find_subject,
    row_state,
    trace_row,
)
from peersync.transport.app import PEER, json_response
from peersync.transport.body import read_message
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.problems import clean
from peersync.transport.query import read_query
from peersync.wire.messages import Name

log = logging.getLogger("peersync.periodic")
T = TypeVar("T")

BODY_BYTES = 4 * 1024 * 1024
MAX_KEY = 64
ANSWER_S = 15.0
LOCK_TIMEOUT_S = 10.0
ID_DIGITS = 16


class TraceQuestion(OperatorRequest, frozen=True):
    """`POST /api/admin/trace`: `key` has a value for each column of the table's key."""

    table: str
    key: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_KEY)]


class TraceQuery(InDatabaseQuery, frozen=True, kw_only=True):
    """`key`: its value; where the key has several columns, once for each, in their order.

    An address has at most 8 KiB; for a longer key there is the same with a body.
    """

    table: str
    key: str


class SequencesRequest(OperatorRequest, frozen=True):
    """`POST /api/admin/sequences/plan` and `…/apply`; without them slot and step are chosen."""

    slot: Annotated[int, msgspec.Meta(ge=0, lt=MAX_STEP)] | None = None
    step: Annotated[int, msgspec.Meta(ge=MIN_STEP, le=MAX_STEP)] | None = None


class SequencesQuery(InDatabaseQuery, frozen=True, kw_only=True):
    """`asked`: beginnings of the node ids that are asked already, with commas; none: ask nobody.

    within: the seconds in which the others have to be asked.
    """

    asked: str = ""
    within: Annotated[float, msgspec.Meta(ge=0, le=ANSWER_S)] = ANSWER_S


class LookApi:
    """The handlers; `admin_routes` and `peer_routes` list them."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
    ) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._client_for = client_for

    def admin_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/admin/trace", self._look_up),
            web.post("/api/admin/trace", self._trace),
            web.post("/api/admin/sequences/plan", self._plan),
            web.post("/api/admin/sequences/apply", self._apply),
            web.get("/api/admin/sequences/check", self._check),
        ]

    def peer_routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/sync/trace", self._answer_trace),
            web.get("/api/sync/sequences", self._answer_sequences),
        ]

    # --- people ---------------------------------------------------------------------------
    async def _look_up(self, request: web.Request) -> web.Response:
        asked = read_query(request, TraceQuery)
        key = tuple(request.query.getall("key"))
        if len(key) > MAX_KEY:
            raise BadRequest(f"a key has at most {MAX_KEY} columns")
        return await self._tell(TraceQuestion(database=asked.database, table=asked.table, key=key))

    async def _trace(self, request: web.Request) -> web.Response:
        return await self._tell(await read_message(request, TraceQuestion, limit=BODY_BYTES))

    async def _tell(self, wanted: TraceQuestion) -> web.Response:
        async with self._connection(wanted.database, "tracing a row") as conn:
            await _require_member(conn, wanted.database)
            subject = await find_subject(conn, wanted.table, wanted.key)
            own = await row_state(conn, subject, self._config.node.name)
        table = subject.target.name
        asked = TraceRequest(
            database=wanted.database, schema=table.schema, table=table.name, key=subject.literal
        )

        async def ask(client: PeerClient) -> RowState:
            return await client.call("POST", "/api/sync/trace", asked, RowState)

        answers, silent = await self._ask(wanted.database, ask)
        states = [own]
        for node, state in answers.items():
            states.append(_cleaned(state, node))
        states += [RowState(node=node, problem=why) for node, why in silent.items()]
        async with self._connection(wanted.database, "tracing a row") as conn:
            return json_response(await trace_row(conn, wanted.database, subject, states))

    async def _plan(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SequencesRequest, limit=BODY_BYTES)
        others, silent = await self._others(wanted.database)
        async with self._connection(wanted.database, "planning the sequences") as conn:
            place = await _place(conn, wanted, others, {})
            plans = await plan_sequences(conn, place, others)
        return json_response(_planned(wanted.database, place, plans, silent, applied=False))

    async def _apply(self, request: web.Request) -> web.Response:
        wanted = await read_message(request, SequencesRequest, limit=BODY_BYTES)
        others, silent = await self._others(wanted.database)
        try:
            async with self._connection(wanted.database, "setting the sequences") as conn:
                place = await _place(conn, wanted, others, silent)
                plans = await apply_sequences(conn, place, others)
        except PermissionMissing as refusal:
            raise PermissionMissing(
                refusal.message,
                detail=refusal.detail,
                hint="let the owner of the tables run it: peersync sequences plan --sql | psql",
                **refusal.data,
            ) from refusal
        done = sum(plan.sql is not None for plan in plans)
        log.info("%s: %d sequences set by %s", wanted.database, done, wanted.by)
        return json_response(_planned(wanted.database, place, plans, silent, applied=True))

    async def _check(self, request: web.Request) -> web.Response:
        name = read_query(request, InDatabaseQuery).database
        others, silent = await self._others(name)
        async with self._connection(name, "checking the sequences") as conn:
            own = await read_sequences(conn, self._config.node.name)
            found: SequencesCheck = await check_sequences(conn, name, own, others, silent)
        return json_response(found)

    async def _others(self, database: str) -> tuple[list[NodeSequences], dict[str, str]]:
        async with self._connection(database, "reading the members") as conn:
            await _require_member(conn, database)
        return await self._ask_sequences(database, frozenset(), ANSWER_S)

    async def _ask_sequences(
        self, database: str, asked: frozenset[str], within: float
    ) -> tuple[list[NodeSequences], dict[str, str]]:
        """Every other member that is not in `asked`, through its peers where it is none of ours."""
        own, members = await self._members(database)
        known = {one.node_id: one for one in members}
        now = {own, *(one.node_id for one in members if one.peer is not None)}
        ids = ",".join(sorted(asked | {node_id[:ID_DIGITS] for node_id in now}))
        path = f"/api/sync/sequences?database={quote(database, safe='')}"
        path += f"&asked={ids}&within={within / 2:g}"

        async def ask(client: PeerClient) -> NodeSequences:
            return await client.call("GET", path, None, NodeSequences)

        answers, silent = await self._ask(database, ask, passed=asked, within=within)
        found = {
            one.node_id: msgspec.structs.replace(answers[one.name], node_id=one.node_id, beyond=())
            for one in known.values()
            if one.name in answers
        }
        for answer in answers.values():
            for told in answer.beyond:
                if (one := known.get(told.node_id)) is not None and one.name not in answers:
                    found.setdefault(one.node_id, told)
                    silent.pop(one.name, None)
        named = [msgspec.structs.replace(told, node=known[key].name) for key, told in found.items()]
        return sorted(named, key=lambda told: told.node), silent

    async def _members(self, database: str) -> tuple[str, list[_Asked]]:
        """This node's id, and the others."""
        async with self._connection(database, "reading the members") as conn:
            replica = await read_replica(conn)
            members = await read_members(conn)
        own, found = "", []
        for member in members:
            if replica and member.origin == replica.origin:
                own = member.node_id
            elif member.counts:
                peer = self._book.find(member.node_id)
                name = member.node_name if peer is None else peer.name
                found.append(_Asked(name=name, node_id=member.node_id, peer=peer))
        return own, found

    async def _ask(
        self,
        database: str,
        ask: Callable[[PeerClient], Awaitable[T]],
        *,
        passed: frozenset[str] = frozenset(),
        within: float = ANSWER_S,
    ) -> tuple[dict[str, T], dict[str, str]]:
        """Every other member at once: what it answered, or why it did not, by its name here.

        passed: beginnings of node ids that are not asked. within: seconds.
        """
        _, members = await self._members(database)
        answers: dict[str, T] = {}
        silent: dict[str, str] = {}

        async def one(peer: Peer) -> None:
            try:
                async with asyncio.timeout(within):
                    answers[peer.name] = await ask(self._client_for(peer))
            except TimeoutError:
                silent[peer.name] = PeerUnreachable(f"{peer.name} did not answer in time").message
            except PeersyncError as error:
                silent[peer.name] = error.message

        async with asyncio.TaskGroup() as group:
            for member in members:
                if member.node_id[:ID_DIGITS] in passed:
                    continue
                if member.peer is None:
                    silent[member.name] = "it is no peer of this server, and cannot be asked"
                else:
                    group.create_task(one(member.peer), name=f"ask {member.name}")
        return dict(sorted(answers.items())), dict(sorted(silent.items()))

    # --- peers ----------------------------------------------------------------------------
    async def _answer_trace(self, request: web.Request) -> web.Response:
        asked = await read_message(request, TraceRequest, limit=BODY_BYTES)
        request[PEER].require("pull", asked.database)
        node = self._config.node.name
        name = TableName(asked.schema, asked.table)
        if not self._databases.patterns(asked.database).match(name):
            return json_response(RowState(node=node, problem=f"it does not sync {name}"))
        async with self._connection(asked.database, "tracing a row for a peer") as conn:
            subject = await asked_subject(conn, asked)
            if subject is None:
                return json_response(RowState(node=node, problem=f"it has no table {name}"))
            filters = self._config.database[asked.database].filter
            told = all(one.name != name for one in filters)
            return json_response(await row_state(conn, subject, node, tell_digest=told))

    async def _answer_sequences(self, request: web.Request) -> web.Response:
        query = read_query(request, SequencesQuery)
        request[PEER].require("pull", query.database)
        async with self._connection(query.database, "reading the sequences for a peer") as conn:
            own = await read_sequences(conn, self._config.node.name)
        if query.asked and query.within >= 1:
            asked = frozenset(query.asked.split(","))
            others, _ = await self._ask_sequences(query.database, asked, query.within)
            own = msgspec.structs.replace(own, beyond=tuple(others))
        return json_response(own)

    @asynccontextmanager
    async def _connection(self, name: str, what: str) -> AsyncIterator[asyncpg.Connection]:
        database = await self._databases.ready(name)
        async with database.acquire(what, lock_timeout_s=LOCK_TIMEOUT_S) as conn:
            yield conn


async def _require_member(conn: asyncpg.Connection, database: str) -> None:
    if await read_replica(conn) is None:
        raise BadRequest(
            f"database {database} takes part in no periodic sync",
            hint="begin it with another server: peersync join PEER",
        )


class _Asked(msgspec.Struct, frozen=True):
    """Another member of the group, by its name here; peer: null where only others can ask it."""

    name: str
    node_id: str
    peer: Peer | None


async def _place(
    conn: asyncpg.Connection,
    wanted: SequencesRequest,
    others: list[NodeSequences],
    silent: dict[str, str],
) -> Place:
    place = await choose_place(conn, others, slot=wanted.slot, step=wanted.step)
    if silent and wanted.slot is None and not place.kept:
        raise PeerUnreachable(
            f"{', '.join(silent)} could not be asked which numbers are taken; a place is for ever",
            detail="; ".join(f"{node}: {why}" for node, why in silent.items()),
            hint="try again later, or type a place that no other node has (peersync sequences check"
            " on each shows its own): peersync sequences apply --slot N",
        )
    if place.step & (place.step - 1):
        raise BadRequest(f"step {place.step} is no power of two")
    if place.slot >= place.step:
        raise BadRequest(f"slot {place.slot} does not fit into step {place.step}")
    if taken := [other.node for other in others if other.slot == place.slot]:
        raise BadRequest(
            f"slot {place.slot} belongs to {', '.join(taken)}",
            hint="choose another one here or there: peersync sequences apply --slot N",
        )
    return place


def _planned(
    database: str,
    place: Place,
    plans: list[SequencePlan],
    silent: dict[str, str],
    *,
    applied: bool,
) -> SequencesPlan:
    return SequencesPlan(
        database=database,
        members=place.members,
        slot=place.slot,
        step=place.step,
        sequences=tuple(plans),
        silent=silent,
        applied=applied,
    )


def _cleaned(state: RowState, node: Name) -> RowState:
    """What a peer says, under the name that it has here and fit for a terminal."""
    words = {
        name: clean(value)[:200]
        for name in ("digest", "origin_node", "at", "op", "problem")
        if (value := getattr(state, name)) is not None
    }
    return msgspec.structs.replace(state, node=node, **words)
