"""Tells the lists of kept digests which rows peersync itself writes, unseen by its triggers.

What is applied, undone, taken by a full sync or out of quarantine is written in the replica role,
which keeps capture quiet. The mark is part of the transaction that writes: it is there exactly
where the rows are. For who applies, where nobody keeps digests, this is one look at an empty table.
"""

from __future__ import annotations

from typing import Final

import asyncpg
import psycopg

from peersync.core.names import TableName
from peersync.postgres.sqlfiles import queries

_SQL: Final = queries("proof_blocks")
_STAGED: Final = """
INSERT INTO peersync.proof_mark (table_schema, table_name, shape, key)
SELECT DISTINCT s.schema_name, s.table_name, i.shape, CASE WHEN i.op <> 'T' THEN i.key END
  FROM {table} AS i JOIN {shapes} USING (shape)"""
_ALL: Final = "INSERT INTO peersync.proof_mark DEFAULT VALUES"


async def mark_staged(conn: asyncpg.Connection, table: str, shapes: str, *, quiet: bool) -> None:
    """The rows that a staging table has changes of.

    quiet: triggers of the application are; without, they may write anything.
    """
    if not quiet:
        await conn.execute(_ALL)
    await conn.execute(_STAGED.format(table=table, shapes=shapes))


async def mark_row(conn: asyncpg.Connection, table: TableName, shape: int, key: str | None) -> None:
    """One row of a table by its key in the log; any row where that is None. See `mark_all`."""
    await conn.execute(_SQL["mark_row"], table.schema, table.name, shape, key)


def mark_all(connection: psycopg.Connection) -> None:
    """Any row of any table. Also where no digests are kept: they may be before this commits."""
    connection.execute(_ALL)
