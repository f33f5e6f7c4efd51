"""Two nodes with a proxy between them, stopped at an exact step and looked at from outside.

A step is held by what holds it in real life: a lock in a database, a network that swallows.
Nothing here sleeps and hopes. The source's rows are made once for a whole file; the target
has some of them, with old values, and gets them anew for every test.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pgcluster
import psycopg

from tests.plugins.clusters import Database
from tests.plugins.nodes import Node, free_port
from tests.plugins.proxy import Proxy
from tests.plugins.waiting import eventually

ROWS, OLD_ROWS = 30_000, 500
FINAL = ("done", "partly", "failed", "cancelled")
_SETTINGS = {
    "PEERSYNC_FULL_SYNC_CHUNK_MIB": "1",
    "PEERSYNC_FULL_SYNC_IN_FLIGHT": "1",
    "PEERSYNC_NETWORK_RETRY_MAX_S": "0.5",
    "PEERSYNC_NETWORK_CONNECT_TIMEOUT_S": "3",
    "PEERSYNC_NETWORK_REVERSE_LINES": "false",  # nothing shall get round the proxy
}
SOURCE_ROWS = f"""
    CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL, pad text NOT NULL);
    INSERT INTO items SELECT i, 1, md5(i::text) || md5((-i)::text) || md5('x' || i)
        || md5('y' || i) || md5('z' || i) || md5('u' || i) FROM generate_series(1, {ROWS}) i;
    CREATE TABLE notes (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO notes SELECT i, 1 FROM generate_series(1, 100) i;
    ANALYZE;"""
TARGET_ROWS = f"""
    DROP TABLE IF EXISTS items, notes, extra CASCADE;
    CREATE TABLE items (id int PRIMARY KEY, v int NOT NULL, pad text NOT NULL);
    INSERT INTO items SELECT i, 0, 'old' FROM generate_series(1, {OLD_ROWS}) i;
    CREATE TABLE notes (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO notes VALUES (1, 0);"""
OLD = f"{OLD_ROWS}:0|1:0"
NEW = f"{ROWS}:{ROWS}|100:100"
STATE = (
    "SELECT (SELECT count(*) || ':' || coalesce(sum(v), 0) FROM items),"
    " (SELECT count(*) || ':' || coalesce(sum(v), 0) FROM notes)"
)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Refused(AssertionError):
    """The agent answered with a problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status}: {problem}")
        self.status, self.problem = status, problem


def ask(node: Node, method: str, path: str, body: object = None) -> Any:
    """What the command line asks of its agent, without the time that a process needs."""
    connection = _Unix(node.home / "s")
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        answer = connection.getresponse()
        found = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status >= 400:
        raise Refused(answer.status, found)
    return found


@dataclass
class Rig:
    """server-a gives through `proxy`, server-b takes."""

    source: Node
    target: Node
    proxy: Proxy
    extra: list[Node] = field(default_factory=list)
    method: str = "auto"
    books: dict[Path, bytes] = field(default_factory=dict)

    def keep_books(self) -> None:
        """Remembers who knows whom, and who may do what."""
        for node in (self.source, self.target):
            path = node.home / "state" / "peers.json"
            self.books[path] = path.read_bytes()

    def restore_books(self) -> None:
        for path, content in self.books.items():
            path.write_bytes(content)

    # --- jobs ---------------------------------------------------------------------------
    def begin(self, node: Node | None = None) -> str:
        """Starts a pull; gives its id."""
        request = {"action": "pull", "peer": self.source.name, "database": "shop"}
        request["method"] = self.method
        started = ask(node or self.target, "POST", "/api/admin/sync/full-sync", request)
        job: str = started["job"]
        return job

    def view(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.target, "GET", f"/api/admin/jobs/{job}")
        return found

    def end(self, job: str, limit_s: float = 60.0) -> dict[str, Any]:
        """The job's view when it has ended."""

        def ended() -> dict[str, Any] | None:
            view = self.view(job)
            return view if view["state"] in FINAL else None

        found: dict[str, Any] = eventually(f"job {job} ends", ended, limit_s)
        return found

    def done(self, job: str) -> dict[str, Any]:
        """The job ended well, the target is the new one, and nothing is left of the work."""
        view = self.end(job)
        assert view["state"] == "done", view["error"]
        assert self.state() == NEW
        self.assert_clean()
        return view

    def failed(self, job: str) -> dict[str, Any]:
        """The job failed with a reason, and nothing was changed."""
        view = self.end(job)
        assert view["state"] == "failed", view
        assert view["error"]["message"]
        assert self.state() == OLD
        return view

    def state(self) -> str:
        return self.target.database.psql(STATE)

    # --- the step that a session is in --------------------------------------------------
    def arrived(self, chunks: int = 1) -> None:
        """Waits until so many chunks are in the target's spool."""
        taken = self.target.spool / "taken"
        eventually(f"{chunks} chunks are here", lambda: len(chunk_files(taken)) >= chunks)

    @contextmanager
    def transfer_held(self, after_bytes: int = 2_500_000) -> Iterator[str]:
        """A session whose network swallows everything after so many bytes; gives its id."""
        self.proxy.hole_after = self.proxy.down_bytes + after_bytes
        job = self.begin()
        self.arrived()
        eventually("the hole", lambda: self.proxy.down_bytes >= (self.proxy.hole_after or 0))
        try:
            yield job
        finally:
            self.proxy.heal()

    @contextmanager
    def final_held(self) -> Iterator[str]:
        """A session in its final transaction, which waits for a row that a user changes."""
        with self.sql(self.target) as user:
            user.execute("UPDATE items SET v = 0 WHERE id = 1")
            job = self.begin()
            self.waits(self.target, "peersync/restore/%")
            yield job

    @contextmanager
    def before_commit_held(self) -> Iterator[str]:
        """A session that has done all but to write down that it commits."""
        with self.sql(self.target) as user:
            user.execute("LOCK TABLE peersync.baselines IN ACCESS EXCLUSIVE MODE")
            job = self.begin()
            self.waits(self.target, "peersync/restore/%")
            yield job

    @contextmanager
    def dump_held(self) -> Iterator[str]:
        """A session whose pg_dump waits in the source, for a catalog that only pg_dump reads.

        Not one of the server's own caches: a new session may have to read those.
        """
        with self.sql(self.source) as other:
            other.execute("LOCK TABLE pg_catalog.pg_init_privs IN ACCESS EXCLUSIVE MODE")
            job = self.begin()
            self.dump_waits()
            yield job

    def dump_waits(self) -> None:
        self.waits(self.source, "peersync/backup/%")
        assert dump_processes(os.getpid())

    @contextmanager
    def gate(self) -> Iterator[str]:
        """A session between its plan and its lease, until `open_gate`."""
        with self.sql(self.target) as other:
            other.execute(
                "INSERT INTO peersync.leases (name, fence, holder) VALUES ('full_sync', 1,"
                ' \'{"node": "x", "pid": 1, "job": "0", "what": "x"}\')'
                " ON CONFLICT (name) DO UPDATE SET fence = leases.fence + 1"
            )
            self._gate = other
            job = self.begin()
            self.waits(self.target, "peersync/lease/%")
            yield job

    def open_gate(self) -> None:
        self._gate.commit()

    @contextmanager
    def sql(self, node: Node) -> Iterator[psycopg.Connection]:
        """A user's session; what it holds is given back at the end."""
        with psycopg.connect(node.database.conninfo()) as connection:
            yield connection
            with suppress(psycopg.Error):  # the server may have been restarted meanwhile
                connection.rollback()

    def waits(self, node: Node, application: str) -> None:
        """Waits until a session of ours waits for a lock."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            f" AND datname = current_database() AND application_name LIKE '{application}'"
        )
        eventually(f"{application} waits", lambda: node.database.psql(query) != "0")

    # --- what must be gone afterwards ---------------------------------------------------
    def assert_clean(self, limit_s: float = 30.0) -> None:
        """No staging table, no spool, no session in PostgreSQL, no pg_dump: soon."""
        eventually("nothing is left", lambda: not self.left(), limit_s)

    def left(self) -> list[str]:
        found = [f"spool {p}" for n in (self.source, self.target) for p in spools(n)]
        found += self.target.database.psql(
            "SELECT relname FROM pg_class WHERE relname LIKE 'stage\\_%'"
            " AND relnamespace = 'peersync'::regnamespace AND relkind = 'r'"
        ).split()
        for node in (self.source, self.target):
            found += node.database.psql(
                "SELECT application_name FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'peersync/%'"
                " AND application_name NOT IN ('peersync/pool', 'peersync/migrate')"
            ).split()
        return [*found, *dump_processes(os.getpid())]


def chunk_files(root: Path) -> list[Path]:
    """The chunks in all spools below."""
    return [path for path in root.glob("*/*") if len(path.name) == 64]


def spools(node: Node) -> list[Path]:
    return [path for kind in ("given", "taken") for path in (node.spool / kind).glob("*")]


def dump_processes(ancestor: int) -> list[str]:
    """The pg_dump processes below this process, whoever adopted them."""
    found = []
    for pid, state in pgcluster.children_of(ancestor).items():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        if name.startswith("pg_dump") and state != "Z":
            found.append(f"{name} {pid}")
        found += dump_processes(pid)
    return found


def make_rig(
    home: Path, source: Database, target: Database, proxy: Proxy, listen: str, **conninfo: str
) -> Rig:
    """Both nodes, set up and paired, their agents not running."""
    nodes = []
    for name, database in (("server-a", source), ("server-b", target)):
        (home / name).mkdir()
        env = {**_SETTINGS}
        if database is source:
            env["PEERSYNC_NODE_ADVERTISE"] = proxy.address
        node = Node(name, database, home / name, env=env, conninfo=conninfo.get(name[-1]))
        nodes.append(node)
    nodes[0].listen = listen
    for node in nodes:
        node.init()
        node.start()
    nodes[1].run("peer", "join", nodes[0].invite())
    for node in nodes:
        node.close()
    rig = Rig(nodes[0], nodes[1], proxy)
    rig.keep_books()
    return rig


__all__ = ["NEW", "OLD", "Refused", "Rig", "ask", "eventually", "free_port", "make_rig"]
