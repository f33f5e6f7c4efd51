"""Undoes a full sync of this node, and forgets what is kept for it when its time is over.

Owns whether it may be done now, under the database's lease. How rows are put back is in
`postgres.undo`; what was kept for it is written by the sync's own transaction.
"""

from __future__ import annotations

import logging
import os
import uuid

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import BadRequest, NotFound
from peersync.core.undo import UndoneTable, UndoRecord, UndoReport
from peersync.postgres.bulk import Stop, connect
from peersync.postgres.catalog import DatabaseCatalog, read_catalog
from peersync.postgres.history import Entry, History
from peersync.postgres.locks import Holder, lease
from peersync.postgres.log.members import read_replica
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.postgres.sqlfiles import queries
from peersync.postgres.undo import drop_journal, undo_session

log = logging.getLogger("peersync.jobs")

_WHY_NOT = {
    "undone": "it was undone already",
    "too_large": "what it changed was more than full_sync.undo_max_mib, and was not kept",
    "expired": "what it changed was kept for full_sync.undo_keep_d days, and that is over",
}


class Undo:
    """`run` for one session; `expire` for all whose time is over."""

    def __init__(self, config: Config, databases: Databases, workers: Workers) -> None:
        self._config = config
        self._databases = databases
        self._workers = workers

    async def run(self, session: str, *, dry_run: bool) -> UndoReport:
        """Raises NotFound or BadRequest where there is nothing to undo, Locked while busy."""
        database, _ = await self._find(session)
        holder = Holder(self._config.node.name, os.getpid(), session, "undoing a full sync")
        async with lease(database, LEASE, holder):
            _, entry = await self._find(session)
            record = _record(entry)
            async with database.acquire("reading the catalog") as connection:
                catalog = await read_catalog(connection)
                replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
                # what a member puts back is a change like any other, and must be captured
                replica = replica and await read_replica(connection) is None
            stop = Stop()

            def work() -> list[UndoneTable]:
                return self._undo(
                    stop, database, session, record, catalog, replica=bool(replica), dry=dry_run
                )

            tables = await self._workers.pump(stop.set, work)
        if not dry_run:
            log.info("session %s was undone", session)
        created = tuple(c.identity for c in entry.created_objects)
        return UndoReport(session=session, dry_run=dry_run, tables=tuple(tables), created=created)

    def _undo(
        self,
        stop: Stop,
        database: Database,
        session: str,
        record: UndoRecord,
        catalog: DatabaseCatalog,
        *,
        replica: bool,
        dry: bool,
    ) -> list[UndoneTable]:
        settings = {"work_mem": self._config.full_sync.work_mem}
        with connect(
            database.resolved, f"undo/{session[:8]}", stop, what="undoing", settings=settings
        ) as connection:
            return undo_session(
                connection,
                session,
                record,
                catalog.tables,
                replica_role=replica,
                dry_run=dry,
                lock_timeout_s=int(self._config.full_sync.lock_timeout_s),
            )

    async def _find(self, session: str) -> tuple[Database, Entry]:
        for database in self._databases:
            entry = await History(database).get(session)
            if entry is None:
                continue
            if entry.role == "source":
                raise BadRequest(
                    f"job {session[:8]} changed {entry.peer}, not this server",
                    hint=f"On {entry.peer}: peersync undo {session[:8]}",
                )
            return database, entry
        raise NotFound(f"there is no job {session!r}", hint="See: peersync history")

    async def expire(self) -> None:
        """Drops the journals that have been kept long enough."""
        for database in self._databases:
            async with database.acquire("looking for old journals") as connection:
                rows = await connection.fetch(
                    queries("undo")["expired"], self._config.full_sync.undo_keep_d
                )
            for row in rows:
                await self._drop(database, row["session_id"], row["undo"])

    async def _drop(self, database: Database, session: uuid.UUID, text: str) -> None:
        stop = Stop()
        record = msgspec.json.decode(text, type=UndoRecord)

        def work() -> None:
            with connect(
                database.resolved, f"expire/{session.hex[:8]}", stop, what="dropping a journal"
            ) as connection:
                drop_journal(connection, session.hex, record)

        await self._workers.pump(stop.set, work)
        log.info("the undo journal of session %s has expired", session.hex)


def _record(entry: Entry) -> UndoRecord:
    """What the session's record says. Raises BadRequest where that is not enough."""
    if entry.committed_at is None and entry.undo is None:
        raise BadRequest(f"job {entry.session[:8]} changed nothing", hint="It did not commit.")
    if entry.undo is None:
        raise BadRequest(
            f"nothing is kept of job {entry.session[:8]}",
            detail="it changed no row that was here, or was told to keep nothing (--no-undo)",
        )
    if entry.undo.state in _WHY_NOT:
        raise BadRequest(
            f"job {entry.session[:8]} can't be undone: {_WHY_NOT[entry.undo.state]}",
            hint="Rows that a peer still has can be pulled from it: peersync pull PEER",
        )
    return entry.undo
