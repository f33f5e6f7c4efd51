"""Whole clusters, and what is done to them while people write on every node.

A `Cluster` has real agents on real databases, with a TCP proxy in each direction of each link.
`plan` draws faults from a seed, `Nemesis` does them and takes them back. The same seed gives the
same plan; what the processes make of it is not the same twice, so a failure prints both, and
keeps a dump of every database beside the agents' logs.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psycopg

from peersync.core.errors import PeerUnreachable
from peersync.postgres.log.prune import prune
from peersync.transport.identity import load_identity
from peersync.transport.peers import ALL_DATABASES, Peer, PeerBook, Rights
from tests.fault.rig import ask, eventually
from tests.plugins.clusters import Database
from tests.plugins.nodes import MakeNode, Node, Result
from tests.plugins.proxy import Proxy

SEED = int(os.environ.get("PEERSYNC_NEMESIS_SEED", "0"))
SECONDS = float(os.environ.get("PEERSYNC_NEMESIS_SECONDS", "0"))
Link = tuple[int, int]  # who takes, from whom
PAIR, CHAIN, MESH = [(0, 1)], [(0, 1), (1, 2)], [(0, 1), (1, 2), (0, 2)]
RING = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
STAR = [(0, 1), (0, 2), (0, 3), (0, 4)]
_RIGHTS = {ALL_DATABASES: Rights(pull=True, push=True, schema=True)}
_SETTINGS = {
    "PEERSYNC_PERIODIC_BEAT_S": "0.5",
    "PEERSYNC_PERIODIC_INTERVAL_S": "2",
    "PEERSYNC_PERIODIC_LOCK_TIMEOUT_S": "1",
    "PEERSYNC_NETWORK_CONNECT_TIMEOUT_S": "2",
    "PEERSYNC_NETWORK_READ_TIMEOUT_S": "3",
    "PEERSYNC_NETWORK_RETRY_MAX_S": "0.5",
    "PEERSYNC_NETWORK_REVERSE_LINES": "false",  # nothing shall get round the proxies
}
_MEMBER = "takes part in periodic sync already"
_SESSIONS = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'peersync/%'"""


