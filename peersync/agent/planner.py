"""Asks both sides what they have and makes the plan of a full sync."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from peersync.agent.backups import Backups
from peersync.agent.compare import Comparison, estimate
from peersync.agent.delta.choice import choose_tables
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.narrowing import fewer_rows, refuse_narrow, refuse_not_here
from peersync.agent.plan import Plan, make_plan
from peersync.agent.refused import (
    marked,
    refuse_unable_to_sync,
    refuse_what_no_table_stands_for,
    with_refused,
)
from peersync.agent.workers import Workers
from peersync.core.errors import BadRequest, PeersyncError, ToolMissing
from peersync.core.names import TableName, quote_ident
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import DatabaseCatalog, OwnedSequence, read_catalog
from peersync.postgres.filters import Shapes, whole
from peersync.postgres.history import History
from peersync.postgres.log.baseline import refuse_to_sponsor
from peersync.postgres.log.oneway import read_direction, refuse_rows_of
from peersync.postgres.narrow import narrowed
from peersync.postgres.pool import Database
from peersync.postgres.rights import read_rights, unreadable
from peersync.postgres.schema import RELATIONS
from peersync.postgres.sqlfiles import queries
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import (
    Catalogue,
    ColumnInfo,
    DescribeRequest,
    Options,
    SequenceInfo,
    TableInfo,
    TableRef,
    TypeInfo,
)
from peersync.wire.spool import free_bytes

_HISTORY_LOOKED_AT = 20
LOCK_S = 10.0  # the size of a table that is locked for an ALTER can not be read


_MATERIALIZED = "materialized view"
_LEFT_OUT = "left out by the configuration of {}"
_HASHED_BY_ENUM = (
    "partition by the hash of an enum: on another server its rows belong to other partitions; "
    "copy it by hand: pg_dump --data-only --load-via-partition-root"
)


async def describe(
    database: Database,
    patterns: Patterns,
    name: str,
    backups: Backups,
    workers: Workers,
    wanted: DescribeRequest,
) -> Catalogue:
    """What a peer may know of a database before it pulls it; `name` is this node's.

    With `wanted.join` it comes to stay. Raises PermissionMissing where changes can't be captured
    here then, and what `refuse_to_sponsor` and `narrowed` raise.
    """
    chosen = Patterns(wanted.tables or ("*",), wanted.exclude_tables)
    async with database.acquire("reading the catalog", lock_timeout_s=LOCK_S) as connection:
        catalog = await read_catalog(connection)
        scattered = await connection.fetch(queries("partitions")["hashed_by_enum"])
        rights = await read_rights(connection)
        closed = unreadable(rights)
        direction = await read_direction(connection)
        if wanted.join:
            await refuse_to_sponsor(connection)
        async with connection.transaction(readonly=True):
            shapes = await shapes_for_peer(connection, backups.filters(database.name), catalog)
            names = [n for n in catalog.tables if patterns.match(n) and chosen.match(n)]
            fewer = await narrowed(connection, shapes, catalog, wanted.narrow, names)
    try:
        tool = await workers.run(backups.choose_tool, catalog.server.version_num)
        tool_words, tool_ok = f"pg_dump {tool.version}", True
    except ToolMissing as exc:
        tool_words, tool_ok = f"{exc.message}: {exc.hint}", False
    no_place = {TableName(row["schema"], row["name"]) for row in scattered}
    refuse_what_no_table_stands_for(closed, patterns, name)
    if wanted.join:
        refuse_unable_to_sync(rights, patterns, name)
    described = marked(_table_infos(catalog, shapes), closed)
    if wanted.narrow is not None:
        described = [fewer_rows(t, fewer, names) for t in described]
    infos = [t for t in described if TableName(t.schema, t.name) not in no_place]
    tables = tuple(t for t in infos if patterns.match(TableName(t.schema, t.name)))
    sequences = tuple(_sequence(s) for s in catalog.sequences if patterns.match(s.name))
    skipped = (
        *((str(name), _HASHED_BY_ENUM) for name in sorted(no_place)),
        *_skipped(infos, tables, name),
    )
    return Catalogue(
        direction=direction or "both",
        server_version_num=catalog.server.version_num,
        server_version=catalog.server.version,
        dump_tool=tool_words,
        dump_tool_ok=tool_ok,
        encoding=catalog.server.encoding,
        tables=tables,
        skipped=(*catalog.not_copied, *skipped),
        sequences=catalog.server.sequences,
        large_objects=catalog.server.large_objects,
        size_bytes=catalog.server.size_bytes,
        types=tuple(
            TypeInfo(name=name, kind=t.kind, parts=t.parts, uses=t.uses)
            for name, t in catalog.types.items()
        ),
        sequence_list=sequences,
    )


def _sequence(sequence: OwnedSequence) -> SequenceInfo:
    name, table = sequence.name, sequence.table
    owner = TableRef(schema=table.schema, name=table.name) if table else None
    return SequenceInfo(schema=name.schema, name=name.name, table=owner, column=sequence.column)


def _skipped(
    all_tables: Sequence[TableInfo], kept: Sequence[TableInfo], name: str
) -> tuple[tuple[str, str], ...]:
    names = {(t.schema, t.name) for t in kept}
    return tuple(
        (f"{t.schema}.{t.name}", _LEFT_OUT.format(name))
        for t in all_tables
        if (t.schema, t.name) not in names
    )


def _table_infos(catalog: DatabaseCatalog, shapes: Shapes) -> list[TableInfo]:
    return [
        TableInfo(
            schema=table.name.schema,
            name=table.name.name,
            columns=tuple(
                ColumnInfo(
                    name=c.name,
                    type=c.type,
                    not_null=c.not_null,
                    generated=c.generated,
                    identity=c.identity,  # type: ignore[arg-type]  # the query gives these three
                    expression=c.expression,
                )
                for c in shape.columns
            ),
            key=shape.key,
            rows=shape.rows,
            size_bytes=table.size_bytes,
            filtered=shape.where is not None,
            columns_filtered=shape.leaves_out_columns,
            must_exist=shape.must_exist,
            parent=table.parent and TableRef(schema=table.parent.schema, name=table.parent.name),
            bound=table.bound,
        )
        for table, shape in ((t, shapes.get(t.name) or whole(t)) for t in catalog.tables.values())
    ]


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
    exactly. Raises ToolMissing, Denied, SchemaMismatch … where
    the sync could not work.
    """
    refuse_narrow(options)
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
    skipped = (*source.skipped, *_skipped(source.tables, kept, node_name))
    kept = _selected(kept, options, peer.name)
    chosen = bool(options.tables or options.exclude_tables)
    sequences = tuple(
        s
        for s in source.sequence_list
        if patterns.match(TableName(s.schema, s.name)) and (s.table or not chosen)
    )
    source = msgspec.structs.replace(source, tables=kept, skipped=skipped, sequence_list=sequences)
    async with database.acquire("reading the catalog", lock_timeout_s=LOCK_S) as connection:
        catalog = await read_catalog(connection)
        replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
        relations = await connection.fetch(queries("created")["relations"])
        named = await connection.fetch("SELECT nspname FROM pg_catalog.pg_namespace")
        schemas = frozenset(row["nspname"] for row in named)
        if not (options.join or options.source_wins) and await read_direction(connection):
            refuse_rows_of(peer.name, source.direction)
        if options.join:
            refuse_unable_to_sync(await read_rights(connection), patterns, node_name)
    if options.narrow is not None:
        source = refuse_not_here(source, catalog, peer.name)
    kinds = {TableName(row["schema"], row["name"]): row["kind"] for row in relations}
    plan = make_plan(
        source,
        catalog,
        source_name=peer.name,
        target_name=node_name,
        database=database.name,
        may_bring_schema=peer.may("schema", database.name),
        replica_role=bool(replica),
        free_bytes=await workers.run(free_bytes, spool),
        method=_method(options),
        mirror=options.mirror,
        taken={n: RELATIONS.get(k, "something else") for n, k in kinds.items()},
    )
    plan = with_refused(_with_surroundings(plan, catalog), source, peer.name)
    if options.method in ("auto", "delta"):
        plan = choose_tables(plan, source, catalog, options, replica_role=bool(replica))
    expected_s = await _expected_seconds(database, peer, plan)
    if plan.schema_scope == "all" and (options.tables or options.exclude_tables):
        plan = _chosen_only(plan, schemas)
    estimated = tuple(msgspec.structs.replace(t, counts=estimate(t)) for t in plan.tables)
    plan = msgspec.structs.replace(plan, tables=estimated)
    if count:
        comparison = Comparison(client, database, source, catalog, offered, options.narrow)
        plan = await comparison.fill(plan, mirror=options.mirror)
    action = "push" if offered else "pull"
    narrow = options.narrow.words if options.narrow else None
    done = msgspec.structs.replace(plan, action=action, expected_s=expected_s, narrowed=narrow)
    return done, bool(replica)


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
