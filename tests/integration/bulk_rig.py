"""A node with five databases, for the tests of bulk sync.

server-b has `shop` and `crm`, which it pulls from server-a, a demo database, one that is not
active, and one whose server is down. `crm` has a second peer, server-c, that never answers.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import psycopg

from peersync.agent.orchestration.bulk_outcome import BulkView
from peersync.transport.local import AgentClient
from tests.integration.shared_pair import wait_until
from tests.plugins.clusters import Database, GetCluster
from tests.plugins.nodes import PROGRAM, Node, free_port, introduce

NAMES = ("shop", "playground", "crm", "broken", "archive")
PATH = "/api/admin/bulk-sync"
ASKED = "SELECT count(*) FROM pg_locks WHERE NOT granted"
T = TypeVar("T")


@dataclass
class Rig:
    """`node` is server-b; `theirs` and `ours` are the databases by name."""

    node: Node
    source: Node
    theirs: dict[str, Database]
    ours: dict[str, Database]

    def write(self, name: str) -> str:
        """One more row on server-a; gives its key."""
        return (
            self.theirs[name]
            .psql(
                "INSERT INTO items SELECT coalesce(max(id), 0) + 1, 'new' FROM items RETURNING id"
            )
            .splitlines()[0]
        )

    def has(self, name: str, key: str) -> bool:
        return self.ours[name].psql(f"SELECT count(*) FROM items WHERE id = {key}") == "1"

    def runs(self) -> list[BulkView]:
        return self.ask(PATH, list[BulkView])

    def ask(self, path: str, kind: type[T]) -> T:
        async def asked() -> T:
            async with AgentClient(self.node.home / "s") as agent:
                return await agent.get(path, kind)

        return asyncio.run(asked())

    def post(self, path: str, body: object) -> tuple[int, str, dict[str, Any]]:
        """Status, Location and answer."""

        async def asked() -> tuple[int, str, dict[str, Any]]:
            connector = aiohttp.UnixConnector(str(self.node.home / "s"))
            async with (
                aiohttp.ClientSession("http://peersync", connector=connector) as session,
                session.post(path, json=body) as answer,
            ):
                told = await answer.json(content_type=None)
                return answer.status, answer.headers.get("Location", ""), told

        return asyncio.run(asked())

    @contextmanager
    def stuck_in(self, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A bulk sync that waits for a table of a database; the table is released behind it."""
        self.write(name)
        with psycopg.connect(self.ours[name].conninfo()) as holder:
            holder.execute("LOCK TABLE items IN SHARE ROW EXCLUSIVE MODE")
            process = self.node.popen(
                "bulk-sync", *arguments, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            try:
                wait_until(lambda: _waits(process, self.ours[name]))
                yield process
            finally:
                holder.rollback()
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                process.communicate()


def _waits(process: subprocess.Popen[bytes], database: Database) -> bool:
    assert process.poll() is None, process.communicate()
    return database.psql(ASKED) != "0"


def from_cron(node: Node, script: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with what cron gives it, and nothing more."""
    (node.home / ".local" / "bin").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [script],
        env={
            "PATH": "/usr/bin:/bin", "HOME": str(node.home), "LOGNAME": "x", "SHELL": "/bin/sh",
            "PEERSYNC_CONFIG": str(node.config), **env,
        },
        cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def install(node: Node) -> None:
    """A `peersync` where a user's programs are."""
    place = node.home / ".local" / "bin"
    place.mkdir(parents=True, exist_ok=True)
    program = place / "peersync"
    program.write_text(f'#!/bin/sh\nexec {" ".join(PROGRAM)} "$@"\n')
    program.chmod(0o755)


@contextmanager
def bulk_rig(clusters: GetCluster, home: Path, *, prefix: str = "bulk") -> Iterator[Rig]:
    cluster = clusters(18)
    made: list[Database] = []

    def create(side: str, name: str) -> Database:
        database = Database(cluster, f"{prefix}_{side}_{name}")
        cluster.createdb(database.name)
        made.append(database)
        if name in ("shop", "crm"):
            database.psql("CREATE TABLE items (id int PRIMARY KEY, v text)")
        return database

    theirs = {name: create("a", name) for name in ("shop", "crm")}
    ours = {name: create("b", name) for name in NAMES if name != "broken"}
    nodes = [
        _node(home, "server-a", theirs["shop"], _settings_a(theirs)),
        _node(home, "server-b", ours["shop"], _settings_b(ours)),
        _node(home, "server-c", theirs["shop"], ""),
    ]
    source, node, silent = nodes
    node.env = {"PEERSYNC_COMPLETE_RETRIES": "0", "PEERSYNC_COMPLETE_SKIP_AFTER_ERRORS": "1000"}
    try:
        for other in (source, silent):
            introduce(node, other)
        for one in (source, node):
            one.launch()
        for one in (source, node):
            one.wait_until_ready()
        yield Rig(node, source, theirs, ours)
    finally:
        for one in nodes:
            one.close()
        for database in made:
            cluster.dropdb(database.name)


def _node(home: Path, name: str, database: Database, settings: str) -> Node:
    (home / name).mkdir()
    node = Node(name, database, home / name, settings=settings, conninfo=database.conninfo())
    node.init()
    return node


def _settings_a(databases: dict[str, Database]) -> str:
    return "\n".join([_database("crm", databases["crm"].conninfo()), *_table("peer.server-b")])


def _settings_b(databases: dict[str, Database]) -> str:
    down = f"host=127.0.0.1 port={free_port()} user=nobody dbname=gone"
    return "\n".join(
        [
            _database("playground", databases["playground"].conninfo(), "demo = true"),
            _database("crm", databases["crm"].conninfo()),
            _database("broken", down),
            _database("archive", databases["archive"].conninfo(), "active = false"),
            *_table("peer.server-a", auto_sync="true", sync='"full-pull"', price_per_gb="1000000"),
            *_table("peer.server-c", auto_sync="true", sync='"full-pull"', databases='["crm"]'),
        ]
    )


def _database(name: str, conninfo: str, *more: str) -> str:
    return "\n".join([f"[database.{name}]", f'conninfo = "{conninfo}"', *more])


def _table(name: str, **values: str) -> list[str]:
    values = values or {"auto_sync": "false"}
    return [f"[{name}]", *(f"{key} = {value}" for key, value in values.items())]
