"""The durable record of verifications: each table's last state with each peer, and the runs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from peersync.core.names import TableName
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries


@dataclass(frozen=True)
class TableState:
    """What was found of one table."""

    table: TableName
    result: str
    intended: bool
    reason: str | None
    checked_at: datetime
    different: int
    missing: int
    extra: int


@dataclass(frozen=True)
class Run:
    """A verification that has ended; `view` is JSON."""

    id: str
    peer_id: str
    peer_name: str
    result: str | None
    requested_by: str
    started_at: datetime
    completed_at: datetime
    view: str


class Proofs:
    """Of one database, whose schema peersync must be this version's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("proof")

    async def store(self, run: Run, tables: Sequence[TableState], *, whole: bool) -> None:
        """With `whole`, tables that were not met are forgotten."""
        async with (
            self._database.acquire("recording the verification") as conn,
            conn.transaction(),
        ):
            await conn.executemany(
                self._sql["note_table"],
                [
                    (
                        run.peer_id, run.peer_name, t.table.schema, t.table.name, t.result,
                        t.intended, t.reason, t.checked_at, t.different, t.missing, t.extra,
                    )
                    for t in tables
                ],
            )  # fmt: skip
            if whole:
                await conn.execute(self._sql["forget_tables"], run.peer_id, run.started_at)
            await conn.execute(
                self._sql["note_run"],
                uuid.UUID(run.id),
                run.peer_id,
                run.peer_name,
                run.result,
                run.requested_by,
                run.started_at,
                run.completed_at,
                run.view,
            )

    async def runs(self, limit: int, prefix: str | None = None) -> list[str]:
        """The views of the newest, as JSON; those whose id begins with `prefix`."""
        async with self._database.acquire("reading the verifications") as conn:
            rows = await conn.fetch(self._sql["runs"], limit, prefix)
        return [row["view"] for row in rows]

    async def tables(self, peer_id: str | None = None) -> list[Any]:
        """Rows of `table_proofs`."""
        async with self._database.acquire("reading what was proved") as conn:
            found: list[Any] = await conn.fetch(self._sql["tables"], peer_id)
        return found

    async def is_synced(self, peer_id: str) -> bool:
        """Whether rows ever went between this database and a peer."""
        async with self._database.acquire("reading with whom it is synced") as conn:
            return bool(await conn.fetchval(self._sql["is_synced"], peer_id))

    async def summaries(self) -> dict[str, Any]:
        """By peer id: when all was proved identical, or since when it differs."""
        async with self._database.acquire("reading what was proved") as conn:
            rows = await conn.fetch(self._sql["summaries"])
        return {row["peer_id"]: row for row in rows}
