"""Holds the target as it was when a delta began, until its final transaction has ended.

All tables are compared in that one view, and what is written to them meanwhile is found by
looking back into it (see `postgres.meanwhile`). No lock is held, so nobody who alters a table
waits for it; vacuum keeps the old rows as long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from peersync.postgres.pool import Database


@asynccontextmanager
async def held_view(database: Database, session: str) -> AsyncIterator[str]:
    """The name of the snapshot, for others to take over."""
    what = "holding what is compared"
    async with database.connect(f"hold/{session[:8]}", what=what) as connection:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield await connection.fetchval("SELECT pg_catalog.pg_export_snapshot()")
