"""The durable record of full syncs: written while they run, read by everyone.

One row of `peersync.full_sync_sessions` in each of both databases. It says what was, and decides
nothing: that a sync has committed is written by the sync's own transaction (`restore`).
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec

from peersync.core.errors import PeersyncError
from peersync.core.progress import Progress
from peersync.core.results import ErrorRecord, TableResult
from peersync.core.undo import UndoRecord
from peersync.postgres.journal import journal_name
from peersync.postgres.pool import Database
from peersync.postgres.schema import Created
from peersync.postgres.sqlfiles import queries

_JSON = ("options", "plan", "progress", "tables", "created_objects", "error", "undo")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One full sync, as history shows it. Times are ISO 8601 in UTC."""

    session: str
    role: str
    action: str
    method: str
    sync_type: str
    database: str
    peer_id: str
    peer: str
    requested_by: str
    state: str
    phase: str
    options: dict[str, Any]
    plan: dict[str, Any] | None
    progress: Progress | None
    tables: list[TableResult]
    created_objects: list[Created]
    raw_bytes: int
    wire_bytes: int
    saved_bytes: int
    rows: int
    resumable: bool
    resumed: int
    error: ErrorRecord | None
    undo: UndoRecord | None
    started_at: str
    updated_at: str
    committed_at: str | None
    completed_at: str | None


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions were forgotten, and how many ended ones were kept."""

    sessions: list[str]
    kept: int


class History:
    """The sessions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("sessions")

    @asynccontextmanager
    async def _writing(self, what: str) -> AsyncIterator[Any]:
        """A transaction that outlives a crash of the server, whatever the role's default is."""
        async with self._database.acquire(what) as connection, connection.transaction():
            await connection.execute("SET LOCAL synchronous_commit = on")
            yield connection

    async def create(
        self,
        session: str,
        *,
        role: str,
        action: str,
        peer_id: str,
        peer_name: str,
        requested_by: str,
        options: object,
        sync_type: str,
        plan: object | None,
    ) -> None:
        async with self._writing("recording the sync") as connection:
            await connection.execute(
                self._sql["create"],
                uuid.UUID(session),
                role,
                action,
                self._database.name,
                peer_id,
                peer_name,
                requested_by,
                _json(options),
                sync_type,
                _json(plan) if plan is not None else None,
            )

    async def forget(self, session: str) -> None:
        """Takes back the record of a push that the peer refused."""
        async with self._database.acquire("taking a record back") as connection:
            await connection.execute(self._sql["forget"], uuid.UUID(session))

    async def update(self, progress: Progress) -> None:
        async with self._database.acquire("recording the progress") as connection:
            await connection.execute(
                self._sql["update_progress"],
                uuid.UUID(progress.session),
                progress.state,
                progress.step.value,
                _json(progress),
                progress.raw_bytes,
                progress.wire_bytes,
                progress.saved_bytes,
                progress.rows,
                int(progress.rate_bytes_s) if progress.rate_bytes_s is not None else None,
                progress.eta_s,
                progress.resumed,
            )

    async def finish(
        self,
        progress: Progress,
        *,
        error: PeersyncError | None = None,
        resumable: bool = False,
        tables: Sequence[TableResult] = (),
    ) -> bool:
        """Closes the record. False when it was closed before, or is not there."""
        async with self._writing("recording the end of the sync") as connection:
            done = await connection.execute(
                self._sql["finish"],
                uuid.UUID(progress.session),
                progress.state,
                _json(ErrorRecord.of(error)) if error else None,
                resumable,
                _json(progress),
                progress.raw_bytes,
                progress.wire_bytes,
                progress.saved_bytes,
                progress.rows,
                _json(tables) if tables else None,
            )
        return bool(done == "UPDATE 1")

    async def reopen(self, session: str) -> bool:
        """Opens the record of a failed, resumable session; False for any other."""
        async with self._writing("taking the sync up again") as connection:
            found = await connection.fetchval(self._sql["reopen"], uuid.UUID(session))
        return found is not None

    async def reopen_given(self, session: str, ended_at: str | None) -> None:
        """Opens the source's record of a push that goes on, unless it has ended once more."""
        async with self._writing("taking the push up again") as connection:
            await connection.execute(self._sql["reopen_given"], uuid.UUID(session), ended_at)

    async def not_resumable(self, session: str) -> None:
        async with self._database.acquire("recording the end of the sync") as connection:
            await connection.execute(self._sql["not_resumable"], uuid.UUID(session))

    async def get(self, session: str) -> Entry | None:
        async with self._database.acquire("reading the history") as connection:
            row = await connection.fetchrow(self._sql["get"], uuid.UUID(session))
        return _entry(row) if row is not None else None

    async def unfinished(self, role: str) -> list[Entry]:
        async with self._database.acquire("reading the history") as connection:
            rows = await connection.fetch(self._sql["unfinished"], role)
        return [_entry(row) for row in rows]

    async def newest(self, limit: int, state: str | None = None) -> list[Entry]:
        async with self._database.acquire("reading the history") as connection:
            rows = await connection.fetch(self._sql["history"], limit, state)
        return [_entry(row) for row in rows]

    async def by_request_key(self, key: str) -> Entry | None:
        """The sync that a request with this Idempotency-Key started within a day."""
        async with self._database.acquire("reading the history") as connection:
            row = await connection.fetchrow(self._sql["by_request_key"], key)
        return _entry(row) if row is not None else None

    async def clear(self, *, keep_latest: bool, before: datetime | None = None) -> Cleared:
        """Forgets ended sessions (that ended `before`), and what is kept to undo them.

        What runs stays, and the sessions that the newest baselines come from.
        """
        async with self._writing("clearing the history") as connection:
            row = await connection.fetchrow(self._sql["clear_ended"], keep_latest, before)
            for session in row["journals"]:
                await connection.execute(f"DROP TABLE IF EXISTS {journal_name(session.hex).sql}")
        return Cleared(sessions=[session.hex for session in row["gone"]], kept=row["kept"])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _time(value: Any) -> str | None:
    return value.isoformat(timespec="milliseconds") if value is not None else None


def _entry(row: Any) -> Entry:
    parsed = {name: msgspec.json.decode(row[name]) if row[name] else None for name in _JSON}
    return msgspec.convert(
        {
            **{
                f: row[f]
                for f in (
                    "role",
                    "action",
                    "method",
                    "sync_type",
                    "peer_id",
                    "state",
                    "phase",
                    "requested_by",
                    "raw_bytes",
                    "wire_bytes",
                    "saved_bytes",
                    "resumable",
                    "resumed",
                )
            },
            **parsed,
            "session": row["session_id"].hex,
            "database": row["database_name"],
            "peer": row["peer_name"],
            "rows": row["rows_total"],
            "started_at": _time(row["started_at"]),
            "updated_at": _time(row["updated_at"]),
            "committed_at": _time(row["committed_at"]),
            "completed_at": _time(row["completed_at"]),
        },
        type=Entry,
    )
