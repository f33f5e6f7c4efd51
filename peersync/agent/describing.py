"""What a peer may know of a database before it pulls it: its catalogue, as far as it may leave.

The source's side of planning. What the configuration leaves out or filters is not in it, and what
the role here may not read is said in it. Nothing is decided for the target, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from peersync.agent.backups import Backups
from peersync.agent.filtered import shapes_for_peer
from peersync.agent.narrowing import fewer_rows
from peersync.agent.refused import (
    marked,
    refuse_unable_to_sync,
    refuse_what_no_table_stands_for,
)
from peersync.agent.workers import Workers
from peersync.core.errors import ToolMissing
from peersync.core.names import TableName
from peersync.core.patterns import Patterns
from peersync.postgres.catalog import DatabaseCatalog, OwnedSequence, read_catalog
from peersync.postgres.filters import Shapes, whole
from peersync.postgres.log.baseline import refuse_to_sponsor
from peersync.postgres.log.oneway import read_direction
from peersync.postgres.narrow import narrowed
from peersync.postgres.pool import Database
from peersync.postgres.rights import read_rights, unreadable
from peersync.postgres.sqlfiles import queries
from peersync.wire.messages import (
    Catalogue,
    ColumnInfo,
    DescribeRequest,
    SequenceInfo,
    TableInfo,
    TableRef,
    TypeInfo,
)

LOCK_S = 10.0  # the size of a table that is locked for an ALTER can not be read
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
        *left_out(infos, tables, name),
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


def left_out(
    all_tables: Sequence[TableInfo], kept: Sequence[TableInfo], name: str
) -> tuple[tuple[str, str], ...]:
    """Those that the configuration of node `name` leaves out, each with that reason."""
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
