"""What carries changes from one server to another, as its users set it up.

Each engine has two servers of its own, so that nobody's triggers, slots or settings are in
another's way; their databases begin with equal rows. It owns set-up, holding and releasing the
flow, and saying which programs work for it beside the servers. It refuses to tune: each
engine's own defaults, and the settings of the server that it cannot do without.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, LiteralString, Self

import psycopg
from pgcluster import SUPERUSER, Cluster, installation, literal

from benchlib import periodic_load
from benchlib.agents import DATABASE
from benchlib.link import Link
from benchlib.periodic_probe import Probe
from benchlib.periodic_records import NATIVE, NONE, PGLOGICAL
from benchlib.programs import RunFailed, tail

# fsync stays on; nothing that would start by itself in the middle of a slice
SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}
SLOT = "bench_cost"
NAMES = ", ".join(periodic_load.TABLES)
_START_S = 60.0


class Engine:
    """`with Engine(major, root, scale) as engine:` two servers with the same rows.

    This one catches nothing: it is the yardstick. `root` is a new directory with a short name.
    """

    name: ClassVar[str] = NONE
    settings: ClassVar[dict[str, str]] = {"wal_level": "replica"}

    def __init__(self, major: int, root: Path, scale: int) -> None:
        root.mkdir()
        root.chmod(0o755)
        self.root, self.scale = root, scale
        self.log = root / "program.log"
        settings = SETTINGS | self.server_settings(major)
        self.source, self.target = (
            Cluster(major, durable=True, settings=settings, root=root / end) for end in "ab"
        )
        self.link: Link | None = None

    @classmethod
    def server_settings(cls, major: int) -> dict[str, str]:
        return cls.settings

    def __enter__(self) -> Self:
        try:
            for server in (self.source, self.target):
                server.start()
                periodic_load.load(server, self.scale, self.log)
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
        """End everything; of the servers' files nothing stays."""
        self.disconnect()
        if self.link is not None:
            self.link.close()
        for server in (self.source, self.target):
            server.stop("immediate")
            shutil.rmtree(server.root, ignore_errors=True)

    # --- what differs ---
    def arm(self) -> None:
        """Changes are caught from now on, for somebody who fetches them later."""

    def disarm(self) -> None:
        """What was caught since `arm` may be forgotten, where it holds the server back."""

    def disconnect(self) -> None:
        """End the engine's own programs, if it has any."""

    @property
    def programs(self) -> tuple[int, ...]:
        """Roots of the process trees that work for it beside the servers."""
        return ()

    # --- what does not ---
    @property
    def databases(self) -> list[tuple[Cluster, str]]:
        return [(self.source, DATABASE), (self.target, DATABASE)]

    def probe(self) -> Probe:
        return Probe(self.source.conninfo(DATABASE), [self.target.conninfo(DATABASE)])

    def settle(self) -> None:
        for server in (self.source, self.target):
            periodic_load.settle(server)

    def reach(self, server: Cluster, *, linked: bool) -> str:
        """A keyword string for `server` over TCP, through a link where there is to be one."""
        port = server.port
        if linked:
            self.link = Link(server.port)
            self.link.__enter__()
            port = self.link.port
        where = f"host=127.0.0.1 port={port} user={SUPERUSER} password={server.password}"
        return f"{where} dbname={DATABASE}"


class Carrier(Engine, ABC):
    """An engine that carries. It lives one of two lives.

    Either `arm` and `disarm` around each slice of work whose changes nobody fetches. Or
    `connect` once; then `hold` stops the flow, and `release` lets it go on.
    """

    @abstractmethod
    def connect(self, *, linked: bool = False) -> None:
        """Changes flow; with `linked`, the one connection that crosses takes `self.link`."""

    @abstractmethod
    def hold(self) -> None:
        """Changes are caught and stay where they are."""

    @abstractmethod
    def release(self) -> float:
        """What was held flows again; since when (`perf_counter`)."""


