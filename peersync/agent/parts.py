"""Which runs of pg_dump one backup is made of."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from peersync.core.names import TableName
from peersync.postgres.backup import data_arguments, schema_arguments
from peersync.postgres.catalog import DatabaseCatalog
from peersync.wire.messages import BackupRequest, Part, TableRef

BIG_TABLE_BYTES = 16 << 20
MAX_BIG_TABLES = 64


@dataclass(frozen=True)
class PartJob:
    """One run of pg_dump, and what the manifest says of it."""

    part: Part
    arguments: list[str]


def plan_parts(request: BackupRequest, catalog: DatabaseCatalog) -> list[PartJob]:
    """Definitions, one run for each big table, largest first, and one for all the rest."""
    wanted = {table_name(t) for t in request.tables}
    sizes = {n: t.size_bytes for n, t in catalog.tables.items() if n in wanted}
    big = sorted((n for n, s in sizes.items() if s >= BIG_TABLE_BYTES), key=lambda n: -sizes[n])
    big = big[:MAX_BIG_TABLES]
    left_out = [*big, *(n for n in catalog.tables if n not in wanted)]
    runs: list[tuple[Part, list[str]]] = []

    def add(part: Part, arguments: list[str]) -> None:
        runs.append((msgspec.structs.replace(part, id=len(runs)), arguments))

    if request.schema != "none":
        tables = (
            [table_name(t) for t in request.schema_tables] if request.schema == "tables" else []
        )
        add(Part(id=0, kind="pre-data"), schema_arguments("pre-data", tables))
        add(Part(id=0, kind="post-data"), schema_arguments("post-data", tables))
    for name in big:
        ref = TableRef(schema=name.schema, name=name.name)
        add(
            Part(id=0, kind="data", table=ref, estimated_bytes=sizes[name]),
            data_arguments(name, (), large_objects=False),
        )
    rest = sum(size for name, size in sizes.items() if name not in big)
    add(
        Part(id=0, kind="data", estimated_bytes=rest),
        data_arguments(None, left_out, large_objects=request.large_objects),
    )
    return [PartJob(part, arguments) for part, arguments in runs]


def table_name(ref: TableRef) -> TableName:
    return TableName(ref.schema, ref.name)
