"""The agent: puts the rooms together, serves three listeners, supervises, stops in order.

A job's own failure ends that job. What ends the node is only the failure of the node
itself: a listener that can't be had, an identity that is not there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web

from peersync import __version__
from peersync.agent.admin_api import AdminApi
from peersync.agent.analytics_api import AnalyticsApi
from peersync.agent.automation import Automation
from peersync.agent.backups import Backups
from peersync.agent.checks import Checks
from peersync.agent.clients import Clients
from peersync.agent.databases import Databases
from peersync.agent.farewell import Farewell
from peersync.agent.janitor import Janitor
from peersync.agent.jobs import Jobs
from peersync.agent.lines import LineKeeper
from peersync.agent.metrics import JobTotals, LinkMetrics, lag_check, make_registry
from peersync.agent.orchestration.samples import LinkSamples
from peersync.agent.peer_api import PeerApi
from peersync.agent.people.listener import PeopleSide
from peersync.agent.people.lookout import Lookout
from peersync.agent.periodic.admin_api import OperatorApi
from peersync.agent.periodic.leaving import Leaving
from peersync.agent.periodic.look_api import LookApi
from peersync.agent.periodic.loop import Periodic
from peersync.agent.periodic.members_api import MembersApi
from peersync.agent.periodic.positions import Positions
from peersync.agent.periodic.routes import PeriodicApi
from peersync.agent.proof.metrics import VerifyMetrics
from peersync.agent.proof.serve import DigestsApi
from peersync.agent.proof.verifies import Verifies
from peersync.agent.reload import Reloader
from peersync.agent.services import Services, Spawn
from peersync.agent.status import StatusReport
from peersync.agent.systemd import Notifier, status_line
from peersync.agent.undo import Undo
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.postgres.sqlfiles import queries, query_modules
from peersync.transport.app import control_app, listen_peers, peer_app
from peersync.transport.health import Asked, Check, health_routes
from peersync.transport.identity import load_identity
from peersync.transport.line_routes import line_routes
from peersync.transport.lines import SPARE_LINES, Lines
from peersync.transport.listener import Limits, listen_tcp, listen_unix, serve_given
from peersync.transport.pairing import PairingDesk
from peersync.transport.peer_routes import pair_routes, peer_book_routes, ping, ping_peer
from peersync.transport.peers import Peer, PeerBook
from peersync.transport.renewal import Renewal
from peersync.transport.ways import Ways
from peersync.wire.address import parse_address
from peersync.wire.spool import Budget

log = logging.getLogger("peersync.agent")


class Node:
    """One agent. `run` ends when it is told to stop (SIGTERM, SIGINT)."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        read_config: Callable[[], Config],
        *,
        origins: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Reads identity, peer book and users; ConfigError where one is damaged. Blocks.

        `origins` says where each value of the configuration came from.
        """
        self._config = config
        self._environ = environ
        state_dir = Path(config.node.state_dir)
        self._spool = Path(config.node.spool_dir)
        self._state_dir = state_dir
        self.identity = load_identity(state_dir)
        self.book = PeerBook(state_dir / "peers.json", self.identity.node_id)
        self._databases = Databases(config, environ)
        self._notifier = Notifier(environ, os.getpid())
        self._workers = Workers(pumps=4 * config.full_sync.parallel + 8)
        self._undo = Undo(config, self._databases, self._workers)
        self._people = PeopleSide(config, self.identity, self._workers, origins)
        held = 2 * len(config.database)  # by periodic sync: one that waits for news, one ahead
        self._lines = Lines(wanted=lambda: config.full_sync.in_flight + SPARE_LINES + held)
        self._ways = Ways(self._lines, self._dial)
        renewal = Renewal(self.identity, self.book)
        self._clients = Clients(config, self.identity, self.book, self._ways, renewal)
        self._reloader = Reloader(config, read_config, self._notifier, self._clients.renew)
        self._desk = PairingDesk(
            self.book,
            self.identity,
            state_dir=state_dir,
            name=config.node.name,
            advertise=config.node.advertise or None,
        )
        self._periodic = Periodic(
            config,
            self._databases,
            self.book,
            self._clients.get,
            self.identity.node_id,
            state_dir,
            self._workers,
        )
        self._look = LookApi(config, self._databases, self.book, self._clients.get)
        self._samples = LinkSamples(self._databases, self._periodic)
        self._totals = JobTotals()
        self._positions = Positions(self._clients.get)
        for module in query_modules():
            queries(module)  # read now: the loop must not wait for a file later

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        try:
            await self.serve(stop)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set. Jobs that run are left to be taken up at the next start."""
        async with AsyncExitStack() as stack:
            stack.callback(self._workers.close)
            farewell = Farewell()
            stack.callback(farewell.end)
            stack.push_async_callback(self._databases.close)
            stack.push_async_callback(self._clients.close)
            async with asyncio.TaskGroup() as group:
                running: set[asyncio.Task[None]] = set()

                def spawn(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
                    task = group.create_task(_isolated(work, name), name=name)
                    running.add(task)
                    task.add_done_callback(running.discard)
                    return task

                services = self._services(spawn)
                backups, jobs = self._build(services)
                automation = Automation(
                    services,
                    jobs,
                    backups,
                    self._periodic,
                    self._positions,
                    self._verifies(spawn),
                    self._desk,
                    probe=self._probe,
                )
                async with AsyncExitStack() as listeners:
                    keeper = await self._listen(listeners, backups, jobs, automation, spawn)
                    spawn(keeper.run(), name="lines")
                    spawn(self._janitor(backups, jobs).run(), name="janitor")
                    spawn(self._periodic.run(), name="periodic")
                    spawn(self._samples.run(), name="samples")
                    for name in self._databases.names():
                        spawn(jobs.recover(name), name=f"recover-{name}")
                    automation.begin()
                    spawn(self._tell_systemd(jobs), name="systemd")
                    spawn(self._reloader.run(self._workers), name="reload")
                    self._notifier.ready()
                    log.info("node %s is ready, version %s", self._config.node.name, __version__)
                    await stop.wait()
                    self._notifier.stopping()
                    farewell.begin()
                    log.info("stopping")
                    jobs.leave()
                    backups.leave()
                    for task in list(running):
                        task.cancel()

    async def _tell_systemd(self, jobs: Jobs) -> None:
        await self._notifier.keep(
            lambda: status_line(jobs.views.running(), self._periodic.words()),
            self._periodic.pulses,
        )

    def _services(self, spawn: Spawn) -> Services:
        return Services(
            self._config,
            self._environ,
            self.identity.node_id,
            self._databases,
            self.book,
            self._clients.get,
            self._workers,
            spawn,
        )

    def _build(self, services: Services) -> tuple[Backups, Jobs]:
        budget = Budget(self._spool, int(self._config.full_sync.spool_max_gib * (1 << 30)))
        backups = Backups(services, self._spool / "given", budget)
        jobs = Jobs(services, backups, self._spool / "taken", budget, self._totals)
        return backups, jobs

    def _verifies(self, spawn: Spawn) -> Verifies:
        return Verifies(
            self._config,
            self._databases,
            self.book,
            self._clients.get,
            self._periodic,
            self._positions,
            spawn,
        )

    def _janitor(self, backups: Backups, jobs: Jobs) -> Janitor:
        return Janitor(
            self._config,
            self._databases,
            backups,
            jobs,
            self._undo,
            self._workers,
            given=self._spool / "given",
            taken=self._spool / "taken",
        )

    async def _listen(
        self,
        stack: AsyncExitStack,
        backups: Backups,
        jobs: Jobs,
        automation: Automation,
        spawn: Spawn,
    ) -> LineKeeper:
        """Opens the three listeners; what is given back keeps the lines, as one more."""
        node = self._config.node
        checks = Checks(
            self._config,
            self._databases,
            self.book,
            self._clients.get,
            self._spool,
            self._workers,
        )
        links = LinkMetrics(self._periodic, self._samples)
        proofs = VerifyMetrics(automation.verifies, automation.kept)
        registry = make_registry(self._totals, jobs.views.running, self._state_dir, links, proofs)
        ready = _ready(checks, self._periodic)
        shown = health_routes(ready, registry, show_checks=True)
        listen, admin = parse_address(node.listen), parse_address(node.admin)
        asked = self._people_routes(checks, backups, jobs, automation, spawn)
        await stack.enter_async_context(
            listen_unix(control_app([*asked, *shown]), Path(node.socket))
        )
        routes = self._peer_routes(backups, jobs)
        await stack.enter_async_context(
            listen_peers(
                self.book,
                self.identity,
                [*routes, *line_routes(self._ways)],
                listen.host,
                listen.port,
                lines=self._lines,
            )
        )
        page = self._people.app(asked, health_routes(ready, registry))
        await stack.enter_async_context(
            listen_tcp(page, admin.host, admin.port, tls=self._people.tls)
        )
        on_lines = await stack.enter_async_context(
            serve_given(peer_app(self.book, routes), Limits(request_s=self._lines.times.silence_s))
        )
        return LineKeeper(self._config, self.identity, self.book, self._ways, on_lines)

    def _people_routes(
        self,
        checks: Checks,
        backups: Backups,
        jobs: Jobs,
        automation: Automation,
        spawn: Spawn,
    ) -> list[web.RouteDef]:
        """What the command line may ask, and people as far as their role goes."""
        periodic = PeriodicApi(self._periodic, self.book, self._positions)
        report = StatusReport(
            self._config.node.name,
            self._databases,
            self.book,
            jobs,
            backups,
            self._probe,
            periodic.links,
            automation.troubles,
            automation.verifies.summaries,
            automation.kept,
        )
        lookout = Lookout(
            self._config,
            report,
            self._periodic,
            self._positions,
            automation.schedules,
            spawn,
            lambda: len(self._desk.pending()),
        )
        return [
            *AdminApi(jobs, backups, checks, report, self._undo).routes(),
            *periodic.admin_routes(),
            *automation.routes(),
            *AnalyticsApi(self._config, self._databases, periodic.links).routes(),
            *Leaving(self._periodic, self._databases).routes(),
            *MembersApi(self._periodic, self._databases).routes(),
            *OperatorApi(self._databases, self._periodic.refresh).routes(),
            *self._look.admin_routes(),
            *peer_book_routes(self._desk, probe=self._probe, way=self._ways.way),
            *self._people.routes(lookout, jobs, backups, spawn),
        ]

    def _peer_routes(self, backups: Backups, jobs: Jobs) -> list[web.RouteDef]:
        """What peers may ask, whichever side has opened the connection."""
        name = self._config.node.name
        api = PeerApi(self.identity, name, self._databases, backups, jobs, self._workers)
        return [
            *pair_routes(self._desk),
            *api.routes(),
            *PeriodicApi(self._periodic, self.book, self._positions).peer_routes(),
            *self._look.peer_routes(),
            *DigestsApi(self._config, self._databases).routes(),
        ]

    async def _probe(self, peer: Peer) -> None:
        await ping(self._clients.get(peer))

    async def _dial(self, peer: Peer) -> None:
        await ping_peer(peer, self.identity)


async def _isolated(work: Coroutine[Any, Any, None], name: str) -> None:
    """A bug ends the one piece of work that has it, aloud; the node goes on."""
    try:
        await work
    except Exception:
        log.exception("internal error in %s; the agent goes on", name)


def _ready(checks: Checks, periodic: Periodic) -> Callable[[Asked], Awaitable[list[Check]]]:
    async def ready(asked: Asked) -> list[Check]:
        found = [Check(r.name, r.state != "failed", r.text) for r in await checks.ready()]
        if asked.max_lag_s is not None:
            found.append(Check("lag", *lag_check(periodic, asked.max_lag_s, asked.peer)))
        return found

    return ready
