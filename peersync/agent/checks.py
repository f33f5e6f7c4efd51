"""Named checks of everything a sync needs, each with a line that mends what is wrong.

Run by `peersync check`, with or without a running agent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from peersync.agent.check_result import CheckResult, guarded
from peersync.agent.databases import Databases
from peersync.agent.member_checks import check_member
from peersync.agent.orchestration.schedule_state import ScheduleFile
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.config.places import trouble_with
from peersync.core.errors import ConfigError, PeersyncError, ToolMissing
from peersync.core.words import counted
from peersync.postgres.binaries import choose_pg_dump
from peersync.postgres.catalog import read_catalog, read_server
from peersync.postgres.filters import read_shapes
from peersync.postgres.log.members import Replica, read_replica
from peersync.postgres.migrate import status
from peersync.postgres.pool import Database
from peersync.postgres.rights import read_rights, verdict
from peersync.postgres.sqlfiles import queries
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook
from peersync.wire.messages import Hello
from peersync.wire.spool import free_bytes

MIN_SUPPORTED = 150000
LOW_DISK_BYTES = 1 << 30
CLOCK_WARNING_S = 5.0


class Checks:
    """All checks of one node."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        spool_root: Path,
        workers: Workers,
    ) -> None:
        self._config = config
        self._databases = databases
        self._book = book
        self._client_for = client_for
        self._root = spool_root
        self._workers = workers

    async def run(self) -> list[CheckResult]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._database(d), name=f"check-{d.name}")
                for d in self._databases
            ]
            tasks += [
                group.create_task(self._peer(p), name=f"check-{p.name}") for p in self._book.peers()
            ]
        results = [result for task in tasks for result in task.result()]
        if not self._databases.names():
            results.append(
                CheckResult(
                    name="databases",
                    state="failed",
                    text="none is configured",
                    fix='add [database.NAME] with conninfo = "postgresql:///NAME"',
                )
            )
        schedules = ScheduleFile(Path(self._config.node.state_dir))
        for words in await self._workers.run(schedules.troubles):
            results.append(CheckResult(name="schedules", state="warning", text=words))
        return [*results, await self._disk()]

    async def ready(self) -> list[CheckResult]:
        """The part that /readyz asks: databases and disk, no peers."""
        results: list[CheckResult] = []
        for database in self._databases:
            results += await guarded(f"database {database.name}", self._reachable(database))
        return [*results, await self._disk()]

    async def _database(self, database: Database) -> list[CheckResult]:
        name = f"database {database.name}"
        found = await guarded(name, self._reachable(database))
        if found[0].state == "failed":
            return found
        found += await guarded(f"schema of {database.name}", self._schema(database))
        replica = await self._replica(database) if found[-1].state == "ok" else None
        found += await guarded(
            f"rights in {database.name}", self._rights(database, replica is not None)
        )
        if self._config.database[database.name].filter:
            found += await guarded(f"filters of {database.name}", self._filters(database))
        found += await guarded(f"pg_dump for {database.name}", self._tool(database))
        if replica is not None:
            found += await check_member(database, replica, self._config)
        return found

    async def _replica(self, database: Database) -> Replica | None:
        """What it is in its group; None where it takes part in no periodic sync."""
        try:
            async with database.acquire(f"checking {database.name}") as connection:
                return await read_replica(connection)
        except PeersyncError:
            return None  # the check of its rights says so

    async def _reachable(self, database: Database) -> CheckResult:
        async with database.acquire(f"checking {database.name}") as connection:
            server = await read_server(connection)
        where = f"{server.version}, {database.resolved.display()}"
        if server.version_num < MIN_SUPPORTED:
            return CheckResult(
                name=f"database {database.name}",
                state="failed",
                text=f"{where}: PostgreSQL 15 or newer is needed",
                fix="upgrade the server",
            )
        return CheckResult(name=f"database {database.name}", state="ok", text=where)

    async def _schema(self, database: Database) -> CheckResult:
        name = f"schema of {database.name}"
        async with database.acquire(f"checking {database.name}") as connection:
            found = await status(connection)
        if found.current:
            return CheckResult(name=name, state="ok", text=counted(len(found.applied), "migration"))
        return CheckResult(
            name=name,
            state="warning",
            text="not installed" if not found.installed else f"{len(found.pending)} pending",
            fix="the agent installs it when it starts; its role must own the database or have "
            "CREATE on it",
        )

    async def _rights(self, database: Database, member: bool) -> CheckResult:
        name = f"rights in {database.name}"
        async with database.acquire(f"checking {database.name}") as connection:
            rights = await read_rights(connection)
            tables = await connection.fetch(queries("catalog")["tables"])
        wanted = self._databases.patterns(database.name).match
        found = verdict(rights, wanted, member=member)
        if found is not None:
            stops, text, fix = found
            state: Literal["failed", "warning"] = "failed" if stops else "warning"
            return CheckResult(name=name, state=state, text=text, fix=fix)
        return CheckResult(name=name, state="ok", text=counted(len(tables), "table"))

    async def _filters(self, database: Database) -> CheckResult:
        filters = self._config.database[database.name].filter
        async with database.acquire(f"checking {database.name}") as connection:
            catalog = await read_catalog(connection)
            async with connection.transaction(readonly=True):
                shapes = await read_shapes(connection, filters, catalog)
        text = counted(len(shapes), "filtered table")
        return CheckResult(name=f"filters of {database.name}", state="ok", text=text)

    async def _tool(self, database: Database) -> CheckResult:
        name = f"pg_dump for {database.name}"
        async with database.acquire(f"checking {database.name}") as connection:
            server = await read_server(connection)
        try:
            tool = await self._workers.run(
                choose_pg_dump, server.version_num, bindirs=self._config.tools.bindirs
            )
        except ToolMissing as exc:  # rows come by COPY then
            text = f"{exc.message}: peers can take rows from here, but no definitions"
            return CheckResult(name=name, state="warning", text=text, fix=exc.hint)
        state: Literal["ok", "warning"] = "warning" if tool.note else "ok"
        return CheckResult(name=name, state=state, text=tool.note or f"{tool.version}, {tool.path}")

    async def _peer(self, peer: Peer) -> list[CheckResult]:
        return await guarded(f"peer {peer.name}", self._hello(peer))

    async def _hello(self, peer: Peer) -> CheckResult:
        before = time.time()
        hello = await self._client_for(peer).call("GET", "/api/sync/hello", None, Hello)
        offset = hello.unix_time - (before + time.time()) / 2
        text = f"{peer.address}, version {hello.version}, clock {offset:+.3f} s"
        if abs(offset) > CLOCK_WARNING_S:
            limit_s = self._config.periodic.max_clock_offset_s
            held = abs(offset) > limit_s and self._config.periodic.enabled
            more = f": above periodic.max_clock_offset_s = {limit_s:g}, changes are not taken"
            return CheckResult(
                name=f"peer {peer.name}",
                state="warning",
                text=text + more * held,
                fix="set the clock of the server that is wrong: timedatectl set-ntp true",
            )
        return CheckResult(name=f"peer {peer.name}", state="ok", text=text)

    async def require_spool(self) -> None:
        """ConfigError when nothing can be written into the spool directory."""
        if trouble := await self._workers.run(_spool_trouble, self._root):
            raise ConfigError(
                f"the spool directory cannot be used: {trouble}",
                hint=_SPOOL_FIX,
                path="node.spool_dir",
            )

    async def _disk(self) -> CheckResult:
        if trouble := await self._workers.run(_spool_trouble, self._root):
            return CheckResult(name="disk for spool", state="failed", text=trouble, fix=_SPOOL_FIX)
        free = await self._workers.run(free_bytes, self._root)
        text = f"{free >> 20} MiB free in {self._root}"
        if free < LOW_DISK_BYTES:
            fix = "free some space, or set node.spool_dir to a larger disk"
            return CheckResult(name="disk for spool", state="warning", text=text, fix=fix)
        return CheckResult(name="disk for spool", state="ok", text=text)


_SPOOL_FIX = (
    "set node.spool_dir to a directory that the user of the agent can write, "
    "then: systemctl restart peersync-agent"
)


def _spool_trouble(root: Path) -> str | None:
    """Why one of the two rooms of the spool cannot be written; the path comes first."""
    for room in (root / "given", root / "taken"):
        if trouble := trouble_with(room):
            return f"{room if room.is_dir() else root}: {trouble}"
    return None