@dataclass
class Cluster:
    """Nodes by number. `edges` are the pairs that know each other; both take from each other."""

    nodes: list[Node]
    edges: list[Link]
    links: dict[Link, Proxy]
    home: Path

    @property
    def members(self) -> range:
        return range(len(self.nodes))

    def connect(self, node: int, **options: Any) -> psycopg.Connection[Any]:
        """A user's session: what its commits acknowledge has to outlive a crash of the server."""
        conninfo = self.nodes[node].database.conninfo() + " connect_timeout=5"
        session = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, **options)
        session.execute("SET synchronous_commit = on; SET lock_timeout = '30s'")
        return session

    def rows(self, node: int, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self.connect(node) as session:
            return session.execute(query, arguments or None).fetchall()

    def heal(self) -> None:
        """All links pass everything, all servers and agents run."""
        for proxy in self.links.values():
            proxy.heal()
        for node in self.nodes:
            node.database.cluster.start()
            if node.process is None:
                launch(node)
        for node in self.nodes:
            eventually(f"{node.name} answers", lambda n=node: answers(n), 60)  # type: ignore[misc]

    def settle(self, limit_s: float = 90.0) -> None:
        """`sync now --wait` on every node; again, until what is relayed has come to the last."""
        for node in self.nodes:
            node.run("sync", "now", "--wait", "--timeout", str(limit_s))
        request = {"wait": True, "timeoutS": limit_s}
        for _ in range(len(self.nodes) - 2):
            for node in self.nodes:
                ask(node, "POST", "/api/admin/sync/now", request)

    def dump(self) -> None:
        """Everything that a failure can be understood from, beside the agents' logs."""
        for node in self.nodes:
            database = node.database
            database.cluster.start()
            program = database.cluster.bindir / "pg_dump"
            with (node.home / "dump.sql").open("wb") as out:
                subprocess.run([program, "-d", database.conninfo()], stdout=out, check=False)


def build(
    stack: ExitStack, make_node: MakeNode, databases: Sequence[Database], edges: list[Link]
) -> Cluster:
    """Nodes that know each other through proxies; their agents run, nobody is a member yet."""
    nodes = [
        make_node(f"server-{letter}", database, start=False, env=_SETTINGS)
        for letter, database in zip("abcde", databases, strict=False)
    ]
    links = {}
    for one, other in edges:
        for taker, giver in ((one, other), (other, one)):
            host, _, port = nodes[giver].listen.rpartition(":")
            links[taker, giver] = stack.enter_context(Proxy(host, int(port)))
    cluster = Cluster(nodes, edges, links, nodes[0].home.parent)
    for number in cluster.members:
        _introduce(cluster, number)
    cluster.heal()
    return cluster


def _introduce(cluster: Cluster, number: int) -> None:
    """Writes the node's peer book: every link has an address of its own, that of its proxy."""
    state = cluster.nodes[number].home / "state"
    book = PeerBook(state / "peers.json", load_identity(state).node_id)
    for (taker, giver), proxy in cluster.links.items():
        if taker == number:
            other = cluster.nodes[giver]
            identity = load_identity(other.home / "state")
            peer = Peer(
                name=other.name,
                node_id=identity.node_id,
                cert_pem=identity.cert_pem,
                address=proxy.address,
                added_at="2026-01-01T00:00:00Z",
                rights=_RIGHTS,
            )
            asyncio.run(book.store(peer))


def join_all(cluster: Cluster, joined: Callable[[int], None], upto: int | None = None) -> None:
    """Every node but the first joins through a member that it knows; `joined` is told of each.

    `upto`: nodes from this number on do not join now.
    """
    members, wanted = {0}, set(list(cluster.members)[:upto])
    joined(0)
    while members != wanted:
        for one, other in cluster.edges:
            for new, sponsor in ((one, other), (other, one)):
                if sponsor in members and new in wanted - members:
                    _join(cluster.nodes[new], cluster.nodes[sponsor].name)
                    members.add(new)
                    joined(new)


def _join(new: Node, sponsor: str) -> None:
    """Types `join`, and once more when the sponsor was too slow for these short timeouts."""

    def joined() -> bool:
        found = new.run("join", sponsor, "--yes", "--json", check=False)
        assert found.code in (0, PeerUnreachable.exit_code) or _MEMBER in found.err, found
        return found.code != PeerUnreachable.exit_code

    eventually(f"{new.name} joins through {sponsor}", joined, 60)


def join_anyhow(cluster: Cluster, new: int, over: threading.Event) -> Result:
    """Types `join` again and again, through one sponsor, as somebody would to whom it fails."""
    sponsor = next(giver for taker, giver in cluster.links if taker == new)
    while True:
        last = over.is_set()
        name = cluster.nodes[sponsor].name
        found = cluster.nodes[new].run("join", name, "--yes", check=False)
        if found.code == 0 or _MEMBER in found.err or last:
            return found
        over.wait(0.5)


def launch(node: Node) -> None:
    """Starts an agent without waiting for it."""
    with (node.home / "agent.log").open("ab") as log:
        node.process = node.popen("agent", stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def answers(node: Node) -> bool:
    assert node.process is not None
    code = node.process.poll()
    assert code is None, f"the agent of {node.name} ended by itself, exit code {code}:\n{node.log}"
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(node.home / "s")) == 0


# --- what is done ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Fault:
    """`node` or `link` is whom it meets, for `seconds` from `at` on."""

    at: float
    name: str
    node: int
    link: Link
    seconds: float

    def __str__(self) -> str:
        where = f"{self.link[0]} from {self.link[1]}" if self.name in ON_LINKS else str(self.node)
        return f"{self.at:5.1f} s: {self.name} {where}, {self.seconds:.1f} s"


ON_LINKS = {"cut": 4, "refuse": 3, "part": 3, "slow": 2, "late": 1, "hole": 3, "flip": 2}
ON_AGENTS = {"kill": 5, "pause": 3, "stop": 1, "usurp": 2}
ON_DATABASES = {"terminate": 4, "skew": 3, "prune": 3}
ANYTHING = {**ON_LINKS, **ON_AGENTS, **ON_DATABASES}


def plan(
    chance: random.Random, cluster: Cluster, kinds: dict[str, int], seconds: float
) -> list[Fault]:
    """Faults in the order of their beginning; an agent or link has one at a time."""
    faults: list[Fault] = []
    free: dict[object, float] = {}
    at = 0.5
    while at < seconds:
        name = chance.choices(list(kinds), list(kinds.values()))[0]
        node, link = chance.choice(cluster.members), chance.choice(list(cluster.links))
        length = chance.uniform(0.3, min(10.0, seconds / 3))
        whom: object = link if name in ON_LINKS else node if name in ON_AGENTS else name
        if free.get(whom, 0.0) <= at:
            faults.append(Fault(at, name, node, link, length))
            free[whom] = at + length + 0.5
        at += chance.uniform(0.1, 1.2)
    return faults


@dataclass
class Nemesis:
    """Does what is planned; `step` is told what is done when."""

    cluster: Cluster
    chance: random.Random
    step: Callable[[str], None]
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, faults: list[Fault], seconds: float) -> None:
        began = time.monotonic()
        events = [(f.at, f, "begin") for f in faults]
        events += [(min(f.at + f.seconds, seconds), f, "end") for f in faults]
        for at, fault, what in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            act = getattr(self, f"{what}_{fault.name}", None)
            if act is not None:
                self.step(f"{what:5} {fault}")
                act(fault)

    def close(self) -> None:
        for helper in self.helpers:
            helper.kill()
            helper.wait()

    def __enter__(self) -> Nemesis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _node(self, fault: Fault) -> Node:
        return self.cluster.nodes[fault.node]

    def _both(self, fault: Fault) -> Iterator[Proxy]:
        yield self.cluster.links[fault.link]
        yield self.cluster.links[fault.link[1], fault.link[0]]

    def _sql(self, fault: Fault, *statements: str) -> None:
        """What fails is not done: the server may be down, a user may hold the lock."""
        with suppress(psycopg.Error), self.cluster.connect(fault.node) as session:
            for statement in statements:
                session.execute(statement)

    # agents
    def begin_kill(self, fault: Fault) -> None:
        self._node(fault).kill()

    def end_kill(self, fault: Fault) -> None:
        launch(self._node(fault))

    def begin_stop(self, fault: Fault) -> None:
        node = self._node(fault)
        eventually(f"{node.name} answers", lambda: answers(node))  # before, it can't stop well
        assert node.stop() == 0, node.log

    end_stop = end_kill

    def begin_pause(self, fault: Fault) -> None:
        process = self._node(fault).process
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    def end_pause(self, fault: Fault) -> None:
        process = self._node(fault).process
        assert process is not None
        process.send_signal(signal.SIGCONT)

    def begin_usurp(self, fault: Fault) -> None:
        """The loop goes to a process of its own; the agent comes back and finds it taken."""
        node = self._node(fault)
        node.kill()
        with (node.home / "periodic.log").open("ab") as log:
            self.helpers.append(node.popen("periodic", stdout=log, stderr=log))
        time.sleep(0.5)
        launch(node)

    def end_usurp(self, fault: Fault) -> None:
        self.close()
        self.helpers.clear()

    # links
    def begin_cut(self, fault: Fault) -> None:
        self.cluster.links[fault.link].reset_every = self.chance.choice((3_000, 20_000, 100_000))
        self.cluster.links[fault.link].cut()

    def end_cut(self, fault: Fault) -> None:
        for proxy in self._both(fault):
            proxy.heal()

    def begin_refuse(self, fault: Fault) -> None:
        self.cluster.links[fault.link].refuse()

    def begin_part(self, fault: Fault) -> None:
        for proxy in self._both(fault):
            proxy.refuse()

    def begin_slow(self, fault: Fault) -> None:
        self.cluster.links[fault.link].bytes_s = 10_000

    def begin_late(self, fault: Fault) -> None:
        self.cluster.links[fault.link].delay_s = 0.3

    def begin_hole(self, fault: Fault) -> None:
        proxy = self.cluster.links[fault.link]
        proxy.hole_after = proxy.down_bytes + self.chance.randrange(5_000)

    def begin_flip(self, fault: Fault) -> None:
        proxy = self.cluster.links[fault.link]
        proxy.flip_at = proxy.down_bytes + self.chance.randrange(20_000)

    end_refuse = end_part = end_slow = end_late = end_hole = end_flip = end_cut

    # databases
    def begin_terminate(self, fault: Fault) -> None:
        self._sql(fault, _SESSIONS)

    def begin_skew(self, fault: Fault) -> None:
        """The clock that stamps this database's changes jumps."""
        skew = self.chance.uniform(-40, 40)
        self._sql(
            fault,
            "SET lock_timeout = '2s'",
            "ALTER TABLE peersync.change ALTER COLUMN at"
            f" SET DEFAULT clock_timestamp() + interval '{skew:.3f} s'",
        )

    def begin_prune(self, fault: Fault) -> None:
        """As the agent does every minute."""
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            asyncio.run(self._prune(self._node(fault).database))

    async def _prune(self, database: Database) -> None:
        conn = await asyncpg.connect(database.url())
        try:
            await prune(conn)
        finally:
            await conn.close(timeout=5)

    def begin_crash(self, fault: Fault) -> None:
        """The server loses its memory; it does what a power cut would make it do."""
        self._node(fault).database.cluster.restart("immediate")
