"""The durable record of repairs: how far each is, so that no half of one is forgotten."""

from __future__ import annotations

import uuid
from datetime import datetime

from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries


class RepairRecords:
    """Of one database, whose schema peersync must be this version's. Views are JSON."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("repair")

    async def note(
        self, id_: str, peer_id: str, started_at: datetime, view: str, *, ended: bool
    ) -> None:
        """How far it is; of older ones with the same peer all but 30 are forgotten."""
        async with self._database.acquire("recording the repair") as conn:
            await conn.execute(
                self._sql["note_repair"], uuid.UUID(id_), peer_id, started_at, ended, view
            )

    async def views(self, limit: int, prefix: str | None = None) -> list[str]:
        """The newest, or those whose id begins so."""
        async with self._database.acquire("reading the repairs") as conn:
            rows = await conn.fetch(self._sql["repairs"], limit, prefix)
        return [row["view"] for row in rows]

    async def unfinished(self) -> list[tuple[str, str]]:
        """(peer id, view) of those that had not ended, oldest first."""
        async with self._database.acquire("reading the repairs") as conn:
            rows = await conn.fetch(self._sql["unfinished_repairs"])
        return [(row["peer_id"], row["view"]) for row in rows]
