"""Full syncs of only some rows: what they can't be had with, and what the target refuses.

Pure. Such a sync updates and inserts, and nothing else. Which rows come is the source's to say
(`postgres.narrow`); a source that does not know the question would give all of them, and is
refused.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from peersync.core.errors import BadRequest, ProtocolError, SchemaMismatch
from peersync.core.names import TableName
from peersync.core.words import counted
from peersync.postgres.catalog import DatabaseCatalog
from peersync.postgres.filters import Shapes
from peersync.wire.messages import Catalogue, Options, TableInfo


def refuse_narrow(options: Options) -> None:
    """Raises BadRequest where rows that do not come could be taken for rows that are gone."""
    if options.narrow is None:
        return
    if options.mirror or options.join or options.anew or options.merge:
        raise BadRequest(
            "a sync of some rows deletes nothing and makes no member",
            hint="Take all rows: without a window, a filter, --mirror and join do not go together.",
        )
    if not (options.narrow.conditions or options.narrow.newer):
        raise BadRequest("which rows? A sync of some rows needs a condition")


def refuse_not_here(source: Catalogue, here: DatabaseCatalog, source_name: str) -> Catalogue:
    """The catalogue as far as it travels: no large objects.

    Raises ProtocolError for a source that has not understood which rows are wanted, and
    SchemaMismatch for tables that only a whole sync can create.
    """
    if not all(table.narrowed for table in source.tables):
        raise ProtocolError(
            f"{source_name} can't give only some rows of its tables",
            hint=f"Install the same version of peersync on {source_name}, and restart its agent.",
        )
    missing = [t for t in source.tables if TableName(t.schema, t.name) not in here.tables]
    if missing:
        first = f"{missing[0].schema}.{missing[0].name}"
        raise SchemaMismatch(
            f"{counted(len(missing), 'table')} not here, and some rows make no table: {first}",
            hint=f"Take it whole once: peersync pull {source_name} --tables '{first}'",
        )
    return msgspec.structs.replace(source, large_objects=0)


def fewer_rows(table: TableInfo, shapes: Shapes, names: Collection[TableName]) -> TableInfo:
    """A table of the source as the one who asks for some rows of it is told."""
    name = TableName(table.schema, table.name)
    if name not in names:
        return table
    rows, size = shapes[name].rows, table.size_bytes
    if rows is not None and table.rows:
        size = min(size, size * rows // table.rows + 1)
    return msgspec.structs.replace(table, rows=rows, size_bytes=size, narrowed=True)
