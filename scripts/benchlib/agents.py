"""Two peersync agents as an operator would run them, driven only by the command line.

It owns two configurations, two state directories, two processes and their pairing. It
refuses to reach into peersync: what it knows comes from the last line of `pull --json`.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pgcluster import Cluster

from benchlib.programs import RunFailed, end, environment, run, tail

START_TIMEOUT_S = 60.0
DATABASE = "bench"  # the name that both nodes share


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

    def command(self, *words: str) -> str:
        """Run `peersync --config … words`; its standard output."""
        line: list[str | Path] = [program(), "--config", self.config, *words]
        return run(line, env=environment(self.server.bindir), log=self.home / "command.log")

    def init(self) -> None:
        """Write the configuration and make the identity."""
        self.home.mkdir(parents=True)
        listen_port, self.admin_port = free_ports(2)
        line: list[str | Path] = [program(), "init", "--name", self.name]
        line += ["--database", f"{DATABASE}={self.server.conninfo(self.database)}"]
        line += ["--config", self.config, "--state-dir", self.home / "state"]
        line += ["--listen", f"127.0.0.1:{listen_port}", "--admin", f"127.0.0.1:{self.admin_port}"]
        run(line, env=environment(self.server.bindir), log=self.home / "command.log")

    def start(self) -> None:
        """Start the agent and wait until its admin address answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "agent", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.server.bindir),
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


class Pair:
    """`with Pair(source, target, …) as pair:` two agents that know and trust each other."""

    def __init__(self, source: Cluster, target: Cluster, database: str, home: Path) -> None:
        self.source = Node("a", source, database, home / "a")
        self.target = Node("b", target, database, home / "b")

    @property
    def pids(self) -> tuple[int, int]:
        """The agents' process ids, the source's first."""
        return self.source.pid, self.target.pid

    def __enter__(self) -> Self:
        try:
            for node in (self.source, self.target):
                node.init()
            self.start()
            invitation = self.source.command("peer", "invite").strip().splitlines()[-1]
            self.target.command("peer", "join", invitation.strip())
            self.target.command("peer", "allow", self.source.name, "--schema")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the agents that do not run."""
        for node in (self.source, self.target):
            if node.process is None:
                node.start()

    def stop(self) -> None:
        """End both agents; pairing and state stay."""
        for node in (self.target, self.source):
            node.stop()

    def empty_target(self) -> None:
        """Give the target a new database and its agent a new life."""
        self.target.stop()
        self.target.server.dropdb(self.target.database)
        self.target.server.createdb(self.target.database)
        self.target.start()

    def pull(self) -> dict[str, Any]:
        """One full sync, from the command to the prompt; peersync's own account of it."""
        told = self.target.command(
            *("pull", self.source.name, "--database", DATABASE),
            *("--yes", "--json", "--progress", "none"),
        )
        account = json.loads(told.strip().splitlines()[-1])
        if not isinstance(account, dict):
            raise RunFailed("pull --json did not print an object", told[-2000:])
        return account


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
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
