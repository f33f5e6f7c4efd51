"""Asks both sides what they have and makes the plan of a full sync."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from peersync.agent.backups import Backups
from peersync.agent.plan import Plan, make_plan
from peersync.agent.workers import Workers
from peersync.core.errors import PeersyncError, ToolMissing
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.history import History
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer
from peersync.wire.messages import Catalogue, ColumnInfo, DescribeRequest, TableInfo
from peersync.wire.spool import free_bytes

_HISTORY_LOOKED_AT = 20
LOCK_S = 10.0  # the size of a table that is locked for an ALTER can not be read


_LEFT_OUT = "left out by the configuration of {}"


async def describe(
    database: Database, patterns: Patterns, name: str, backups: Backups, workers: Workers
) -> Catalogue:
    """What a peer may know of a database before it pulls it; `name` is this node's."""
    async with database.acquire("reading the catalog", lock_timeout_s=LOCK_S) as connection:
        catalog = await read_catalog(connection)
    try:
        tool = await workers.run(backups.choose_tool, catalog.server.version_num)
        tool_words, tool_ok = f"pg_dump {tool.version}", True
    except ToolMissing as exc:
        tool_words, tool_ok = f"{exc.message}: {exc.hint}", False
    infos = _table_infos(catalog)
    tables = tuple(t for t in infos if patterns.match(TableName(t.schema, t.name)))
    skipped = _skipped(infos, tables, name)
    return Catalogue(
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
    )


def _skipped(
    all_tables: Sequence[TableInfo], kept: Sequence[TableInfo], name: str
) -> tuple[tuple[str, str], ...]:
    names = {(t.schema, t.name) for t in kept}
    return tuple(
        (f"{t.schema}.{t.name}", _LEFT_OUT.format(name))
        for t in all_tables
        if (t.schema, t.name) not in names
    )


def _table_infos(catalog: DatabaseCatalog) -> list[TableInfo]:
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
                )
                for c in table.columns
            ),
            key=table.keys[0].columns if table.keys else None,
            rows=table.rows,
            size_bytes=table.size_bytes,
        )
        for table in catalog.tables.values()
    ]


async def plan_pull(
    client: PeerClient,
    peer: Peer,
    database: Database,
    patterns: Patterns,
    node_name: str,
    spool: Path,
    workers: Workers,
) -> tuple[Plan, bool]:
    """The plan of pulling from a peer, and whether triggers can be kept quiet here.

    Raises ToolMissing, Denied, SchemaMismatch … where the sync could not work.
    """
    source = await client.call(
        "POST", "/api/sync/describe", DescribeRequest(database=database.name), Catalogue
    )
    kept = tuple(t for t in source.tables if patterns.match(TableName(t.schema, t.name)))
    skipped = (*source.skipped, *_skipped(source.tables, kept, node_name))
    source = msgspec.structs.replace(source, tables=kept, skipped=skipped)
    if not source.dump_tool_ok:
        raise ToolMissing(
            f"{peer.name} cannot make the backup: {source.dump_tool}",
            hint=f"Install the package on {peer.name}, then start again.",
        )
    async with database.acquire("reading the catalog", lock_timeout_s=LOCK_S) as connection:
        catalog = await read_catalog(connection)
        replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
    plan = make_plan(
        source,
        catalog,
        source_name=peer.name,
        target_name=node_name,
        database=database.name,
        may_bring_schema=peer.may("schema", database.name),
        replica_role=bool(replica),
        free_bytes=await workers.run(free_bytes, spool),
    )
    expected_s = await _expected_seconds(database, peer, plan.size_bytes)
    return msgspec.structs.replace(plan, expected_s=expected_s), bool(replica)


async def _expected_seconds(database: Database, peer: Peer, size_bytes: int) -> float | None:
    """From this pair's last runs: their seconds a byte, times the bytes of now."""
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
        planned = (entry.plan or {}).get("size_bytes")
        if seconds and dumped and planned:
            return float(round(seconds * size_bytes / planned, 1))
    return None
