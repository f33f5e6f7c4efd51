"""`peersync periodic`: the loop as a process of its own, while the agent serves the peers.

Owns no listener: it dials peers at their addresses, so what only peers can open (reverse lines)
is the agent's. The peer book is the agent's file; it is read again when it changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from peersync import __version__
from peersync.agent.clients import Clients
from peersync.agent.databases import Databases
from peersync.agent.periodic.loop import Periodic
from peersync.agent.systemd import Notifier
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

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        """Reads the identity; ConfigError where it is missing or damaged. Blocks."""
        self._config = config
        self._environ = environ
        self._state_dir = Path(config.node.state_dir)
        self._identity: Identity = load_identity(self._state_dir)
        self._notifier = Notifier(environ, os.getpid())
        self._workers = Workers(pumps=1)
        self._periodic: Periodic | None = None
        for module in query_modules():
            queries(module)  # read now: the loop must not wait for a file later

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self._serve(stop)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._workers.close()

    async def _serve(self, stop: asyncio.Event) -> None:
        self._notifier.send("READY=1")
        log.info("periodic sync of node %s, version %s", self._config.node.name, __version__)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._notifier.keep(self._words), name="systemd"),
                    group.create_task(self._loops(), name="loops"),
                ]
                await stop.wait()
                self._notifier.send("STOPPING=1")
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise root_error(errors) from errors

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
        clients = Clients(self._config, self._identity, book)
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
                running = group.create_task(self._periodic.run(), name="periodic")
                await self._book_changed(version)
                running.cancel()
        finally:
            await clients.close()

    async def _book_changed(self, version: int) -> None:
        while await self._workers.run(self._book_version) == version:  # noqa: ASYNC110  # a file
            await asyncio.sleep(LOOK_S)

    def _book_version(self) -> int:
        try:
            return (self._state_dir / "peers.json").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _words(self) -> str:
        if self._periodic is None:
            return "starting"
        links = [link for hub in self._periodic.hubs.values() for link in hub.links.values()]
        failing = [link for link in links if link.trouble.count]
        return f"{len(links)} links, {len(failing)} of them failing"
