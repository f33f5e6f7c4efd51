"""Two databases, and what the digests of a table say of their difference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from peersync.core.names import TableName
from peersync.postgres.catalog import read_catalog
from peersync.postgres.digest import (
    Range,
    RowHash,
    Shape,
    Tally,
    blocks,
    compare_blocks,
    row_hashes,
)
from peersync.postgres.pool import PINNED
from peersync.postgres.sqlfiles import queries, query_modules
from tests.plugins.clusters import Database

for _module in query_modules():
    queries(_module)  # read now, as the agent does: not on the loop


@asynccontextmanager
async def pinned(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session as peersync's are."""
    conn = await asyncpg.connect(database.url(), server_settings=PINNED, statement_cache_size=0)
    try:
        yield conn
    finally:
        await conn.close()


async def shape_of(conn: asyncpg.Connection, name: str) -> Shape:
    """All of a table in schema public, by its best key."""
    table = (await read_catalog(conn)).tables[TableName("public", name)]
    columns = [c for c in table.columns if not c.generated]
    key = table.keys[0].columns if table.keys else ()
    return Shape(table.name, tuple(c.name for c in columns), tuple(c.type for c in columns), key)


@dataclass(frozen=True)
class Found:
    """What two sides have of one table. Keys of differing rows, sorted."""

    there: int
    here: int
    blocks: int
    ranges: tuple[Range, ...]
    missing: tuple[tuple[str, ...], ...]
    extra: tuple[tuple[str, ...], ...]
    different: tuple[tuple[str, ...], ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        return len(self.missing), len(self.extra), len(self.different)


async def compare(
    there: asyncpg.Connection, here: asyncpg.Connection, shape: Shape, other: Shape | None = None
) -> Found:
    """Blocks, then the rows of what differs; `shape` is of `there`, `other` of `here`."""
    other = other or shape
    tally = Tally()
    async with there.transaction(isolation="repeatable_read"), here.transaction():
        ranges: list[Range] = []
        async for some in compare_blocks(here, other, blocks(there, shape), tally=tally):
            ranges += some
        theirs = await _rows(there, shape, ranges)
        ours = await _rows(here, other, ranges)
    return Found(
        tally.rows_there,
        tally.rows_here,
        tally.blocks,
        tuple(ranges),
        missing=tuple(sorted(theirs.keys() - ours.keys())),
        extra=tuple(sorted(ours.keys() - theirs.keys())),
        different=tuple(
            sorted(k for k in theirs.keys() & ours.keys() if _of(theirs[k]) != _of(ours[k]))
        ),
    )


def _of(row: RowHash) -> tuple[int, int]:
    return row.digest, row.copies


async def _rows(
    conn: asyncpg.Connection, shape: Shape, ranges: list[Range]
) -> dict[tuple[str, ...], RowHash]:
    found: dict[tuple[str, ...], RowHash] = {}
    place = 0
    async for some in row_hashes(conn, shape, ranges):
        for row in some:
            assert place <= row.place < len(ranges), "rows of ranges are in their order"
            place = row.place
            assert row.key not in found, "a row was given twice"
            found[row.key] = row
    return found
