"""The backups that this node gives: one for each session of a peer, until it is finished.

Only the peer that asked for a backup can see it. A session that failed and may go on rests:
its dump is stopped, what is complete stays in the spool for `keep_spool_h`. What becomes of
spools that nobody comes back for is the janitor's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.source import SourceBackup
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import Denied, Locked, NotFound, PeersyncError
from peersync.core.names import TableName
from peersync.core.progress import Progress
from peersync.core.session import State
from peersync.postgres.binaries import Tool, choose_pg_dump
from peersync.postgres.history import History
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.problems import clean
from peersync.wire.messages import BackupRequest, FinishRequest
from peersync.wire.spool import Budget, Spool

log = logging.getLogger("peersync.source")

MAX_BACKUPS_A_PEER = 4
_RECORD_EVERY_S = 10.0
_MAX_COUNT = 1 << 60
_MAX_WORDS = 1000


class _Given:
    """A backup with what belongs to it here."""

    def __init__(self, backup: SourceBackup, peer: Peer) -> None:
        self.backup = backup
        self.peer = peer
        self.asked_at = time.monotonic()
        self.recorded_at = time.monotonic()
        self.resting = False
        self.task: asyncio.Task[None] | None = None

    @property
    def session(self) -> str:
        return self.backup.request.session


class Backups:
    """All backups under way, by session."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        spool_root: Path,
        budget: Budget,
        workers: Workers,
        node_id: str,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._config = config
        self._databases = databases
        self._root = spool_root
        self._budget = budget
        self._workers = workers
        self._node_id = node_id
        self._spawn = spawn
        self._given: dict[str, _Given] = {}
        book.watch(removed=self._peer_removed)

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

    def leave(self) -> None:
        """The agent stops: nobody is kept waiting for news."""
        for given in self._given.values():
            given.backup.leave()

    # --- what peers ask for -------------------------------------------------------------
    def _check_tables(self, request: BackupRequest) -> None:
        """What the configuration leaves out is not even there for a peer."""
        patterns = self._databases.patterns(request.database)
        for table in request.tables:
            if not patterns.match(TableName(table.schema, table.name)):
                raise Denied(f"{table.schema}.{table.name} is left out here by the configuration")

    async def initiate(self, peer: Peer, request: BackupRequest) -> None:
        """Begins a backup, or goes on with the one of this session. Raises Denied, Locked …."""
        peer.require("pull", request.database)
        self._check_tables(request)
        given = self._given.get(request.session)
        if given is None:
            given = await self._open(peer, request)
        self._check_owner(given, peer)
        given.asked_at = time.monotonic()
        if given.resting:
            given.resting = False
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
        given = _Given(backup, peer)
        await self._workers.run(backup.reload)
        await self._record_begin(given)
        return self._given.setdefault(request.session, given)  # asked twice at once: the first

    async def _record_begin(self, given: _Given) -> None:
        request = given.backup.request
        await History(self._databases.get(request.database)).create(
            request.session,
            role="source",
            action="pull",
            peer_id=given.peer.node_id,
            peer_name=given.peer.name,
            requested_by=given.peer.name,
            options={"codec": request.codec, "schema": request.schema},
            sync_type="api",
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
        peer.require("pull", given.backup.request.database)
        return given

    def _check_owner(self, given: _Given, peer: Peer) -> None:
        if given.peer.node_id != peer.node_id:
            raise NotFound("there is no such session here")

    # --- how far the target is, and how it ended ----------------------------------------
    async def report(self, peer: Peer, session: str, progress: Progress) -> None:
        """The target's own record. One that failed and may go on lets the backup rest."""
        given = self._find(peer, session)
        if given.resting:
            return
        database = given.backup.request.database
        given.backup.progress = progress = _checked(progress, session, database, peer)
        history = History(self._databases.get(database))
        if progress.state == State.FAILED:
            given.resting = True
            await self._stop(given)
            error = PeersyncError(f"it failed on {peer.name}, and may go on from there")
            await _quietly(history.finish(progress, error=error), session)
        elif time.monotonic() - given.recorded_at >= _RECORD_EVERY_S:
            given.recorded_at = time.monotonic()
            await _quietly(history.update(progress), session)

    async def finish(self, peer: Peer, session: str, end: FinishRequest) -> None:
        """The target is done, however it ended. Harmless to repeat."""
        error = PeersyncError(clean(end.error)[:_MAX_WORDS]) if end.error else None
        given = self._given.get(session)
        if given is not None:
            self._check_owner(given, peer)
            progress = _checked(end.progress, session, given.backup.request.database, peer)
            await self._close(given, msgspec.structs.replace(progress, state=end.state), error)
            return
        spool = Spool(self._root, session)  # BadRequest for what is no session
        for database in self._databases:  # this agent was restarted meanwhile
            history = History(database)
            entry = await history.get(session)
            if entry is None or (entry.role, entry.peer_id) != ("source", peer.node_id):
                continue
            progress = _checked(end.progress, session, database.name, peer)
            await history.finish(msgspec.structs.replace(progress, state=end.state), error=error)
            await self._workers.run(spool.remove)

    async def drop(self, session: str) -> None:
        """Nobody comes for it any more: frees its space and closes its record as failed."""
        given = self._given.get(session)
        if given is None:
            return
        log.warning("backup %s: %s does not come for it, dropped", session, given.peer.name)
        progress = given.backup.progress or Progress(
            session=session,
            action="pull",
            database=given.backup.request.database,
            source="",
            target=given.peer.name,
            state="failed",
        )
        error = PeersyncError(f"{given.peer.name} did not come back for it")
        failed = msgspec.structs.replace(progress, state="failed")
        await self._close(given, failed, error)

    async def _close(self, given: _Given, progress: Progress, error: PeersyncError | None) -> None:
        self._given.pop(given.session, None)
        given.backup.leave()
        await self._stop(given)
        await self._workers.run(given.backup.discard)
        database = self._databases.get(given.backup.request.database)
        await _quietly(History(database).finish(progress, error=error), given.session)

    async def _stop(self, given: _Given) -> None:
        if given.task is not None and not given.task.done():
            given.task.cancel()
            await asyncio.wait([given.task])
            await self._workers.run(given.backup.free)

    # --- what is not asked for any more -------------------------------------------------
    def forgotten(self, limit_s: float) -> list[str]:
        """The sessions that nobody has asked about for `limit_s` seconds."""
        before = time.monotonic() - limit_s
        return [s for s, given in self._given.items() if given.asked_at < before]

    def _peer_removed(self, peer: Peer) -> None:
        for session, given in self._given.items():
            if given.peer.node_id == peer.node_id:
                self._spawn(self.drop(session), name=f"drop-{session[:8]}")


def _checked(progress: Progress, session: str, database: str, peer: Peer) -> Progress:
    """What a peer says of its progress, made fit for our record: whose it is, we know."""
    counts = ("raw_bytes", "wire_bytes", "saved_bytes", "rows", "resumed")
    return msgspec.structs.replace(
        progress,
        session=session,
        action="pull",
        database=database,
        source="",
        target=peer.name,
        state=progress.state if progress.state in set(State) else State.RUNNING.value,
        waiting_for=_words(progress.waiting_for),
        message=_words(progress.message),
        started_at=clean(progress.started_at)[:40],
        updated_at=clean(progress.updated_at)[:40],
        steps=progress.steps[:10],
        rate_bytes_s=None if progress.rate_bytes_s is None else min(progress.rate_bytes_s, 1e15),
        eta_s=None if progress.eta_s is None else min(max(progress.eta_s, 0.0), 1e9),
        **{name: min(max(getattr(progress, name), 0), _MAX_COUNT) for name in counts},
    )


def _words(text: str | None) -> str | None:
    return clean(text)[:_MAX_WORDS] if text else None


async def _quietly(call: object, session: str) -> None:
    """A record that can't be written now stays open; the janitor closes it."""
    try:
        await call  # type: ignore[misc]
    except PeersyncError as exc:
        log.warning("backup %s: not recorded: %s", session, exc)
