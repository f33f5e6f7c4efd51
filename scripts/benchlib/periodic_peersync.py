"""peersync between two servers or more, as an operator would set it up.

It owns agents that are paired, and their membership; with `arm`, the triggers alone, without
any agent. It refuses to reach into peersync, but for that: what only catches and publishes has
no command line.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import asyncpg
from pgcluster import Cluster

from benchlib import periodic_load
from benchlib.agents import DATABASE, Node, Pair
from benchlib.link import Shape
from benchlib.periodic_engines import SETTINGS, Carrier
from benchlib.periodic_probe import Probe
from benchlib.periodic_records import PEERSYNC
from peersync.core.patterns import Patterns
from peersync.postgres.log.capture import enrol
from peersync.postgres.log.members import found
from peersync.postgres.migrate import migrate
from peersync.postgres.pool import PINNED

_PUBLISH = "SELECT published FROM peersync.publish()"


class Peersync(Carrier):
    """Two agents; the second one has joined the database of the first."""

    name = PEERSYNC
    settings: ClassVar[dict[str, str]] = {"wal_level": "replica"}
    _armed = False
    pair: Pair | None = None

    def arm(self) -> None:
        """Its triggers; no agent runs."""
        if not self._armed:
            asyncio.run(_alone(self.source, _enrol))
            self._armed = True

    def connect(self, *, linked: bool = False) -> None:
        home = self.root / "agents"
        shape = Shape() if linked else None
        self.pair = Pair(self.source, self.target, DATABASE, home, shape)
        self.pair.__enter__()
        self.link = self.pair.link
        join(self.pair.target, self.pair.source)

    def disconnect(self) -> None:
        if self.pair is not None:
            if self.pair.source.process is not None:
                os.kill(self.pair.source.pid, signal.SIGCONT)
            self.pair.close()
            shutil.rmtree(self.root / "agents", ignore_errors=True)  # keys
            self.pair = None

    def hold(self) -> None:
        """The target fetches nothing, and the source's agent sleeps: not even publishing."""
        assert self.pair is not None
        self.pair.target.command("sync", "pause", self.pair.source.name)
        os.kill(self.pair.source.pid, signal.SIGSTOP)

    def release(self) -> float:
        """The clock starts where the source's agent wakes up: a command line is no work."""
        assert self.pair is not None
        self.pair.target.command("sync", "resume", self.pair.source.name)
        start = time.perf_counter()
        os.kill(self.pair.source.pid, signal.SIGCONT)
        return start

    @property
    def programs(self) -> tuple[int, ...]:
        return (self.pair.source.pid, self.pair.target.pid) if self.pair else ()

    # --- publishing alone ---
    def publish_times(self, transactions: int, ones: int) -> tuple[float, float, float]:
        """Seconds of publishing so many at once; the median of one at a time; of nothing."""
        periodic_load.backlog(self.source, transactions * periodic_load.CHANGES, self.log)

        async def measure(conn: asyncpg.Connection) -> tuple[float, float, float]:
            many = await _published(conn)
            single, empty = list[float](), list[float]()
            for _ in range(ones):
                await conn.execute("UPDATE pgbench_tellers SET tbalance = 1 WHERE tid = 1")
                single.append(await _published(conn))
                empty.append(await _published(conn))
            return many, sorted(single)[ones // 2], sorted(empty)[ones // 2]

        return asyncio.run(_alone(self.source, measure))


class Mesh:
    """`with Mesh(major, root, scale, count) as mesh:` so many databases that all exchange all.

    They are on one server, which keeps the number of its processes within a small machine.
    """

    def __init__(self, major: int, root: Path, scale: int, count: int) -> None:
        root.mkdir()
        root.chmod(0o755)
        self.root, self.scale, self.count = root, scale, count
        self.log = root / "program.log"
        settings = SETTINGS | Peersync.settings
        self.server = Cluster(major, durable=True, settings=settings, root=root / "a")
        self.nodes = [
            Node(f"n{i}", self.server, DATABASE if i == 0 else f"{DATABASE}{i}", root / f"n{i}")
            for i in range(count)
        ]

    def __enter__(self) -> Self:
        try:
            self.server.start()
            periodic_load.load(self.server, self.scale, self.log)
            for node in self.nodes[1:]:
                self.server.createdb(node.database, template=DATABASE)
            for node in self.nodes:
                node.init()
                node.start()
            self._pair()
            for node in self.nodes[1:]:
                join(node, self.nodes[0])
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        self.server.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def databases(self) -> list[tuple[Cluster, str]]:
        return [(self.server, node.database) for node in self.nodes]

    def probe(self) -> Probe:
        first, *others = (self.server.conninfo(node.database) for node in self.nodes)
        return Probe(first, others)

    def _pair(self) -> None:
        for i, node in enumerate(self.nodes):
            for other in self.nodes[:i]:
                invitation = other.command("peer", "invite").strip().splitlines()[-1]
                node.command("peer", "join", invitation.strip())


def join(node: Node, peer: Node) -> None:
    node.command("join", peer.name, "--database", DATABASE, "--yes", "--progress", "none")


async def _alone(
    server: Cluster, what: Callable[[asyncpg.Connection], Awaitable[tuple[float, float, float]]]
) -> tuple[float, float, float]:
    conn = await asyncpg.connect(
        server.url(DATABASE), server_settings={**PINNED, "search_path": "pg_catalog, public"}
    )
    try:
        return await what(conn)
    finally:
        await conn.close()


async def _enrol(conn: asyncpg.Connection) -> tuple[float, float, float]:
    await migrate(conn)
    await found(conn, "b" * 32, "bench")
    await enrol(conn, Patterns(["*"]), lock_timeout_s=10.0)
    return 0.0, 0.0, 0.0


async def _published(conn: asyncpg.Connection) -> float:
    start = time.perf_counter()
    await conn.fetch(_PUBLISH)
    return time.perf_counter() - start
