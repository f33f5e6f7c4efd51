"""Full syncs that say they run, and nobody runs: found, and closed as a recovery would.

For when the agent that ran them does not come back: its machine was replaced, or its node
has another name now. Works without an agent. It closes nothing that is alive: not while
somebody holds the database's lease, not what this node's own agent says it runs, and not
while the record is still being written (an agent far away may be between two attempts).
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from peersync.agent import leftovers
from peersync.agent.leftovers import stage_prefix
from peersync.agent.workers import Workers
from peersync.core.errors import BadRequest, Locked, NotFound, PeersyncError
from peersync.core.session import State
from peersync.postgres.history import Entry, History
from peersync.postgres.locks import Holder, lease, refuse_if_held
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.postgres.sqlfiles import queries
from peersync.wire.spool import Spool

_FRESH_S = 60.0
_WATCH_S = 6.0  # whoever lives writes the record every two seconds


class StuckSync(msgspec.Struct, frozen=True, kw_only=True):
    """One that nobody runs, or seems so, and what was done about it."""

    database: str
    session: str
    peer: str
    started_at: str
    last_seen: str
    result: str  # found (nothing was done yet) | alive | cleared
    ended_as: str | None = None
    staging_tables: list[str]
    created_objects: list[str]
    spool: str | None
    problem: str | None = None


class StuckSyncs:
    """Those of one database. `running` are the sessions that this node's agent says it runs."""

    def __init__(
        self, database: Database, node: str, taken: Path, workers: Workers, running: frozenset[str]
    ) -> None:
        self._database = database
        self._history = History(database)
        self._node = node
        self._taken = taken
        self._workers = workers
        self._running = running

    async def find(self, session: str | None = None) -> list[StuckSync]:
        """Open records; `session`, the beginning of an id, asks for one of them.

        Those that live are among them, as `alive` and with the reason. Raises NotFound when
        there is none with that id, and BadRequest when several begin so.
        """
        entries = await self._history.unfinished("target")
        if session is not None:
            entries = [e for e in entries if e.session.startswith(session)]
            if not entries:
                raise NotFound(
                    f"{self._database.name} has no open sync {session!r} that it takes",
                    hint="See: peersync history. One that it gives is closed by the agent, "
                    "keep_spool_h after its peer has last asked for it.",
                )
            if len(entries) > 1:
                raise BadRequest(
                    f"{session!r} could be {len(entries)} syncs", hint="Give more of the id."
                )
        if not entries:
            return []
        signs = await self._signs_of_life(entries)
        return [await self._describe(e, signs.get(e.session)) for e in entries]

    async def clear(self, found: StuckSync) -> StuckSync:
        """Closes it as failed and drops what it left; `alive` when somebody has come meanwhile."""
        if found.result != "found":
            return found
        holder = Holder(self._node, os.getpid(), found.session, "clearing a full sync that died")
        error = PeersyncError(
            "nobody ran it any more, and it was cleared by hand",
            hint=f"Nothing was changed by this one. Start anew: peersync pull {found.peer} "
            f"--database {self._database.name}",
        )
        try:
            async with lease(self._database, LEASE, holder):
                await leftovers.close(
                    self._database, found.session, State.FAILED, error, self._workers
                )
        except Locked as exc:
            return msgspec.structs.replace(found, result="alive", problem=exc.message)
        if found.spool is not None:
            await self._workers.run(Spool(self._taken, found.session).remove)
        entry = await self._history.get(found.session)
        left = await self._stages(found.session)
        return msgspec.structs.replace(
            found,
            result="cleared",
            ended_as=entry.state if entry is not None else None,
            staging_tables=[name for name in found.staging_tables if name not in left],
            problem=entry.error.detail if entry is not None and entry.error else None,
        )

    async def _signs_of_life(self, entries: list[Entry]) -> dict[str, str]:
        """By session: why it is taken to be alive."""
        try:
            await refuse_if_held(self._database, LEASE)
        except Locked as exc:
            return dict.fromkeys((e.session for e in entries), exc.message)
        signs = dict.fromkeys(self._running, "the agent of this node runs it")
        now = datetime.now(UTC)
        fresh = {
            e.session: e.updated_at
            for e in entries
            if abs((now - datetime.fromisoformat(e.updated_at)).total_seconds()) < _FRESH_S
            and e.session not in signs
        }
        if fresh:
            await asyncio.sleep(_WATCH_S)
            for entry in await self._history.unfinished("target"):
                if fresh.get(entry.session, entry.updated_at) != entry.updated_at:
                    signs[entry.session] = "somebody is still writing its progress"
        return signs

    async def _describe(self, entry: Entry, sign: str | None) -> StuckSync:
        spool = Spool(self._taken, entry.session)
        there = await self._workers.run(spool.exists)
        committed = entry.committed_at is not None
        return StuckSync(
            database=self._database.name,
            session=entry.session,
            peer=entry.peer,
            started_at=entry.started_at,
            last_seen=entry.updated_at,
            result="found" if sign is None else "alive",
            staging_tables=await self._stages(entry.session),
            created_objects=[] if committed else [c.identity for c in entry.created_objects],
            spool=str(spool.directory) if there else None,
            problem=sign,
        )

    async def _stages(self, session: str) -> list[str]:
        async with self._database.acquire("looking for staging tables") as connection:
            rows = await connection.fetch(queries("sessions")["stages"], stage_prefix(session))
        return [row["name"] for row in rows]
