"""`peersync periodic`: the loop as a process of its own, while the agent serves the peers.

Owns no listener: it dials peers at their addresses, so what only peers can open (reverse lines)
is the agent's. The peer book is the agent's file; it is read again when it changes. SIGHUP reads
the configuration again, as it does of an agent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from peersync import __version__
from peersync.agent.clients import Clients
from peersync.agent.databases import Databases
from peersync.agent.farewell import Farewell
from peersync.agent.orchestration.samples import LinkSamples
from peersync.agent.periodic.loop import Periodic
from peersync.agent.reload import Reloader
from peersync.agent.systemd import Notifier, Pulse, status_line
from peersync.agent.workers import Workers
from peersync.config.model import Config
from peersync.core.errors import root_error
from peersync.postgres.sqlfiles import queries, query_modules
from peersync.transport.identity import Identity, load_identity
from peersync.transport.peers import PeerBook

log = logging.getLogger("peersync.periodic")

LOOK_S = 5.0


class Process:
    """`run` ends when it is told to stop; Locked where an agent runs the loop already."""

    def __init__(
        self, config: Config, environ: Mapping[str, str], read_config: Callable[[], Config]
    ) -> None:
        """Reads the identity; ConfigError where it is missing or damaged. Blocks."""
        self._config = config
        self._environ = environ
        self._state_dir = Path(config.node.state_dir)
        self._identity: Identity = load_identity(self._state_dir)
        self._notifier = Notifier(environ, os.getpid())
        self._workers = Workers(pumps=1)
        self._periodic: Periodic | None = None
        self._clients: Clients | None = None
        self._reloader = Reloader(config, read_config, self._notifier, self._renew)
        self._pulse = Pulse("looking at the peer book")
        for module in query_modules():
            queries(module)  # read now: the loop must not wait for a file later

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        try:
            await self._serve(stop)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
            self._workers.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        self._notifier.ready()
        log.info("periodic sync of node %s, version %s", self._config.node.name, __version__)
        farewell = Farewell()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._notifier.keep(self._words, self._pulses), name="systemd"
                    ),
                    group.create_task(self._reloader.run(self._workers), name="reload"),
                    group.create_task(self._loops(), name="loops"),
                ]
                await stop.wait()
                self._notifier.stopping()
                farewell.begin()
                log.info("stopping")
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors
        finally:
            farewell.end()

    async def _loops(self) -> None:
        """One loop after the other, each with the peers that there are."""
        databases = Databases(self._config, self._environ)
        try:
            while True:
                version = await self._workers.run(self._book_version)
                await self._loop(databases, version)
        finally:
            await databases.close()

    async def _loop(self, databases: Databases, version: int) -> None:
        """Until the peer book has another version."""
        path = self._state_dir / "peers.json"
        book = await self._workers.run(PeerBook, path, self._identity.node_id)
        self._clients = clients = Clients(self._config, self._identity, book)
        self._periodic = Periodic(
            self._config,
            databases,
            book,
            clients.get,
            self._identity.node_id,
            self._state_dir,
            self._workers,
            strict=True,
            serves=False,
        )
        try:
            async with asyncio.TaskGroup() as group:
                samples = LinkSamples(databases, self._periodic)
                tasks = [
                    group.create_task(self._periodic.run(), name="periodic"),
                    group.create_task(samples.run(), name="samples"),
                ]
                await self._book_changed(version)
                for task in tasks:
                    task.cancel()
        finally:
            await clients.close()

    async def _book_changed(self, version: int) -> None:
        while await self._look() == version:  # noqa: ASYNC110  # a file
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> int:
        self._pulse.turn()
        version = await self._workers.run(self._book_version)
        self._pulse.waits()
        return version

    def _book_version(self) -> int:
        try:
            return (self._state_dir / "peers.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _renew(self) -> None:
        if self._clients is not None:
            self._clients.renew()

    def _pulses(self) -> list[Pulse]:
        return [self._pulse, *(self._periodic.pulses() if self._periodic is not None else ())]

    def _words(self) -> str:
        return status_line([], self._periodic.words() if self._periodic is not None else "starting")
