"""Two peersync agents as an operator would run them, driven only by the command line.

It owns two configurations, two state directories, two processes, their pairing, and the
link between them if there is one. It refuses to reach into peersync: what it knows comes from
what `pull`, `push`, `verify`, `undo` and `jobs watch` print as JSON.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgcluster import Cluster

from benchlib.link import Link, Shape
from benchlib.programs import TIMEOUT_S, RunFailed, end, environment, run, start, tail

START_TIMEOUT_S = 60.0
_PORTS = range(15_000, 32_000)  # Linux gives outgoing connections those from 32768 on
DATABASE = "bench"  # the name that both nodes share
DIFFERS = 4  # exit code of a verification that found a difference
_SYNC = ("--database", DATABASE, "--yes", "--progress", "none")


def program() -> Path:
    """`peersync` of the environment that runs this script."""
    return Path(sys.executable).with_name("peersync")


@dataclass
class Node:
    """One agent: its server, its database there, and its files."""

    name: str
    server: Cluster
    database: str
    home: Path
    env: dict[str, str] = field(default_factory=dict)
    listen_port: int = 0
    admin_port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        return self.home / "peersync.toml"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"agent {self.name} does not run"
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.home / "agent.log"

    @property
    def full_env(self) -> dict[str, str]:
        return environment(self.server.bindir) | self.env

    def command(self, *words: str, codes: Collection[int] = (0,)) -> str:
        """Run `peersync --config … words`; its standard output."""
        line: list[str | Path] = [program(), "--config", self.config, *words]
        return run(line, env=self.full_env, log=self.home / "command.log", codes=codes)

    def account(self, *words: str, codes: Collection[int] = (0,)) -> dict[str, Any]:
        """What a command with `--json` prints last."""
        return last_object(self.command(*words, "--json", codes=codes))

    def init(self) -> None:
        """Write the configuration and make the identity."""
        self.home.mkdir(parents=True)
        if not self.listen_port:
            (self.listen_port,) = free_ports(1)
        (self.admin_port,) = free_ports(1)
        line: list[str | Path] = [program(), "init", "--name", self.name]
        line += ["--database", f"{DATABASE}={self.server.conninfo(self.database)}"]
        line += ["--config", self.config, "--state-dir", self.home / "state"]
        line += ["--listen", f"127.0.0.1:{self.listen_port}"]
        line += ["--admin", f"127.0.0.1:{self.admin_port}"]
        run(line, env=self.full_env, log=self.home / "command.log")

    def start(self) -> None:
        """Start the agent and wait until its admin address answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "agent", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.full_env,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.admin_port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise RunFailed(f"agent {self.name} did not start", tail(self.log))

    def stop(self) -> None:
        if self.process is not None:
            end(self.process, patience_s=30.0)
            self.process = None

    def kill(self) -> None:
        """SIGKILL to the agent alone, as the kernel does; what it had started is not told."""
        assert self.process is not None, f"agent {self.name} does not run"
        self.process.kill()
        self.process.wait()
        self.process = None


@dataclass
class Watch:
    """`peersync jobs watch` beside everything else: what it said last, and how it ends."""

    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def step_is_done(self, step: str) -> bool:
        """Whether the newest progress has that step behind it."""
        lines = self.out.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n") and b'"progress"' in line]
        steps = json.loads(whole[-1])["progress"]["steps"] if whole else []
        return any(s["name"] == step and s["state"] == "done" for s in steps)

    def result(self) -> dict[str, Any]:
        """Wait for the end of the job; peersync's account of it."""
        try:
            code = self.process.wait(TIMEOUT_S)
        finally:
            end(self.process)
        told = self.out.read_text()
        if code:
            raise RunFailed(f"jobs watch ended with {code}", tail(self.log) or told[-2000:])
        return last_object(told)


