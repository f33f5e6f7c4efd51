"""Asks both sides what they have and makes the plan of a full sync.

The I/O of planning: the catalogues, rights, history and free space of both. What follows from
them is decided in `plan` and `tableplan`; nothing is changed here, on either side.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from peersync.agent.compare import Comparison, estimate
from peersync.agent.delta.choice import choose_tables
from peersync.agent.describing import LOCK_S, left_out
from peersync.agent.narrowing import refuse_narrow, refuse_not_here
from peersync.agent.plan import Plan, make_plan
from peersync.agent.refused import (
    refuse_unable_to_sync,
    with_refused,
)
from peersync.agent.workers import Workers
from peersync.core.errors import BadRequest, PeersyncError
from peersync.core.names import TableName, quote_ident
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.history import History
from peersync.postgres.log.oneway import read_direction, refuse_rows_of
from peersync.postgres.pool import Database
from peersync.postgres.rights import read_rights
from peersync.postgres.schema import RELATIONS
from peersync.postgres.sqlfiles import queries
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import (
    Catalogue,
    DescribeRequest,
    Options,
    TableInfo,
)
from peersync.wire.spool import free_bytes

_HISTORY_LOOKED_AT = 20
_MATERIALIZED = "materialized view"


async def plan_pull(
    client: PeerClient,
    peer: Peer,
    database: Database,
    patterns: Patterns,
    node_name: str,
    spool: Path,
    workers: Workers,
    *,
    options: Options,
    offered: str | None,
    count: bool,
) -> tuple[Plan, bool]:
    """The plan of taking a peer's database, and whether triggers can be kept quiet here.

    `offered` is the session of a push; `count`: somebody wants to know the numbers of rows
    exactly. Raises ToolMissing, Denied, SchemaMismatch … where the sync could not work.
    """
    refuse_narrow(options)
    source = await _ask(client, peer, database, patterns, node_name, options, offered)
    here = await _look(database, patterns, node_name, peer, options, source)
    catalog, replica = here.catalog, here.replica_role
    if options.narrow is not None:
        source = refuse_not_here(source, catalog, peer.name)
    plan = make_plan(
        source,
        catalog,
        source_name=peer.name,
        target_name=node_name,
        database=database.name,
        may_bring_schema=peer.may("schema", database.name),
        replica_role=replica,
        free_bytes=await workers.run(free_bytes, spool),
        method=_method(options),
        mirror=options.mirror,
        taken=here.taken,
    )
    plan = with_refused(_with_surroundings(plan, catalog), source, peer.name)
    if options.method in ("auto", "delta"):
        plan = choose_tables(plan, source, catalog, options, replica_role=replica)
    expected_s = await _expected_seconds(database, peer, plan)
    if plan.schema_scope == "all" and (options.tables or options.exclude_tables):
        plan = _chosen_only(plan, here.schemas)
    estimated = tuple(msgspec.structs.replace(t, counts=estimate(t)) for t in plan.tables)
    plan = msgspec.structs.replace(plan, tables=estimated)
    if count:
        comparison = Comparison(client, database, source, catalog, offered, options.narrow)
        plan = await comparison.fill(plan, mirror=options.mirror)
    action = "push" if offered else "pull"
    narrow = options.narrow.words if options.narrow else None
    chosen = bool(options.tables or options.exclude_tables)  # then what the source has is not told
    done = msgspec.structs.replace(
        plan,
        action=action,
        expected_s=expected_s,
        narrowed=narrow,
        only_here=() if chosen else plan.only_here,
    )
    return done, replica


async def _ask(
    client: PeerClient,
    peer: Peer,
    database: Database,
    patterns: Patterns,
    node_name: str,
    options: Options,
    offered: str | None,
) -> Catalogue:
    """What the peer has of the tables that this node syncs and that this one sync is for."""
    asked = DescribeRequest(
        database=database.name,
        session=offered,
        join=options.join,
        narrow=options.narrow,
        tables=options.tables if options.narrow else (),
        exclude_tables=options.exclude_tables if options.narrow else (),
    )
    source = await client.call("POST", "/api/sync/describe", asked, Catalogue)
    kept = tuple(t for t in source.tables if patterns.match(TableName(t.schema, t.name)))
    skipped = (*source.skipped, *left_out(source.tables, kept, node_name))
    kept = _selected(kept, options, peer.name)
    chosen = bool(options.tables or options.exclude_tables)
    sequences = tuple(
        s
        for s in source.sequence_list
        if patterns.match(TableName(s.schema, s.name)) and (s.table or not chosen)
    )
    return msgspec.structs.replace(source, tables=kept, skipped=skipped, sequence_list=sequences)


class _Here(NamedTuple):
    """`taken`: what is here that is no table, in words."""

    catalog: DatabaseCatalog
    replica_role: bool
    taken: dict[TableName, str]
    schemas: frozenset[str]


async def _look(
    database: Database,
    patterns: Patterns,
    node_name: str,
    peer: Peer,
    options: Options,
    source: Catalogue,
) -> _Here:
    """What is here. Refuses rows of a one-way database, and a join that this role can't do."""
    async with database.acquire("reading the catalog", lock_timeout_s=LOCK_S) as connection:
        catalog = await read_catalog(connection)
        replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
        relations = await connection.fetch(queries("created")["relations"])
        named = await connection.fetch("SELECT nspname FROM pg_catalog.pg_namespace")
        if not (options.join or options.source_wins) and await read_direction(connection):
            refuse_rows_of(peer.name, source.direction)
        if options.join:
            refuse_unable_to_sync(await read_rights(connection), patterns, node_name)
    kinds = {TableName(row["schema"], row["name"]): row["kind"] for row in relations}
    return _Here(
        catalog,
        bool(replica),
        {name: RELATIONS.get(kind, "something else") for name, kind in kinds.items()},
        frozenset(row["nspname"] for row in named),
    )


