"""The backups that this node gives: one for each session of a peer, until it is finished.

Only the peer that asked for a backup can see it. A session that failed and may go on rests:
its dump is stopped, what is complete stays in the spool for `keep_spool_h`. What becomes of
spools that nobody comes back for is the janitor's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from peersync.agent.claims import checked_error, checked_progress, checked_tables
from peersync.agent.offers import Offers
from peersync.agent.periodic.joining import withdraw_join
from peersync.agent.services import Services
from peersync.agent.source import SourceBackup
from peersync.config.filters import Filters
from peersync.core.errors import Denied, Locked, NotFound, PeersyncError
from peersync.core.names import TableName
from peersync.core.progress import Progress
from peersync.core.results import TableResult
from peersync.core.session import State
from peersync.postgres.binaries import Tool, choose_pg_dump
from peersync.postgres.history import History
from peersync.transport.peers import Peer
from peersync.transport.sse import EventRing
from peersync.wire.messages import BackupRequest, FinishRequest, JoinRequest, ProgressReport
from peersync.wire.spool import Budget, Spool

log = logging.getLogger("peersync.source")

MAX_BACKUPS_A_PEER = 4
_RECORD_EVERY_S = 10.0


class _Given:
    """A backup with what belongs to it here."""

    def __init__(self, backup: SourceBackup, peer: Peer, spool: Spool) -> None:
        self.backup = backup
        self.peer = peer
        self.spool = spool
        self.ring = EventRing(f"{backup.request.session[:8]}{secrets.token_hex(2)}")
        self.asked_at = time.monotonic()
        self.recorded_at = time.monotonic()
        self.resting = False
        self.resumed = 0  # reports of an attempt before this one come too late
        self.task: asyncio.Task[None] | None = None

    @property
    def session(self) -> str:
        return self.backup.request.session


class Backups:
    """All backups under way, by session."""

    def __init__(self, services: Services, spool_root: Path, budget: Budget) -> None:
        self._config = services.config
        self._databases = services.databases
        self._root = spool_root
        self._budget = budget
        self._workers = services.workers
        self._node_id = services.node_id
        self._spawn = services.spawn
        self._given: dict[str, _Given] = {}
        self.offers = Offers(services.databases)
        services.book.watch(removed=self._peer_removed)

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, session: str) -> bool:
        """Whether somebody takes this backup, or may come back for it."""
        return session in self._given

    def running(self) -> list[Progress]:
        """The sessions that peers take from here, as their targets report them."""
        found = (g.backup.progress for g in self._given.values() if not g.resting)
        return [progress for progress in found if progress is not None]

    def choose_tool(self, server_version_num: int) -> Tool:
        return choose_pg_dump(server_version_num, bindirs=self._config.tools.bindirs)

    def filters(self, database_name: str) -> Filters:
        """What of a database peers may not have."""
        return self._config.database[database_name].filter

    def leave(self) -> None:
        """The agent stops: nobody is kept waiting for news."""
        for given in self._given.values():
            given.backup.leave()

    # --- for those who watch ------------------------------------------------------------
    def progress(self, session: str) -> Progress | None:
        """How far the peer is that takes this backup, as it has told."""
        given = self._given.get(session)
        return given.backup.progress if given is not None and not given.resting else None

    def ring(self, session: str) -> EventRing | None:
        """The events of a session that takes its rows from here."""
        given = self._given.get(session)
        return given.ring if given is not None and not given.resting else None

    # --- what peers ask for -------------------------------------------------------------
    def _check_tables(self, request: BackupRequest) -> None:
        """What the configuration leaves out is not even there for a peer."""
        patterns = self._databases.patterns(request.database)
        for table in request.tables:
            if not patterns.match(TableName(table.schema, table.name)):
                raise Denied(f"{table.schema}.{table.name} is left out here by the configuration")

    async def initiate(self, peer: Peer, request: BackupRequest) -> None:
        """Begins a backup, or goes on with the one of this session. Raises Denied, Locked …."""
        await self.offers.require(peer, request.database, request.session)
        self._check_tables(request)
        given = self._given.get(request.session)
        if given is None:
            given = await self._open(peer, request)
        self._check_owner(given, peer)
        given.asked_at = time.monotonic()
        if request.attempt != given.backup.request.attempt:
            await self._stop(given)
            given.backup.renew(request)
        if given.resting:
            given.backup.progress = None  # that was how the last attempt ended
            given.ring = EventRing(f"{given.session[:8]}{secrets.token_hex(2)}")
            given.resting = False  # whoever looks from here on sees the new attempt
            await self._workers.run(given.spool.wake)
            await self._record_begin(given)
        if given.backup.complete or (given.task is not None and not given.task.done()):
            return
        given.backup.error = None
        given.task = self._spawn(self._run(given), name=f"backup-{given.session[:8]}")

    async def _open(self, peer: Peer, request: BackupRequest) -> _Given:
        mine = [g for g in self._given.values() if g.peer.node_id == peer.node_id]
        if sum(not g.resting for g in mine) >= MAX_BACKUPS_A_PEER:
            raise Locked(f"{peer.name} has {MAX_BACKUPS_A_PEER} backups open here already")
        for oldest in [g for g in mine if g.resting][: -MAX_BACKUPS_A_PEER + 1]:
            await self.drop(oldest.session)
        database = await self._databases.ready(request.database)
        spool = Spool(self._root, request.session, self._budget)
        backup = SourceBackup(request, peer.node_id, database, spool, self._config, self._node_id)
        given = _Given(backup, peer, spool)
        await self._workers.run(spool.wake)
        await self._workers.run(backup.reload)
        await self._record_begin(given)
        return self._given.setdefault(request.session, given)  # asked twice at once: the first

    async def _record_begin(self, given: _Given) -> None:
        request = given.backup.request
        offer = self.offers.get(request.session)
        await History(self._databases.get(request.database)).create(
            request.session,
            role="source",
            action="push" if offer else "pull",
            peer_id=given.peer.node_id,
            peer_name=given.peer.name,
            requested_by=offer.by if offer else given.peer.name,
            options={
                "codec": request.codec,
                "schema": request.schema,
                **({"join": request.join} if request.join else {}),
            },
            sync_type=offer.sync_type if offer else "api",
            plan=None,
        )

    async def _run(self, given: _Given) -> None:
        """A backup's own failure ends the backup, and is told to its peer."""
        session = given.session
        try:
            await given.backup.run(self._workers, self.choose_tool)
        except PeersyncError as exc:
            log.warning("backup %s for %s: %s", session, given.peer.name, exc)
            given.backup.fail(exc)
        except Exception:
            log.exception("backup %s: internal error", session)
            given.backup.fail(
                PeersyncError(
                    f"internal error in backup {session[:8]}",
                    hint="The log of the source's agent has the details under this id.",
                )
            )
        await self._workers.run(given.backup.free)

    def get(self, peer: Peer, session: str) -> SourceBackup:
        """The backup of this peer's session; NotFound for any other, whoever's it is."""
        return self._find(peer, session).backup

    def _find(self, peer: Peer, session: str) -> _Given:
        given = self._given.get(session)
        if given is None or given.peer.node_id != peer.node_id:
            raise NotFound(f"there is no backup for session {session[:64]!r} here")
        given.asked_at = time.monotonic()
        if self.offers.get(session) is None:
            peer.require("pull", given.backup.request.database)
        return given

    def _check_owner(self, given: _Given, peer: Peer) -> None:
        if given.peer.node_id != peer.node_id:
            raise NotFound("there is no such session here")

    # --- how far the target is, and how it ended ----------------------------------------
    async def report(self, peer: Peer, session: str, report: ProgressReport) -> None:
        """The target's own record. One that failed and may go on lets the backup rest."""
        given = self._find(peer, session)
        if given.resting or report.progress.resumed < given.resumed:
            return  # of an attempt that is over: it was on its way for long, or told twice
        database = given.backup.request.database
        given.backup.progress = progress = self._checked(given, report.progress)
        given.resumed = progress.resumed
        given.ring.publish("progress", progress)
        history = History(self._databases.get(database))
        if progress.state == State.FAILED:
            given.resting = True
            given.resumed = progress.resumed + 1
            await self._stop(given)
            await self._workers.run(given.spool.rest)
            words = f"it failed on {peer.name}, and may go on from there"
            error = checked_error(report.failure, words)
            await _quietly(
                history.finish(
                    progress, error=error, resumable=self.offers.get(session) is not None
                ),
                session,
            )
            given.ring.close()
        elif time.monotonic() - given.recorded_at >= _RECORD_EVERY_S:
            given.recorded_at = time.monotonic()
            await self._workers.run(given.spool.touch)
            await _quietly(history.update(progress), session)

    async def finish(self, peer: Peer, session: str, end: FinishRequest) -> None:
        """The target is done, however it ended. Harmless to repeat."""
        error = checked_error(end.failure, end.error)
        tables = checked_tables(end.tables)
        given = self._given.get(session)
        if given is not None:
            self._check_owner(given, peer)
            progress = self._checked(given, end.progress)
            ended = msgspec.structs.replace(progress, state=end.state)
            if given.resting:  # it was taken up, and ended before it came here for rows
                await _quietly(self._record_begin(given), session)
            await self._close(given, ended, error, tables)
            join = given.backup.request.join
            if join is not None and end.state in ("failed", "cancelled"):
                database = self._databases.get(given.backup.request.database)
                await _quietly(withdraw_join(database, join), session)
            return
        spool = Spool(self._root, session)  # BadRequest for what is no session
        for database in self._databases:  # this agent was restarted meanwhile
            history = History(database)
            entry = await history.get(session)
            if entry is None or (entry.role, entry.peer_id) != ("source", peer.node_id):
                continue
            progress = checked_progress(
                end.progress,
                session=session,
                action=entry.action,
                database=database.name,
                source=self._config.node.name,
                target=peer.name,
            )
            ended = msgspec.structs.replace(progress, state=end.state)
            if end.state != "failed":  # what was recorded as failed has gone on without us
                await history.reopen_given(session, entry.completed_at)
            await history.finish(ended, error=error, tables=tables)
            await self._workers.run(spool.remove)
            if (joined := entry.options.get("join")) and end.state in ("failed", "cancelled"):
                join = msgspec.convert(joined, JoinRequest)
                await _quietly(withdraw_join(database, join), session)

    async def drop(self, session: str) -> None:
        """Nobody comes for it any more: frees its space and closes its record as failed."""
        given = self._given.get(session)
        if given is None:
            return
        log.warning("backup %s: %s does not come for it, dropped", session, given.peer.name)
        progress = given.backup.progress or Progress(
            session=session,
            action="push" if self.offers.get(session) else "pull",
            database=given.backup.request.database,
            source=self._config.node.name,
            target=given.peer.name,
            state="failed",
        )
        error = PeersyncError(f"{given.peer.name} did not come back for it")
        failed = msgspec.structs.replace(progress, state="failed", tables=None)
        await self._close(given, failed, error)

    def _checked(self, given: _Given, progress: Progress) -> Progress:
        return checked_progress(
            progress,
            session=given.session,
            action="push" if self.offers.get(given.session) else "pull",
            database=given.backup.request.database,
            source=self._config.node.name,
            target=given.peer.name,
        )

    async def _close(
        self,
        given: _Given,
        progress: Progress,
        error: PeersyncError | None,
        tables: Sequence[TableResult] = (),
    ) -> None:
        self._given.pop(given.session, None)
        given.backup.leave()
        await self._stop(given)
        await self._workers.run(given.backup.discard)
        database = self._databases.get(given.backup.request.database)
        finish = History(database).finish(progress, error=error, tables=tables)
        await _quietly(finish, given.session)
        self.offers.withdraw(given.session)
        given.ring.publish("progress", progress)
        given.ring.close()

    async def _stop(self, given: _Given) -> None:
        if given.task is not None and not given.task.done():
            given.task.cancel()
            await asyncio.wait([given.task])
            await self._workers.run(given.backup.free)

    # --- what is not asked for any more -------------------------------------------------
    def forgotten(self, limit_s: float) -> list[str]:
        """The sessions that nobody has asked about for `limit_s` seconds.

        A target that did not say that it failed may just not reach us: it has its time for that.
        """
        now, patience_s = time.monotonic(), self._config.network.retry_for_s
        return [
            session
            for session, given in self._given.items()
            if now - given.asked_at > (limit_s if given.resting else max(limit_s, patience_s))
        ]

    def _peer_removed(self, peer: Peer) -> None:
        for session, given in self._given.items():
            if given.peer.node_id == peer.node_id:
                self._spawn(self.drop(session), name=f"drop-{session[:8]}")


async def _quietly(call: object, session: str) -> None:
    """A record that can't be written now stays open; the janitor closes it."""
    try:
        await call  # type: ignore[misc]
    except PeersyncError as exc:
        log.warning("backup %s: not recorded: %s", session, exc)