class Native(Carrier):
    """Logical replication of PostgreSQL itself: a publication and a subscription."""

    name = NATIVE
    # a worker that was stopped starts at once, not up to 5 s later: a pause is no work
    settings: ClassVar[dict[str, str]] = {
        "wal_level": "logical",
        "wal_retrieve_retry_interval": "10ms",
    }
    plugin: ClassVar[str] = "pgoutput"

    def arm(self) -> None:
        slot = f"{literal(SLOT)}, {literal(self.plugin)}"
        self.source.psql(f"SELECT pg_create_logical_replication_slot({slot})", DATABASE)

    def disarm(self) -> None:
        self.source.psql(f"SELECT pg_drop_replication_slot({literal(SLOT)})", DATABASE)

    def connect(self, *, linked: bool = False) -> None:
        source = self.reach(self.source, linked=linked)
        self.source.psql(f"CREATE PUBLICATION bench FOR TABLE {NAMES}", DATABASE)
        self.target.psql(
            f"CREATE SUBSCRIPTION bench CONNECTION {literal(source)} PUBLICATION bench"
            " WITH (copy_data = false)",
            DATABASE,
        )
        self._wait()

    def hold(self) -> None:
        self.target.psql("ALTER SUBSCRIPTION bench DISABLE", DATABASE)
        self._wait_for_end()

    def release(self) -> float:
        start = time.perf_counter()
        self.target.psql("ALTER SUBSCRIPTION bench ENABLE", DATABASE)
        return start

    def _wait(self) -> None:
        """Until it streams: what is committed before its slot is there never arrives."""
        _wait(self.source, "SELECT state = 'streaming' FROM pg_stat_replication")

    def _wait_for_end(self) -> None:
        """Until its slot is free: a worker that found it taken would have to try again."""
        _wait(self.source, "SELECT NOT active FROM pg_replication_slots")


class Pglogical(Native):
    """pglogical 2: a provider's node with a replication set, a subscriber's subscription."""

    name = PGLOGICAL
    settings: ClassVar[dict[str, str]] = {
        "wal_level": "logical",
        "shared_preload_libraries": "pglogical",
    }
    plugin = "pglogical_output"

    @classmethod
    def server_settings(cls, major: int) -> dict[str, str]:
        """Minor versions since 15.19 decode through approved libraries only."""
        told = subprocess.run(
            [installation(major).bindir / "postgres", "--describe-config"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        if "output_plugin_libraries" not in told:
            return cls.settings
        approved = "pgoutput, test_decoding, pglogical_output"
        return cls.settings | {"output_plugin_libraries": approved}

    def connect(self, *, linked: bool = False) -> None:
        source = self.reach(self.source, linked=linked)
        ends = ((self.source, "provider", source), (self.target, "subscriber", self._target()))
        for server, node, where in ends:
            server.psql("CREATE EXTENSION pglogical", DATABASE)
            self._call(server, f"create_node({literal(node)}, {literal(where)})")
        self._call(self.source, "replication_set_add_all_tables('default', '{public}')")
        self._call(
            self.target,
            f"create_subscription('bench', {literal(source)},"
            " synchronize_structure := false, synchronize_data := false)",
        )
        self._wait()

    def hold(self) -> None:
        self._call(self.target, "alter_subscription_disable('bench', immediate := true)")
        self._wait_for_end()

    def release(self) -> float:
        start = time.perf_counter()
        self._call(self.target, "alter_subscription_enable('bench', immediate := true)")
        return start

    def _target(self) -> str:
        return self.reach(self.target, linked=False)

    def _call(self, server: Cluster, what: str) -> None:
        server.psql(f"SELECT pglogical.{what}", DATABASE)


def _wait(server: Cluster, asked: LiteralString) -> None:
    """Ask until the first row says true."""
    deadline = time.monotonic() + _START_S
    with psycopg.connect(server.conninfo(DATABASE), autocommit=True) as session:
        while session.execute(asked).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise RunFailed("replication did not start", tail(server.log))
            time.sleep(0.005)
