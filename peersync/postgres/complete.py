"""The durable record of complete syncs: written while they run, read by everyone.

A peer's entry refers to its full sync or to what was proved; neither is copied.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from peersync.core.errors import (
    Cancelled,
    DatabaseError,
    DatabaseUnreachable,
    DiskFull,
    Locked,
    PermissionMissing,
    RowsLocked,
    ToolMissing,
)
from peersync.core.results import ErrorRecord
from peersync.postgres.pool import Database
from peersync.postgres.sqlfiles import queries

# What is wrong with this node; a peer's own failures come as PeerFailed.
_OURS = tuple(
    kind.code
    for kind in (
        Locked,
        RowsLocked,
        DatabaseError,
        DatabaseUnreachable,
        PermissionMissing,
        DiskFull,
        ToolMissing,
        Cancelled,
    )
)
LEASE = "complete"  # who holds it runs a complete sync of the database


class PeerTurn(NamedTuple):
    """A peer of a run, in its turn; `reason` where it is passed over, `error` where that is bad."""

    node_id: str
    name: str
    way: str
    reason: str | None
    error: ErrorRecord | None = None


class PeerEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a peer."""

    status: str
    reason: str | None = None
    error: ErrorRecord | None = None
    rows: int = 0
    raw_bytes: int = 0
    wire_bytes: int = 0
    cost: Decimal = Decimal(0)
    positions: dict[str, dict[int, int]] | None = None


class Failed(NamedTuple):
    """A peer's errors in a row."""

    times: int
    last_at: datetime
    message: str | None


class Completes:
    """The complete syncs of one database. Ids are 32 hexadecimal digits."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = queries("complete")

    @asynccontextmanager
    async def _writing(self, what: str) -> AsyncIterator[Any]:
        """A transaction that outlives a crash of the server, whatever the role's default is."""
        async with self._database.acquire(what) as conn, conn.transaction():
            await conn.execute("SET LOCAL synchronous_commit = on")
            yield conn

    async def create(
        self,
        complete: str,
        peers: Sequence[PeerTurn],
        *,
        node: str,
        sync_type: str,
        requested_by: str,
        bulk: str | None,
        retry_of: str | None,
        configuration: dict[str, Any],
    ) -> None:
        """Its caller holds the lease: what is recorded as running here belongs to the dead."""
        async with self._writing("recording the complete sync") as conn:
            await self._close(conn, None, "interrupted", AGENT_ENDED)
            await conn.execute(
                self._sql["create"],
                uuid.UUID(complete),
                self._database.name,
                node,
                sync_type,
                requested_by,
                _uuid(bulk),
                _uuid(retry_of),
                len(peers),
                _json(configuration),
            )
            waiting = [(p, "waiting" if p.reason is None else "skipped") for p in peers]
            await conn.executemany(
                self._sql["add_peer"],
                [
                    (
                        uuid.UUID(complete),
                        place,
                        p.node_id,
                        p.name,
                        p.way,
                        status,
                        p.reason,
                        _json(p.error) if p.error else None,
                    )
                    for place, (p, status) in enumerate(waiting, 1)
                ],
            )

    async def peer_began(self, complete: str, place: int, tries: int) -> None:
        await self._of_peer("peer_began", complete, place, tries)

    async def peer_waits(self, complete: str, place: int, words: str) -> None:
        """For whom, while others are at work in the database."""
        await self._of_peer("peer_waits", complete, place, words)

    async def peer_session(self, complete: str, place: int, session: str) -> None:
        await self._of_peer("peer_session", complete, place, uuid.UUID(session))

    async def peer_ended(self, complete: str, place: int, end: PeerEnd) -> None:
        await self._of_peer(
            "peer_ended",
            complete,
            place,
            end.status,
            end.reason,
            _json(end.error) if end.error else None,
            end.rows,
            end.raw_bytes,
            end.wire_bytes,
            end.cost,
            _json(end.positions) if end.positions else None,
        )

    async def _of_peer(self, query: str, complete: str, place: int, *values: object) -> None:
        async with self._writing("recording the complete sync") as conn:
            await conn.execute(self._sql[query], uuid.UUID(complete), place, *values)

    async def close(self, complete: str | None, status: str, why: str) -> list[str]:
        """Ends one that runs, or with None all that are recorded so; which ones did.

        Peers that were not done are "not_run", because of `why`.
        """
        async with self._writing("recording the end of the complete sync") as conn:
            return await self._close(conn, complete, status, why)

    async def _close(self, conn: Any, complete: str | None, status: str, why: str) -> list[str]:
        rows = await conn.fetch(self._sql["close"], _uuid(complete), status, why)
        return [row["complete_id"].hex for row in rows]

    async def history(
        self, limit: int, *, prefix: str | None = None, bulk: str | None = None
    ) -> list[dict[str, Any]]:
        """As `CompleteView` has it, without the currency, newest first."""
        async with self._database.acquire("reading the complete syncs") as conn:
            rows = await conn.fetch(self._sql["history"], limit, prefix, _uuid(bulk))
        return [_entry(row) for row in rows]

    async def begun_since(self, since: datetime) -> tuple[str, str, datetime] | None:
        """(id, node, when) of the first one with all peers since then that did not fail."""
        async with self._database.acquire("reading the complete syncs") as conn:
            row = await conn.fetchrow(self._sql["begun_since"], since)
        return (row["complete_id"].hex, row["node_name"], row["started_at"]) if row else None

    async def by_request_key(self, key: str) -> tuple[str, str] | None:
        """(id, digest of the request) of what this Idempotency-Key started within a day."""
        async with self._database.acquire("reading the complete syncs") as conn:
            row = await conn.fetchrow(self._sql["by_request_key"], key)
        return (row["complete_id"].hex, row["digest"]) if row is not None else None

    async def failures(self, peers: Sequence[str]) -> dict[str, Failed]:
        """Of these peers, by node id; without those that went well the last time.

        What is wrong here, and not with the peer, does not count.
        """
        async with self._database.acquire("reading the complete syncs") as conn:
            rows = await conn.fetch(self._sql["failures"], list(peers), list(_OURS))
        return {r["peer_id"]: Failed(r["times"], r["last_at"], r["message"]) for r in rows}


AGENT_ENDED = "the agent ended before it was done"


def _uuid(text: str | None) -> uuid.UUID | None:
    return uuid.UUID(text) if text is not None else None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _time(value: Any) -> str | None:
    return value.isoformat(timespec="milliseconds") if value is not None else None


def _entry(row: Any) -> dict[str, Any]:
    return {
        "id": row["complete_id"].hex,
        "database": row["database_name"],
        "node": row["node_name"],
        "sync_type": row["sync_type"],
        "status": row["status"],
        "requested_by": row["requested_by"],
        "bulk": row["bulk_id"].hex if row["bulk_id"] else None,
        "retry_of": row["retry_of"].hex if row["retry_of"] else None,
        "started_at": _time(row["started_at"]),
        "completed_at": _time(row["completed_at"]),
        "seconds": round(row["took"], 3),
        "peers_total": row["peers_total"],
        "peers_successful": row["peers_successful"],
        "peers_failed": row["peers_failed"],
        "peers_skipped": row["peers_skipped"],
        "rows": row["rows_total"],
        "raw_bytes": row["raw_bytes"],
        "wire_bytes": row["wire_bytes"],
        "cost": float(row["cost"]),
        "peers": [
            {**peer, "seconds": round(peer["seconds"], 3)}
            for peer in msgspec.json.decode(row["peers"])
        ],
        "configuration": msgspec.json.decode(row["configuration"]),
    }
