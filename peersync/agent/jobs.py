"""The long work of this node: started here, watched from anywhere, and taken up after a crash.

A job belongs to the agent, not to the window that started it. Today every job is a full
sync by pull; its id is the id of its session.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from peersync.agent.databases import Databases
from peersync.agent.metrics import JobTotals
from peersync.agent.plan import Plan
from peersync.agent.planner import plan_pull
from peersync.agent.target import Options, TargetSession
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import BadRequest, DiskFull, Locked, NotFound, PeersyncError
from peersync.core.progress import Progress
from peersync.postgres.history import Entry, ErrorRecord, History
from peersync.postgres.locks import refuse_if_held
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE, TableResult
from peersync.postgres.sqlfiles import queries
from peersync.transport.client import PeerClient
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.sse import EventRing
from peersync.wire.spool import Spool

log = logging.getLogger("peersync.jobs")

MAX_RESUMES = 20
RECOVER_EVERY_S = 5.0
_KEPT_ENDED = 50


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as people and scripts see it (docs/cli-json.md)."""

    id: str
    kind: str
    role: str
    action: str
    database: str
    peer: str
    state: str
    progress: Progress | None
    tables: list[TableResult]
    seconds: dict[str, float]
    error: ErrorRecord | None
    requested_by: str
    started_at: str
    completed_at: str | None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request for a full sync: the plan, and the job unless it is a dry run."""

    plan: Plan
    job: str | None = None


class _Running:
    def __init__(self, session: TargetSession, task: asyncio.Task[None], by: str) -> None:
        self.session = session
        self.task = task
        self.requested_by = by


class Jobs:
    """All jobs of this node."""

    def __init__(
        self,
        config: Config,
        databases: Databases,
        book: PeerBook,
        client_for: Callable[[Peer], PeerClient],
        spool_root: Path,
        workers: Workers,
        spawn: Callable[..., asyncio.Task[None]],
        totals: JobTotals,
    ) -> None:
        self._config = config
        self._totals = totals
        self._databases = databases
        self._book = book
        self._client_for = client_for
        self._root = spool_root
        self._workers = workers
        self._spawn = spawn
        self._jobs: dict[str, _Running] = {}
        self._starting = asyncio.Lock()

    # --- starting -----------------------------------------------------------------------
    async def plan(self, peer_name: str, database_name: str) -> tuple[Plan, bool]:
        peer = self._book.get(peer_name)
        database = await self._databases.ready(database_name)
        client = self._client_for(peer)
        name = self._config.node.name
        return await plan_pull(client, peer, database, name, self._root, self._workers)

    async def start_pull(
        self, peer_name: str, database_name: str, options: Options, *, by: str, sync_type: str
    ) -> Started:
        """Plans and starts a pull. Raises Locked, naming the holder, while another one runs."""
        async with self._starting:
            self._refuse_second(database_name)
            plan, replica_role = await self.plan(peer_name, database_name)
            if plan.needed_bytes > plan.free_bytes:
                raise DiskFull(
                    f"the sync needs about {plan.needed_bytes >> 20} MiB here, and "
                    f"{plan.free_bytes >> 20} MiB are free",
                    hint="Free some space, or set node.spool_dir to a larger disk.",
                )
            database = self._databases.get(database_name)
            await refuse_if_held(database, LEASE)
            peer = self._book.get(peer_name)
            session = secrets.token_hex(16)
            await History(database).create(
                session,
                role="target",
                action="pull",
                peer_id=peer.node_id,
                peer_name=peer.name,
                requested_by=by,
                options=options,
                sync_type=sync_type,
                plan=plan,
            )
            self._launch(session, plan, options, peer, database, replica_role, by=by)
        return Started(plan=plan, job=session)

    def _refuse_second(self, database_name: str) -> None:
        for job, running in self._jobs.items():
            if running.session.plan.database == database_name and not running.session.state.final:
                plan = running.session.plan
                raise Locked(
                    f"{database_name} is busy: a full sync from {plan.source} is running "
                    f"(job {job}, node {plan.target}, "
                    f"since {running.session.progress().started_at})",
                    hint=f"Watch it: peersync jobs watch {job}\n"
                    f"or stop it: peersync jobs cancel {job}",
                    holder={"node": plan.target, "job": job},
                )

    def _launch(
        self,
        session: str,
        plan: Plan,
        options: Options,
        peer: Peer,
        database: Database,
        replica_role: bool,
        *,
        by: str,
        resumed: int = 0,
    ) -> None:
        target = TargetSession(
            session,
            plan,
            options,
            client=self._client_for(peer),
            database=database,
            spool=Spool(self._root, session),
            workers=self._workers,
            config=self._config,
            replica_role=replica_role,
            ring=EventRing(session[:8]),
            resumed=resumed,
        )
        task = self._spawn(self._run(target), name=f"full-sync-{session[:8]}")
        self._jobs[session] = _Running(target, task, by)
        self._forget_old()

    async def _run(self, target: TargetSession) -> None:
        await target.run()
        self._totals.add(target.progress())
        await target.gather_statistics()

    def leave(self) -> None:
        """The agent stops: sessions stay as they are, to be taken up at the next start."""
        for running in self._jobs.values():
            running.session.leave()

    def _forget_old(self) -> None:
        ended = [job for job, running in self._jobs.items() if running.task.done()]
        for job in ended[:-_KEPT_ENDED]:
            del self._jobs[job]

    # --- watching and stopping ----------------------------------------------------------
    def running(self) -> list[Progress]:
        return [r.session.progress() for r in self._jobs.values() if not r.session.state.final]

    def ring(self, job: str) -> EventRing | None:
        """The events of a job that runs, or ended a short while ago."""
        running = self._jobs.get(job)
        return running.session.ring if running else None

    async def find(self, prefix: str) -> str:
        """The full id of a job from its beginning. NotFound, or BadRequest if it is unclear."""
        views = await self.list(200)
        matches = {view.id for view in views if view.id.startswith(prefix)}
        if len(matches) > 1:
            raise BadRequest(
                f"{prefix!r} could be {len(matches)} jobs", hint="Give more of the id."
            )
        if not prefix or not matches:
            raise NotFound(f"there is no job {prefix!r}", hint="See: peersync jobs list")
        return matches.pop()

    async def get(self, job: str) -> JobView:
        running = self._jobs.get(job)
        if running is not None:
            return self._view_running(job, running)
        for database in self._databases:
            entry = await History(database).get(job)
            if entry is not None:
                return view_entry(entry)
        raise NotFound(f"there is no job {job!r}", hint="See: peersync jobs list")

    async def list(self, limit: int) -> list[JobView]:
        """Newest first; a database that can't be reached leaves out its history."""
        views = {job: self._view_running(job, r) for job, r in self._jobs.items()}
        for database in self._databases:
            try:
                entries = await History(database).newest(limit)
            except PeersyncError as exc:
                log.warning("history of %s: %s", database.name, exc)
                continue
            for entry in entries:
                if entry.role == "target" or entry.session not in views:
                    views.setdefault(entry.session, view_entry(entry))
        newest = sorted(views.values(), key=lambda v: v.started_at, reverse=True)
        return newest[:limit]

    def _view_running(self, job: str, running: _Running) -> JobView:
        session = running.session
        progress = session.progress()
        return JobView(
            id=job,
            kind="full-sync",
            role="target",
            action=session.plan.action,
            database=session.plan.database,
            peer=session.plan.source,
            state=progress.state,
            progress=progress,
            tables=session.results,
            seconds=session.seconds(),
            error=ErrorRecord.of(session.error) if session.error else None,
            requested_by=running.requested_by,
            started_at=progress.started_at,
            completed_at=progress.updated_at if session.state.final else None,
        )

    async def cancel(self, job: str) -> JobView:
        """Asks a job to stop; answers at once. Harmless when it has ended."""
        running = self._jobs.get(job)
        if running is not None and not running.task.done():
            running.session.cancelling()
            running.task.cancel()
        return await self.get(job)

    # --- after a restart ----------------------------------------------------------------
    async def recover(self, database_name: str) -> None:
        """Takes up what was running when the last agent died, as soon as the database answers."""
        while True:
            try:
                database = await self._databases.ready(database_name)
                for entry in await History(database).unfinished("target"):
                    if entry.session not in self._jobs:
                        await self._resume(database, entry)
            except PeersyncError as exc:
                if not exc.retryable:
                    log.warning("database %s can't be used: %s", database_name, exc)
                    return
                log.warning("database %s: %s; trying again", database_name, exc)
                await asyncio.sleep(RECOVER_EVERY_S)
            else:
                return

    async def _resume(self, database: Database, entry: Entry) -> None:
        peer = self._book.find(entry.peer_id)
        if peer is None or entry.plan is None or entry.resumed >= MAX_RESUMES:
            await self._give_up(database, entry)
            return
        plan = msgspec.convert(entry.plan, Plan)
        options = msgspec.convert(entry.options, Options)
        async with database.acquire("reading its rights") as connection:
            replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
        log.info("session %s is taken up again", entry.session)
        self._launch(
            entry.session,
            plan,
            options,
            peer,
            database,
            bool(replica),
            by=entry.requested_by,
            resumed=entry.resumed + 1,
        )

    async def _give_up(self, database: Database, entry: Entry) -> None:
        reason = "its peer was removed" if entry.resumed < MAX_RESUMES else "it died too often"
        error = PeersyncError(f"the agent stopped in the middle of it, and {reason}")
        progress = entry.progress or Progress(
            session=entry.session,
            action=entry.action,
            database=entry.database,
            source=entry.peer,
            target=self._config.node.name,
            state="failed",
        )
        failed = msgspec.structs.replace(progress, state="failed")
        await History(database).finish(failed, error=error)
        await self._workers.run(Spool(self._root, entry.session).remove)


def view_entry(entry: Entry) -> JobView:
    """A job from its durable record."""
    steps = entry.progress.steps if entry.progress else ()
    return JobView(
        id=entry.session,
        kind="full-sync",
        role=entry.role,
        action=entry.action,
        database=entry.database,
        peer=entry.peer,
        state=entry.state,
        progress=entry.progress,
        tables=entry.tables,
        seconds={step.name.value: step.seconds for step in steps},
        error=entry.error,
        requested_by=entry.requested_by,
        started_at=entry.started_at,
        completed_at=entry.completed_at,
    )
