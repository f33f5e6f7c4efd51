"""The backups that this node gives: one for each session of a peer, until it is finished.

Only the peer that asked for a backup can see it. A peer that never comes back for it does
not fill the disk for ever: `expire` drops what nobody asked about for `keep_spool_h`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from peersync.agent.databases import Databases
from peersync.agent.source import SourceBackup
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import Locked, NotFound, PeersyncError
from peersync.core.progress import Progress
from peersync.postgres.binaries import Tool, choose_pg_dump
from peersync.postgres.history import History
from peersync.transport.peers import Peer
from peersync.wire.messages import BackupRequest, FinishRequest
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.source")

MAX_BACKUPS_A_PEER = 4
_EXPIRE_EVERY_S = 60.0


class _Given:
    """A backup with what belongs to it here."""

    def __init__(self, backup: SourceBackup, peer: Peer) -> None:
        self.backup = backup
        self.peer = peer
        self.asked_at = time.monotonic()
        self.task: asyncio.Task[None] | None = None


class Backups:
    """All backups under way, by session."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        spool_root: Path,
        workers: Workers,
        node_id: str,
        spawn: Callable[..., asyncio.Task[None]],
    ) -> None:
        self._config = config
        self._databases = databases
        self._root = spool_root
        self._workers = workers
        self._node_id = node_id
        self._spawn = spawn
        self._given: dict[str, _Given] = {}

    def __len__(self) -> int:
        return len(self._given)

    def running(self) -> list[Progress]:
        """The sessions that peers take from here, as their targets report them."""
        found = (given.backup.progress for given in self._given.values())
        return [progress for progress in found if progress is not None]

    def choose_tool(self, server_version_num: int) -> Tool:
        return choose_pg_dump(server_version_num, bindirs=self._config.tools.bindirs)

    async def initiate(self, peer: Peer, request: BackupRequest) -> None:
        """Begins a backup, or goes on with the one of this session. Raises Denied, Locked …."""
        peer.require("pull", request.database)
        given = self._given.get(request.session)
        if given is not None:
            self._check_owner(given, peer)
            if given.task is not None and given.task.done() and not given.backup.complete:
                self._start(given)
            return
        mine = sum(1 for g in self._given.values() if g.peer.node_id == peer.node_id)
        if mine >= MAX_BACKUPS_A_PEER:
            raise Locked(f"{peer.name} has {mine} backups open here already")
        database = await self._databases.ready(request.database)
        spool = Spool(self._root, request.session)
        backup = SourceBackup(
            request, peer.node_id, database, spool, self._config.full_sync, self._node_id
        )
        if request.session in self._given:  # asked twice at once
            return
        given = self._given[request.session] = _Given(backup, peer)
        complete = await self._workers.run(backup.reload)
        await History(database).create(
            request.session,
            role="source",
            action="pull",
            peer_id=peer.node_id,
            peer_name=peer.name,
            requested_by=peer.name,
            options={"codec": request.codec, "schema": request.schema},
            sync_type="api",
            plan=None,
        )
        if not complete:
            self._start(given)

    def _start(self, given: _Given) -> None:
        given.task = self._spawn(
            self._run(given), name=f"backup-{given.backup.request.session[:8]}"
        )

    async def _run(self, given: _Given) -> None:
        try:
            await given.backup.run(self._workers, self.choose_tool)
        except PeersyncError as exc:
            log.warning("backup %s for %s: %s", given.backup.request.session, given.peer.name, exc)

    def get(self, peer: Peer, session: str) -> SourceBackup:
        """The backup of this peer's session; NotFound for any other, whoever's it is."""
        given = self._given.get(session)
        if given is None or given.peer.node_id != peer.node_id:
            raise NotFound(f"there is no backup for session {session[:64]!r} here")
        given.asked_at = time.monotonic()
        peer.require("pull", given.backup.request.database)
        return given.backup

    def _check_owner(self, given: _Given, peer: Peer) -> None:
        if given.peer.node_id != peer.node_id:
            raise NotFound("there is no such session here")

    async def finish(self, peer: Peer, session: str, end: FinishRequest) -> None:
        """The target is done, however it ended. Harmless to repeat."""
        given = self._given.get(session)
        if given is None:
            return
        self._check_owner(given, peer)
        self._given.pop(session, None)
        await self._close(given)
        database = self._databases.get(given.backup.request.database)
        error = PeersyncError(end.error) if end.error else None
        try:
            await History(database).finish(end.progress, error=error)
        except PeersyncError as exc:
            log.warning("backup %s: its end could not be recorded: %s", session, exc)

    async def _close(self, given: _Given) -> None:
        if given.task is not None:
            given.task.cancel()
            await asyncio.wait([given.task])
        await self._workers.run(given.backup.discard)

    async def expire(self) -> None:
        """Runs for ever: drops backups that nobody asked about for `keep_spool_h`."""
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            limit = time.monotonic() - self._config.full_sync.keep_spool_h * 3600
            for session, given in list(self._given.items()):
                if given.asked_at < limit:
                    log.warning("backup %s: nobody came for it, dropped", session)
                    self._given.pop(session, None)
                    await self._close(given)
