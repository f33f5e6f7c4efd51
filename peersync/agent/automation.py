"""What a node does by itself: complete and bulk syncs, table sets, schedules, notifications.

Puts these together, gives their routes, and begins what runs for as long as the node does. What
each of them does is in `orchestration` and `notify`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from peersync.agent.backups import Backups
from peersync.agent.jobs import Jobs
from peersync.agent.jobview import JobView
from peersync.agent.notify import sources
from peersync.agent.notify.api import NotifyApi
from peersync.agent.notify.ended import of_bulk, of_complete, of_job, of_set
from peersync.agent.notify.watcher import Sources, Watcher
from peersync.agent.orchestration.bulk import BulkSyncs
from peersync.agent.orchestration.bulk_api import BulkApi
from peersync.agent.orchestration.bulk_records import BulkRecords
from peersync.agent.orchestration.complete import CompleteSyncs
from peersync.agent.orchestration.complete_api import CompleteApi
from peersync.agent.orchestration.entries import ScheduleView
from peersync.agent.orchestration.line import Line
from peersync.agent.orchestration.schedule_api import ScheduleApi
from peersync.agent.orchestration.schedule_state import ScheduleFile
from peersync.agent.orchestration.scheduler import Scheduler
from peersync.agent.orchestration.schedules import Starts, local_zone
from peersync.agent.orchestration.sets import TableSets
from peersync.agent.orchestration.sets_api import SetsApi
from peersync.agent.orchestration.ways import Ways
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.positions import Positions
from peersync.agent.periodic.routes import PeriodicApi
from peersync.agent.proof.continuous import Continuous
from peersync.agent.proof.repair_api import RepairApi
from peersync.agent.proof.repairs import Repairs
from peersync.agent.proof.verifies import Verifies
from peersync.agent.proof.verify_api import VerifyApi
from peersync.agent.services import Services
from peersync.agent.status import StatusReport, make_status
from peersync.core.schedule import Budget
from peersync.transport.pairing import PairingDesk
from peersync.transport.peers import Peer

_FIRST_RETRY_S = 30.0


class Automation:
    """Made for one run of the node; `begin` starts its parts. `report` is what they watch."""

    def __init__(
        self,
        services: Services,
        jobs: Jobs,
        backups: Backups,
        periodic: Periodic,
        positions: Positions,
        verifies: Verifies,
        desk: PairingDesk,
        *,
        probe: Callable[[Peer], Awaitable[None]],
    ) -> None:
        config, databases, book = services.config, services.databases, services.book
        spawn, environ = services.spawn, services.environ
        state_dir, zone = Path(config.node.state_dir), local_zone(environ)
        ways = Ways(jobs, periodic, positions, probe)
        self._spawn = spawn
        self._databases = databases
        self.verifies = verifies
        self._repairs = Repairs(databases, book, verifies, jobs, spawn)
        self._continuous = Continuous(
            config,
            databases,
            lambda name: (
                any(view.database == name for view in verifies.running())
                or any(job.database == name for job in jobs.views.running())
            ),
        )
        self.kept = self._continuous.states.views
        line = Line()  # of all that copies into a database of this node
        self._completes = CompleteSyncs(config, databases, book, ways, line, spawn)
        self._bulks = BulkSyncs(config, self._completes, BulkRecords(state_dir / "bulk"), spawn)
        self._sets = TableSets(config, databases, book, jobs, ways, line, zone)
        self._scheduler = Scheduler(
            Starts(config, self._completes, self._bulks, self._sets).entries(),
            ScheduleFile(state_dir),
            zone,
            budget=Budget(config.complete.retries, first_s=_FIRST_RETRY_S),
            in_thread=services.workers.run,
        )
        links = PeriodicApi(periodic, book, positions).links
        report = StatusReport(
            config.node.name, databases, book, jobs, backups, probe, links,
            proofs=verifies.summaries, kept=self.kept,
        )  # fmt: skip
        self.watcher = Watcher(
            config,
            environ,
            Sources(
                lambda: make_status(report),
                lambda: sources.contacts(periodic.hubs),
                lambda: sources.kept_logs(databases, config),
                lambda: sources.pending(desk),
            ),
        )
        self._hang_on(jobs)

    def routes(self) -> list[web.RouteDef]:
        return [
            *CompleteApi(self._completes, self._databases).routes(),
            *BulkApi(self._bulks).routes(),
            *SetsApi(self._sets, self._spawn).routes(),
            *ScheduleApi(self._scheduler).routes(),
            *NotifyApi(self.watcher).routes(),
            *VerifyApi(self.verifies).routes(),
            *RepairApi(self._repairs).routes(),
        ]

    def troubles(self) -> tuple[str, ...]:
        """Sentences for `peersync status`: channels that fail, schedules that were forgotten."""
        return (*self.watcher.troubles(), *self._scheduler.troubles())

    async def schedules(self) -> list[ScheduleView]:
        """What this node starts by itself, and when it will next."""
        return await self._scheduler.views()

    def begin(self) -> None:
        """What a dead agent left is closed; then schedules and notifications go on."""
        self._spawn(self._completes.recover(), name="complete-recover")
        self._spawn(self._bulks.recover(), name="bulk-recover")
        self._spawn(self._sets.recover(), name="sets-recover")
        self._spawn(self.verifies.begin(), name="proofs")
        self._spawn(self._continuous.run(), name="kept-digests")
        self._spawn(self._repairs.begin(), name="repairs-recover")
        self._spawn(self._scheduler.run(), name="schedules")
        self._spawn(self.watcher.run(), name="notify")

    def _hang_on(self, jobs: Jobs) -> None:
        """Every end of a piece of work reaches the watcher."""
        watcher = self.watcher

        def job_ended(job: JobView) -> None:
            shown = not watcher.is_member(job.database, job.peer)
            watcher.ended(of_job(job, shown=shown))

        jobs.on_end.append(job_ended)
        self._completes.on_end.append(lambda view: watcher.ended(of_complete(view)))
        self._bulks.on_end.append(lambda view: watcher.ended(of_bulk(view)))
        self._sets.on_end.append(lambda run: watcher.ended(of_set(run)))
