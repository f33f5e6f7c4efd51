"""Which runs one backup is made of: of pg_dump, or of COPY over a connection.

A table that is filtered is never left to pg_dump, which would print all of it. With the
method "http" nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

import msgspec

from peersync.agent.filtered import FilteredRun
from peersync.core.errors import BadRequest, ToolMissing
from peersync.core.names import TableName
from peersync.postgres.backup import (
    Dump,
    View,
    data_arguments,
    key_arguments,
    leave_alone,
    schema_arguments,
)
from peersync.postgres.binaries import Tool
from peersync.postgres.catalog import DatabaseCatalog, Table
from peersync.postgres.conninfo import Resolved
from peersync.postgres.copyout import CopyOut, TableCopy
from peersync.postgres.filters import Shape, Shapes, table_copy
from peersync.postgres.log.logcopy import log_tables
from peersync.wire.messages import BackupRequest, Part, TableRef

BIG_TABLE_BYTES = 16 << 20
MAX_BIG_TABLES = 64


class Run(Protocol):
    """One part being made: `run` in a thread, `stop` from any other."""

    def run(self, take: Callable[[bytes], None]) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Means:
    """What the runs of one backup share. `kind` is the end of their application_name."""

    tool: Tool | None
    env: Mapping[str, str]
    view: View
    resolved: Resolved
    kind: str
    log_view: View | None = None


@dataclass(frozen=True)
class PartJob:
    """One run, and what the manifest says of it: by pg_dump where `tables` is None."""

    part: Part
    arguments: list[str]
    tables: tuple[TableCopy, ...] | None = None
    sequences: bool = False
    large_objects: bool = False
    left_alone: tuple[TableName, ...] = ()

    @property
    def needs_tool(self) -> bool:
        return self.tables is None

    def leaving_alone(self, names: Sequence[TableName]) -> PartJob:
        """The same without these relations: not locked, not named. One table's run has none."""
        if self.part.table is not None:
            return self
        if self.tables is not None:
            return replace(self, left_alone=tuple(names))
        return replace(self, arguments=leave_alone(self.arguments, names))

    def of_rows(self, copy: TableCopy) -> PartJob:
        """The same part, with these rows of its table."""
        return replace(self, tables=(copy,))

    def start(self, means: Means) -> Run:
        """A run that has not begun yet."""
        if self.tables is None:
            if means.tool is None:
                raise ToolMissing("this part of the backup needs pg_dump")
            arguments = [*self.arguments, *key_arguments(means.tool.version_num)]
            return Dump(means.tool.path, arguments, means.env, means.view)
        view = means.log_view if self.part.kind == "log" else means.view
        assert view is not None
        out = CopyOut(
            means.resolved,
            view,
            self.tables,
            kind=means.kind,
            sequences=self.sequences,
            large_objects=self.large_objects,
            left_alone=self.left_alone,
        )
        filtered = any(table.where is not None for table in self.tables)
        return FilteredRun(out, self.tables) if filtered else out


def plan_parts(
    request: BackupRequest,
    catalog: DatabaseCatalog,
    shapes: Shapes = MappingProxyType({}),
    probe: str | None = None,
) -> list[PartJob]:
    """Definitions, one run for each big table, largest first, and those for all the rest.

    `shapes` has the tables that are filtered. With a `probe` those that the request wants to be
    compared have a run each. Raises BadRequest.
    """
    if request.method == "http" and request.schema != "none":
        raise BadRequest("the method http brings no definitions")
    wanted = {table_name(t) for t in request.tables}
    compared = {table_name(t) for t in request.compare} & wanted & catalog.tables.keys()
    compared = compared - shapes.keys() if probe is not None else set()
    sizes = {n: t.size_bytes for n, t in catalog.tables.items() if n in wanted - compared}
    big = sorted((n for n, s in sizes.items() if s >= BIG_TABLE_BYTES), key=lambda n: -sizes[n])
    big = big[:MAX_BIG_TABLES]
    small = {name: size for name, size in sizes.items() if name not in big}
    jobs = [
        *_definitions(request),
        *(_big(catalog.tables[name], request, shapes.get(name)) for name in big),
        *_small(small, request, catalog, shapes),
        *(
            _compared(catalog.tables[table_name(t)], probe or "")
            for t in request.compare
            if table_name(t) in compared
        ),
        *_log(request),
    ]
    return [
        replace(job, part=msgspec.structs.replace(job.part, id=number))
        for number, job in enumerate(jobs)
    ]


def _big(table: Table, request: BackupRequest, shape: Shape | None) -> PartJob:
    ref = TableRef(schema=table.name.schema, name=table.name.name)
    part = Part(id=0, kind="data", table=ref, estimated_bytes=table.size_bytes)
    if shape is not None or request.method == "http":
        return PartJob(part, [], (table_copy(table, shape),))
    return PartJob(part, data_arguments(table.name, (), large_objects=False))


def _compared(table: Table, probe: str) -> PartJob:
    """All rows, until it is known which are wanted."""
    ref = TableRef(schema=table.name.schema, name=table.name.name)
    part = Part(id=0, kind="data", table=ref, estimated_bytes=table.size_bytes, probe=probe)
    return PartJob(part, [], (table_copy(table, None),))


def _small(
    sizes: Mapping[TableName, int], request: BackupRequest, catalog: DatabaseCatalog, shapes: Shapes
) -> Iterator[PartJob]:
    """Filtered tables in a run of their own, so that an error of theirs is not another's."""
    filtered = [name for name in sizes if name in shapes]
    if filtered:
        part = Part(id=0, kind="data", estimated_bytes=sum(sizes[n] for n in filtered))
        yield PartJob(part, [], tuple(table_copy(catalog.tables[n], shapes[n]) for n in filtered))
    rest = [name for name in sizes if name not in shapes]
    part = Part(id=0, kind="data", estimated_bytes=sum(sizes[n] for n in rest))
    only_compared = bool(request.compare) and not rest and request.schema == "none"
    if request.method == "http" or only_compared:  # pg_dump would read the catalog for nothing
        tables = tuple(table_copy(catalog.tables[n], None) for n in rest)
        objects = request.large_objects
        yield PartJob(part, [], tables, sequences=True, large_objects=objects)
    else:
        kept = frozenset(rest)
        left_out = [name for name in catalog.tables if name not in kept]
        arguments = data_arguments(None, left_out, large_objects=request.large_objects)
        yield PartJob(part, arguments)


def _log(request: BackupRequest) -> Iterator[PartJob]:
    """Last: it is read in a view of its own, in which nothing can change."""
    if request.join is not None:
        yield PartJob(Part(id=0, kind="log"), [], log_tables())


def _definitions(request: BackupRequest) -> list[PartJob]:
    if request.schema == "none":
        return []
    tables = [table_name(t) for t in request.schema_tables] if request.schema == "tables" else []
    return [
        PartJob(Part(id=0, kind="pre-data"), schema_arguments("pre-data", tables)),
        PartJob(Part(id=0, kind="post-data"), schema_arguments("post-data", tables)),
    ]


def table_name(ref: TableRef) -> TableName:
    return TableName(ref.schema, ref.name)