class Pair:
    """`with Pair(source, target, …) as pair:` two agents that know and trust each other."""

    def __init__(
        self,
        source: Cluster,
        target: Cluster,
        database: str,
        home: Path,
        shape: Shape | None = None,
        chunk_mib: int | None = None,
    ) -> None:
        """With a shape, the target reaches the source through a link, and not otherwise."""
        env = {"PEERSYNC_FULL_SYNC_CHUNK_MIB": str(chunk_mib)} if chunk_mib else {}
        self.source = Node("a", source, database, home / "a", dict(env))
        self.target = Node("b", target, database, home / "b", dict(env))
        self.link: Link | None = None
        if shape is not None:
            (self.source.listen_port,) = free_ports(1)
            self.link = Link(self.source.listen_port, shape)
            self.source.env["PEERSYNC_NODE_ADVERTISE"] = self.link.address
            for node in (self.source, self.target):
                node.env["PEERSYNC_NETWORK_REVERSE_LINES"] = "false"

    @property
    def pids(self) -> tuple[int, int]:
        """The agents' process ids, the source's first."""
        return self.source.pid, self.target.pid

    def __enter__(self) -> Self:
        try:
            if self.link is not None:
                self.link.__enter__()
            for node in (self.source, self.target):
                node.init()
            self.start()
            invitation = self.source.command("peer", "invite").strip().splitlines()[-1]
            self.target.command("peer", "join", invitation.strip())
            self.target.command("peer", "allow", self.source.name, "--schema")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the agents that do not run."""
        for node in (self.source, self.target):
            if node.process is None:
                node.start()

    def stop(self) -> None:
        """End both agents; pairing and state stay."""
        for node in (self.target, self.source):
            node.stop()

    def close(self) -> None:
        """End both agents, and the link."""
        self.stop()
        if self.link is not None:
            self.link.close()

    def empty_target(self, template: str | None = None) -> None:
        """Give the target a new database, empty or a copy, and its agent a new life."""
        self.target.stop()
        self.target.server.dropdb(self.target.database)
        self.target.server.createdb(self.target.database, template=template)
        self.target.start()

    def pull(self, *options: str) -> dict[str, Any]:
        """One full sync, from the command to the prompt; peersync's own account of it."""
        return self.target.account("pull", self.source.name, *_SYNC, *options)

    def push(self, *options: str) -> dict[str, Any]:
        """The same, asked for at the source."""
        return self.source.account("push", self.target.name, *_SYNC, *options)

    def verify(self) -> dict[str, Any]:
        """One verification, asked for at the target, whatever it finds; its VerifyView."""
        words = ("verify", self.source.name, "--database", DATABASE)
        return self.target.account(*words, codes=(0, DIFFERS))

    def begin(self) -> str:
        """Start a pull and leave it running; the job's id."""
        return str(self.pull("--no-wait")["session"])

    def watch(self, job: str) -> Watch:
        """Follow a job of the target; a process that the caller has to wait for."""
        out, log = (self.target.home / f"watch.{kind}" for kind in ("out", "log"))
        line: list[str | Path] = [program(), "--config", self.target.config]
        line += ["jobs", "watch", job, "--json", "--progress", "json"]
        return Watch(start(line, env=self.target.full_env, out=out, log=log), out, log)

    def undoable_rows(self, job: str) -> int:
        """How many rows `peersync undo` would put back now; 0 when it has nothing."""
        try:
            report = self.target.account("undo", job, "--dry-run")
        except RunFailed:
            return 0
        kinds = ("restored", "reinserted", "deleted")
        return sum(int(table[kind]) for table in report["tables"] for kind in kinds)


def last_object(told: str) -> dict[str, Any]:
    """The last line of a `--json` command."""
    lines = told.strip().splitlines()
    found = json.loads(lines[-1]) if lines else None
    if not isinstance(found, dict):
        raise RunFailed("--json did not print an object", told[-2000:])
    return found


def facts(account: dict[str, Any]) -> dict[str, Any]:
    """What the report keeps of peersync's account: numbers, and short words."""
    kept: dict[str, Any] = {}
    for key in ("result", "method", "raw_bytes", "wire_bytes"):
        if isinstance(account.get(key), int | float | str):
            kept[key] = account[key]
    seconds = account.get("seconds")
    if isinstance(seconds, dict):
        kept["step_s"] = {k: v for k, v in seconds.items() if re.fullmatch(r"\w+", str(k))}
    return kept


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, below those that outgoing connections take.

    An agent that is started again must find its own still free.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                return found
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    raise OSError("no free ports")