def _chosen_only(plan: Plan, schemas: frozenset[str]) -> Plan:
    """Nothing is created beside what was chosen: not even the schema that a table is in."""
    tables = tuple(
        msgspec.structs.replace(
            t,
            action="blocked",
            reason=f"schema {t.schema} is not here, and of chosen tables only these are created: "
            f"CREATE SCHEMA {quote_ident(t.schema)};",
        )
        if t.action == "create" and t.schema not in schemas
        else t
        for t in plan.tables
    )
    return msgspec.structs.replace(plan, schema_scope="tables", tables=tables)


def _selected(
    tables: tuple[TableInfo, ...], options: Options, peer_name: str
) -> tuple[TableInfo, ...]:
    """The tables that this one sync is for. BadRequest for a pattern that means none."""
    for text in (*options.tables, *options.exclude_tables):
        pattern = Patterns((text,))
        if not any(pattern.match(TableName(t.schema, t.name)) for t in tables):
            raise BadRequest(
                f"no table of {peer_name} is meant by {text!r}",
                hint='Patterns are psql\'s: public.order_* or "Odd name".*; '
                "see which tables there are with --dry-run.",
            )
    chosen = Patterns(options.tables or ("*",), options.exclude_tables)
    return tuple(t for t in tables if chosen.match(TableName(t.schema, t.name)))


def _with_surroundings(plan: Plan, here: DatabaseCatalog) -> Plan:
    """Adds what the tables do not tell: stale views, large objects."""
    own = here.server.large_objects
    objects = (
        f"there are {own} large objects here: one with the oid of one of the source's "
        f"{plan.large_objects} gets its content",
    )
    stale = [name for name, reason in here.not_copied if reason.startswith(_MATERIALIZED)]
    brought = plan.schema_scope == "all"
    theirs = [
        (name, reason if not reason.startswith(_MATERIALIZED) else f"{_MATERIALIZED}: not brought")
        for name, reason in plan.not_copied
        if not reason.startswith(_MATERIALIZED) or not (brought or name in stale)
    ]
    refresh = [
        (name, f"{_MATERIALIZED}: what is in it stays as it is: REFRESH MATERIALIZED VIEW {name};")
        for name in stale
    ]
    return msgspec.structs.replace(
        plan,
        warnings=(*plan.warnings, *(objects if own and plan.large_objects else ())),
        not_copied=(*theirs, *refresh),
    )


def _method(options: Options) -> str:
    """What the tables that are sent whole travel by."""
    if options.narrow and options.method == "auto":
        return "http"
    return "auto" if options.method == "delta" else options.method


async def _expected_seconds(database: Database, peer: Peer, plan: Plan) -> float | None:
    """From this pair's last runs by this method: their seconds a byte, times the bytes of now."""
    try:
        entries = await History(database).newest(_HISTORY_LOOKED_AT)
    except PeersyncError:
        return None
    for entry in entries:
        progress = entry.progress
        if entry.peer_id != peer.node_id or entry.state != "done" or progress is None:
            continue
        seconds = max((step.seconds for step in progress.steps), default=0.0)
        dumped = next((s.total for s in progress.steps if s.name == "backup"), None)
        earlier = entry.plan or {}
        planned = earlier.get("size_bytes")
        if (earlier.get("method") == "delta") != (plan.method == "delta"):
            continue
        if seconds and dumped and planned:
            return float(round(seconds * plan.size_bytes / planned, 1))
    return None
