"""The durable record of the runs of table sets, in the database that they are about.

Owns what is written when, and who may run a set with a peer: the lease of that pair. A record
that says that it runs, while nobody holds the lease, was left by an agent that died.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from peersync.core.errors import Locked
from peersync.core.results import ErrorRecord
from peersync.postgres.locks import Holder, lease
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

SetStatus = Literal["running", "success", "partial", "error", "skipped", "interrupted"]


class SetRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a set with one peer (docs/cli-json.md). `session`: its full sync."""

    id: int
    set: str
    database: str
    method: str
    peer: str
    direction: str
    sync_type: str
    requested_by: str
    status: SetStatus
    reason: str | None = None
    error: ErrorRecord | None = None
    started_at: str
    completed_at: str | None = None
    seconds: float | None = None
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    session: str | None = None
    tries: int = 0


class SetEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    status: SetStatus
    reason: str | None = None
    error: ErrorRecord | None = None
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    tries: int = 1


class SetRuns:
    """The records of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def held(self, name: str, peer_id: str, holder: Holder) -> AsyncIterator[list[int]]:
        """Only the block runs this set with this peer. Raises Locked, naming who else does.

        Gives the runs that a dead agent had left, which are interrupted now.
        """
        try:
            async with lease(self._database, f"set/{name}/{peer_id}", holder):
                async with self._database.acquire("looking for what was interrupted") as conn:
                    ended = await conn.fetch(_sql("interrupt"), name, peer_id)
                yield [row["run_id"] for row in ended]
        except Locked as exc:
            if (other := exc.data.get("holder")) is None:
                raise
            raise Locked(
                f"{other['what']} is running already (node {other['node']}, pid {other['pid']}, "
                f"since {other['since']})",
                hint="Its end: peersync run --history",
                holder=other,
            ) from exc

    async def begin(
        self, name: str, *, method: str, sync_type: str, peer_id: str, peer: str, direction: str,
        by: str,
    ) -> int:  # fmt: skip
        """The number of the run. Raises Locked where the records say that one is running."""
        async with self._database.acquire("recording a table set") as conn:
            run = await conn.fetchval(
                _sql("begin"), name, method, sync_type, peer_id, peer, direction, by
            )
        if run is None:
            raise Locked(f"table set {name} is running already", hint="peersync run --history")
        return int(run)

    async def set_session(self, run: int, session: str) -> None:
        async with self._database.acquire("recording a table set") as conn:
            await conn.execute(_sql("session"), run, session)

    async def waits(self, run: int, words: str) -> None:
        """For whom, while it waits for its turn."""
        async with self._database.acquire("recording a table set") as conn:
            await conn.execute(_sql("waits"), run, words)

    async def end(self, run: int, end: SetEnd) -> None:
        error = msgspec.json.encode(end.error).decode() if end.error else None
        async with self._database.acquire("recording a table set") as conn:
            await conn.execute(
                _sql("end"), run, end.status, end.reason, error, end.rows, end.raw_bytes,
                end.wire_bytes, end.tries,
            )  # fmt: skip

    async def running(self) -> list[tuple[str, str]]:
        """(set, id of the peer) of what is running, as the records say."""
        async with self._database.acquire("looking for what was interrupted") as conn:
            return [(r["set_name"], r["peer_id"]) for r in await conn.fetch(_sql("running"))]

    async def last_begun(self, name: str) -> dict[str, datetime]:
        """By the peer's id: when the last began that was a success, or one in part."""
        async with self._database.acquire("reading the runs of table sets") as conn:
            return {r["peer_id"]: r["at"] for r in await conn.fetch(_sql("last_begun"), name)}

    async def newest(self, limit: int, name: str | None = None) -> list[SetRun]:
        """Newest first."""
        async with self._database.acquire("reading the runs of table sets") as conn:
            rows = await conn.fetch(_sql("newest"), name, limit)
        return [_run(row, self._database.name) for row in rows]

    async def get(self, run: int) -> SetRun:
        async with self._database.acquire("reading the runs of table sets") as conn:
            return _run(await conn.fetchrow(_sql("one"), run), self._database.name)

    async def prune(self, keep_d: float) -> None:
        async with self._database.acquire("forgetting runs of table sets") as conn:
            await conn.execute(_sql("prune"), keep_d)


def _sql(name: str) -> str:
    return queries("sets")[name]


def _run(row: Any, database: str) -> SetRun:
    return SetRun(
        id=row["run_id"],
        set=row["set_name"],
        database=database,
        method=row["method"],
        peer=row["peer_name"],
        direction=row["direction"],
        sync_type=row["sync_type"],
        requested_by=row["requested_by"],
        status=row["status"],
        reason=row["reason"],
        error=msgspec.json.decode(row["error"], type=ErrorRecord) if row["error"] else None,
        started_at=_iso(row["started_at"]),
        completed_at=_iso(row["completed_at"]) if row["completed_at"] else None,
        seconds=round(row["seconds"], 3) if row["seconds"] is not None else None,
        rows=row["rows_total"],
        raw_bytes=row["raw_bytes"],
        wire_bytes=row["wire_bytes"],
        session=row["session"],
        tries=row["tries"],
    )


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")
