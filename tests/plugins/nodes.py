"""Whole nodes for the tests: an agent as a process of its own, driven only by its commands.

A `Node` has a database, a configuration and an agent that can be started, stopped and
killed; `run` types a command as a user would and gives back what it printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from pgcluster import free_port as free_port  # for tests, too

from peersync.config.initial import write_initial
from peersync.postgres import pool
from peersync.postgres.conninfo import resolve
from peersync.postgres.migrate import migrate
from peersync.transport.identity import create_identity, load_identity
from peersync.transport.peers import ALL_DATABASES, DEFAULT_RIGHTS, Peer, PeerBook, Rights
from tests.plugins import forks, least
from tests.plugins.clusters import Database, MakeDatabase, Pair

PROGRAM = [sys.executable, "-m", "peersync.cli.main"]
START_S = 30.0
RUN_S = 120.0


@dataclass
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.strip().splitlines()[-1])


class Failed(AssertionError):
    pass


@dataclass
class Node:
    """One node. `settings` are lines that are added to its configuration.

    Its processes are forked (see plugins.forks), but for a `fresh` one's: there a test looks
    at what only a program started anew has, its command line or its memory.
    """

    name: str
    database: Database
    home: Path
    database_name: str = "shop"
    settings: str = ""
    conninfo: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    admin: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None
    peers: list[Node] = field(default_factory=list)
    least: bool = False
    fresh: bool = False
    _ending: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        return self.home / "peersync.toml"

    @property
    def log(self) -> str:
        return (self.home / "agent.log").read_text(errors="replace")

    @property
    def spool(self) -> Path:
        return self.home / "state" / "spool"

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    def init(self) -> None:
        """What `peersync init` does, which has tests of its own, without starting a process."""
        if given := least.conninfo(self):
            self.conninfo, self.least = given, True
        conninfo = self.conninfo or self.database.conninfo()
        write_initial(
            self.config,
            node={
                "name": self.name,
                "listen": self.listen,
                "admin": self.admin,
                "socket": str(self.home / "s"),
                "state_dir": str(self.state_dir),
            },
            databases={self.database_name: {"conninfo": conninfo}},
        )
        create_identity(self.state_dir, self.name)
        asyncio.run(_prepare(conninfo))
        if self.settings:
            self.config.write_text(self.config.read_text() + "\n" + self.settings)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PEERSYNC_CONFIG": str(self.config), **self.env}
        if self.fresh or not forks.can_fork(env):
            return subprocess.Popen([*PROGRAM, *arguments], env=env, **options)
        return forks.Forked(arguments, env=env, **options)

    def run(
        self, *arguments: str, check: bool = True, timeout_s: float = RUN_S, text: str | None = None
    ) -> Result:
        """Types a command; Failed when `check` and its exit code is not 0."""
        if arguments[0] in least.SYNCS:
            self.grant(*least.SYNCS[arguments[0]])
        process = self.popen(
            *arguments,
            stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(text.encode() if text else None, timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        result = Result(process.returncode, out.decode(), err.decode())
        if check and result.code:
            raise Failed(f"{arguments}: exit code {result.code}\n{result.out}\n{result.err}")
        return result

    def start(self) -> None:
        """Starts the agent, and waits until it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        with (self.home / "agent.log").open("ab") as log:
            self.process = self.popen("agent", stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the agent of {self.name} did not start:\n{self.log}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        host, _, port = self.admin.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def stop(self) -> int:
        """SIGTERM; gives the agent's exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL: the agent has no chance to clean up."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.tell_to_end()
        if self.process is not None:
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def tell_to_end(self) -> None:
        """So that several end at the same time, each `close` then waits for its own."""
        process = self.process
        if process is not None and process is not self._ending and process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            self._ending = process

    # --- what a test asks of it -----------------------------------------------------------
    def pull(self, peer: str, *options: str, check: bool = True) -> Result:
        """`peersync pull PEER --yes --json`; `.json` is the final object."""
        return self.run("pull", peer, "--yes", "--json", *options, check=check)

    def grant(self, own: str = "pull", peers: str = "push") -> None:
        """Where nodes have the least rights: those for the tables that there are now."""
        least.grant(self, own)
        for peer in self.peers:
            least.grant(peer, peers)

    def invite(self) -> str:
        return self.run("peer", "invite", "-q").out.split()[-1]

    def pair_with(self, other: Node) -> None:
        """Both know each other, and the other may bring its schema here."""
        self.run("peer", "join", other.invite())
        self.peers.append(other)
        self.run("peer", "allow", other.name, "--schema")


async def _prepare(conninfo: str) -> None:
    database = pool.Database("init", resolve(conninfo))
    async with database.connect("init", what="preparing the database of a test") as conn:
        await migrate(conn)


def introduce(target: Node, source: Node) -> None:
    """Like `pair_with`, of nodes whose agents do not run: the peer books are written."""
    schema = {ALL_DATABASES: Rights(pull=True, push=True, schema=True)}
    _remember(source, target, None)
    _remember(target, source, schema)
    target.peers.append(source)


def _remember(node: Node, peer: Node, rights: dict[str, Rights] | None) -> None:
    own, other = load_identity(node.state_dir), load_identity(peer.state_dir)
    known = Peer(
        name=peer.name,
        node_id=other.node_id,
        cert_pem=other.cert_pem,
        address=peer.env.get("PEERSYNC_NODE_ADVERTISE", peer.listen),
        added_at="2026-01-01T00:00:00+00:00",
        rights=rights or {ALL_DATABASES: DEFAULT_RIGHTS},
    )
    asyncio.run(_store(PeerBook(node.state_dir / "peers.json", own.node_id), known))


async def _store(book: PeerBook, peer: Peer) -> None:
    await book.store(peer)


class MakeNode(Protocol):
    def __call__(
        self, name: str, database: Database, *, settings: str = "", start: bool = True,
        conninfo: str | None = None, env: Mapping[str, str] | None = None,
        reachable: bool = True,
    ) -> Node: ...  # fmt: skip


class TwoNodes:
    """server-a has the data, server-b pulls it."""

    def __init__(self, source: Node, target: Node) -> None:
        self.source, self.target = source, target

    def __iter__(self) -> Iterator[Node]:
        return iter((self.source, self.target))


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """A factory of nodes; their agents are ended with the test."""
    made: list[Node] = []

    def make(
        name: str,
        database: Database,
        *,
        settings: str = "",
        start: bool = True,
        conninfo: str | None = None,
        env: Mapping[str, str] | None = None,
        reachable: bool = True,
    ) -> Node:
        home = tmp_path / name
        home.mkdir()
        node = Node(name, database, home, settings=settings, conninfo=conninfo, env=dict(env or {}))
        if not reachable:  # what it tells others is an address where nobody listens
            node.env["PEERSYNC_NODE_ADVERTISE"] = f"127.0.0.1:{free_port()}"
        made.append(node)
        node.init()
        if start:
            node.start()
        return node

    yield make
    for node in made:
        node.tell_to_end()
    for node in made:
        node.close()


def _paired(source: Node, target: Node) -> TwoNodes:
    introduce(target, source)
    for node in (source, target):
        node.launch()
    for node in (source, target):
        node.wait_until_ready()
    return TwoNodes(source, target)


@pytest.fixture
def two_nodes(source_target: Pair, make_node: MakeNode) -> TwoNodes:
    """Two paired nodes with running agents, once for each pair of `PEERSYNC_PAIRS`."""
    source = make_node("server-a", source_target.source, start=False)
    return _paired(source, make_node("server-b", source_target.target, start=False))


@pytest.fixture
def pair_18(make_database: MakeDatabase, make_node: MakeNode) -> TwoNodes:
    """Two paired nodes for what does not depend on the versions of the servers."""
    source = make_node("server-a", make_database(18, migrated=True), start=False)
    target = make_node("server-b", make_database(18, nth=1, migrated=True), start=False)
    return _paired(source, target)
