"""The long work of this node: started here, watched from anywhere, and taken up after a crash.

A job belongs to the agent, not to the window that started it. Today every job is a full
sync, whose id is the id of its session: one that this node takes (by its own pull, or by a
peer's push) runs here; one that a peer takes from here is shown as the peer tells it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from pathlib import Path

import msgspec

from peersync.agent import leftovers
from peersync.agent.backups import Backups
from peersync.agent.endings import Endings
from peersync.agent.jobview import JobView, Started, view_entry
from peersync.agent.jobviews import JobViews, Running
from peersync.agent.metrics import JobTotals
from peersync.agent.periodic.joining import refuse_member, refuse_plan
from peersync.agent.plan import Plan
from peersync.agent.planner import plan_pull
from peersync.agent.push import Pushes
from peersync.agent.recovery import Recovery
from peersync.agent.services import Services
from peersync.agent.target import TargetSession
from peersync.core.errors import (
    BadRequest,
    Denied,
    DiskFull,
    Locked,
)
from peersync.core.session import State
from peersync.postgres.history import Entry, History
from peersync.postgres.locks import Holder, lease, refuse_if_held
from peersync.postgres.log.members import read_replica
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.postgres.sqlfiles import queries
from peersync.transport.peers import Peer
from peersync.transport.sse import EventRing
from peersync.wire.messages import FinishRequest, Ok, Options
from peersync.wire.spool import Budget, Spool

__all__ = ["JobView", "Jobs", "Started", "view_entry"]

log = logging.getLogger("peersync.jobs")

_KEPT_ENDED = 50


class Jobs:
    """All jobs of this node. `views` shows them, `pushes` starts those that a peer runs."""

    def __init__(
        self,
        services: Services,
        backups: Backups,
        spool_root: Path,
        budget: Budget,
        totals: JobTotals,
    ) -> None:
        config, databases, book = services.config, services.databases, services.book
        self._config = config
        self._node_id = services.node_id
        self._totals = totals
        self._databases = databases
        self._book = book
        self._client_for = services.client_for
        self.pushes = Pushes(databases, book, services.client_for, backups.offers)
        self._root = spool_root
        self._budget = budget
        self._workers = services.workers
        self._spawn = services.spawn
        self._jobs: dict[str, Running] = {}
        self.views = JobViews(databases, backups, self._jobs)
        self._starting = {name: asyncio.Lock() for name in databases.names()}
        self._recovery = Recovery(self, config, databases, book, spool_root, services.workers)
        self.on_end: Endings[JobView] = Endings()  # each that has ended here
        book.watch(removed=self._peer_removed)

    # --- starting -----------------------------------------------------------------------
    async def plan(
        self,
        peer_name: str,
        database_name: str,
        options: Options,
        *,
        offered: str | None = None,
        count: bool = True,
    ) -> tuple[Plan, bool]:
        """The plan of taking a peer's database; `offered` is the session of its push.

        `count`: how many rows would change is counted, where that is cheap.
        """
        peer = self._book.get(peer_name)
        database = self._databases.get(database_name)  # as it is: a dry run makes nothing
        client = self._client_for(peer)
        name = self._config.node.name
        patterns = self._databases.patterns(database_name)
        return await plan_pull(
            client,
            peer,
            database,
            patterns,
            name,
            self._root,
            self._workers,
            options=options,
            offered=offered,
            count=count,
        )

    async def start(
        self,
        peer_name: str,
        database_name: str,
        options: Options,
        *,
        by: str,
        sync_type: str,
        offered: str | None = None,
        session: str | None = None,
    ) -> Started:
        """Plans and starts taking a peer's database: a pull, or a push that it `offered`.

        `session`: a new id, where somebody has to know it before.
        Raises Locked, naming the holder, while another one runs.
        """
        self._databases.get(database_name)
        async with self._starting[database_name]:
            await self._refuse_second(database_name)
            session = offered or session or secrets.token_hex(16)
            database = await self._databases.ready(database_name)
            await self._take_over(database, session)
            plan, replica_role = await self.plan(
                peer_name,
                database_name,
                options,
                offered=offered,
                count=options.mirror or options.join,
            )
            await self._refuse_join(plan, options, database, replica_role=replica_role)
            self._refuse_too_large(plan)
            await refuse_if_held(database, LEASE)
            peer = self._book.get(peer_name)
            await History(database).create(
                session,
                role="target",
                action=plan.action,
                peer_id=peer.node_id,
                peer_name=peer.name,
                requested_by=by,
                options=options,
                sync_type=sync_type,
                plan=plan,
            )
            self._launch(session, plan, options, peer, database, replica_role, by=by)
        return Started(plan=plan, job=session)

    async def _take_over(self, database: Database, session: str) -> None:
        """Drops what dead sessions of others left here, so that the plan does not see it."""
        found = await History(database).unfinished("target")
        if not found:
            return
        holder = Holder(
            self._config.node.name, os.getpid(), session, "taking over from a full sync that died"
        )
        async with lease(database, LEASE, holder):
            await leftovers.take_over(database, session, self._workers)

    async def _refuse_join(
        self, plan: Plan, options: Options, database: Database, *, replica_role: bool
    ) -> None:
        if options.join and not options.anew:
            async with database.acquire("looking whether it is a member") as conn:
                refuse_member(await read_replica(conn), database.name)
        refuse_plan(plan, options, replica_role=replica_role)

    def _refuse_too_large(self, plan: Plan) -> None:
        """For the spool alone: what the staging tables need is on the database's disk."""
        if plan.needed_bytes > plan.free_bytes:
            raise DiskFull(
                f"the sync needs about {plan.needed_bytes >> 20} MiB here, and "
                f"{plan.free_bytes >> 20} MiB are free",
                hint="Free some space, or set node.spool_dir to a larger disk.",
            )

    async def _refuse_second(self, database_name: str) -> None:
        await self._recovery.known(database_name)
        for job, running in self._jobs.items():
            if running.session.plan.database == database_name and not running.session.state.final:
                plan = running.session.plan
                raise Locked(
                    f"{database_name} is busy: a full sync from {plan.source} is running "
                    f"(job {job}, node {plan.target}, "
                    f"since {running.session.progress().started_at})",
                    hint=f"Watch it: peersync jobs watch {job}\n"
                    f"or stop it: peersync jobs cancel {job}",
                    holder={
                        "node": plan.target,
                        "pid": os.getpid(),
                        "job": job,
                        "since": running.session.progress().started_at,
                    },
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
        earlier: Entry | None = None,
    ) -> None:
        target = TargetSession(
            session,
            plan,
            options,
            client=self._client_for(peer),
            database=database,
            spool=Spool(self._root, session, self._budget),
            workers=self._workers,
            config=self._config,
            replica_role=replica_role,
            ring=EventRing(session[:8]),
            node_id=self._node_id,
            earlier=earlier,
        )
        task = self._spawn(self._run(target), name=f"full-sync-{session[:8]}")
        self._jobs[session] = Running(target, task, by)
        self._forget_old()

    async def _run(self, target: TargetSession) -> None:
        """A bug of one session ends that session, aloud, and not the node."""
        try:
            await target.run()
            self._totals.add(target.progress())
            await self._tell_hooks(target)
            await target.follow_up()
        except Exception:
            log.exception("session %s: internal error", target.session)
            target.recorded = False
        if not target.recorded:
            database = target.plan.database
            if target.cancel_asked:  # its database could not be told: it is not taken up
                self._recovery.note_cancelled(target.session)
            self._spawn(self.recover(database), name=f"recover-{database}")

    async def _tell_hooks(self, target: TargetSession) -> None:
        if target.state.final:  # not one that is left to be taken up at the next start
            self.on_end.tell(await self.views.get(target.session))

    def is_running(self, job: str) -> bool:
        running = self._jobs.get(job)
        return running is not None and not running.task.done()

    def _peer_removed(self, peer: Peer) -> None:
        """Nothing more is taken from a node that this one does not know any more."""
        for running in self._jobs.values():
            if running.session.plan.source == peer.name and not running.session.state.final:
                running.session.forbid(
                    Denied(
                        f"{peer.name} was removed from the peers of this node",
                        hint="Pair again to go on: peersync peer invite",
                    )
                )
                running.task.cancel()

    def leave(self) -> None:
        """The agent stops: sessions stay as they are, to be taken up at the next start."""
        for running in self._jobs.values():
            running.session.leave()

    def _forget_old(self) -> None:
        ended = [job for job, running in self._jobs.items() if running.task.done()]
        for job in ended[:-_KEPT_ENDED]:
            del self._jobs[job]

    # --- stopping -----------------------------------------------------------------------
    async def cancel(self, job: str, by: str = "") -> JobView:
        """Asks a job to stop; answers at once. Harmless when it has ended, or to repeat.

        `by`: who asks; kept with it, and shown on both servers.
        """
        running = self._jobs.get(job)
        if running is not None and running.session.state is State.RUNNING:
            running.session.cancelling(by)
            running.task.cancel()
        elif running is None and (entry := await self.views.entry(job)):
            await self._cancel_entry(entry, by)
        return await self.views.get(job)

    async def _cancel_entry(self, entry: Entry, by: str) -> None:
        """One that does not run here: the peer's, or one that waits to be taken up."""
        if entry.role == "source":
            return await self.pushes.cancel(entry, by)
        await self._recovery.cancel(entry, by)
        if entry.session in self._jobs:  # it was taken up meanwhile
            await self.cancel(entry.session, by)
        return None

    # --- after a failure, and after a restart -------------------------------------------
    async def resume(self, job: str) -> JobView:
        """Takes up a session that failed; what has arrived is not sent again.

        BadRequest when it can't be, Locked while another one runs.
        """
        view = await self.views.get(job)
        if view.role == "source" and (entry := await self.views.entry(job)) is not None:
            await self.pushes.resume(entry)
            return await self.views.get(job)
        database = self._databases.get(view.database)
        async with self._starting[database.name]:
            await self._refuse_second(database.name)
            await refuse_if_held(database, LEASE)
            entry = await History(database).get(job)
            if entry is None or self._book.find(entry.peer_id) is None:
                raise BadRequest(f"the peer of job {job[:8]} is not known any more")
            if not await History(database).reopen(job):
                raise BadRequest(
                    f"job {job[:8]} can't go on: it is {entry.state}",
                    hint=f"Start anew: peersync pull {entry.peer} --database {database.name}",
                )
            await self.take_up(database, entry)
        return await self.views.get(job)

    async def recover(self, database_name: str) -> None:
        await self._recovery.run(database_name)

    async def tell_end(self, entry: Entry) -> None:
        """Tells the source how a session ended that it gave rows to. Harmless to repeat."""
        peer = self._book.find(entry.peer_id)
        if peer is None or entry.progress is None:
            return
        end = FinishRequest(
            state=entry.state,  # type: ignore[arg-type]
            progress=entry.progress,
            error=entry.error.message if entry.error else None,
            failure=entry.error,
            tables=tuple(entry.tables),
        )
        path = f"/api/sync/backups/{entry.session}/finish"
        await self._client_for(peer).call("POST", path, end, Ok)

    def runs(self, session: str) -> bool:
        """Whether it runs here, or has ended here as its record says."""
        return self.is_running(session) and self._jobs[session].session.recorded

    def forget(self, session: str) -> None:
        self._jobs.pop(session, None)

    async def take_up(self, database: Database, entry: Entry) -> None:
        peer = self._book.find(entry.peer_id)
        assert peer is not None
        plan = msgspec.convert(entry.plan, Plan)
        options = msgspec.convert(entry.options, Options)
        async with database.acquire("reading its rights") as connection:
            replica = await connection.fetchval(queries("catalog")["may_use_replica_role"])
        self._recovery.refuse_cancelled(entry.session)
        self._launch(
            entry.session,
            plan,
            options,
            peer,
            database,
            bool(replica),
            by=entry.requested_by,
            earlier=entry,
        )
