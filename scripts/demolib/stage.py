"""The demonstration's own machine: a directory, servers, agents, and the end of all of it.

It owns that nothing stays: not after Ctrl-C, SIGTERM or SIGHUP, which all end in `close`,
and not after SIGKILL, when the agents get a signal from the kernel and a small process
that outlives this one removes the directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pgprograms
from pgcluster import Cluster

ROLE = "shop"
DATABASE = "shop"
START_S = 30.0
STOP_S = 15.0
_PR_SET_PDEATHSIG = 1
# Waits for the end of its input, which comes whatever ends this process, and then tidies up.
_JANITOR = """
    cat >/dev/null
    tries=60
    while [ -e "$1" ] && [ $tries -gt 0 ]; do
        rm -rf -- "$1" 2>/dev/null || sleep 0.5
        tries=$((tries - 1))
    done
"""


class DemoError(RuntimeError):
    """The demonstration cannot go on; the message is for its user."""


@dataclass
class Server:
    """One of the two servers: its PostgreSQL, and where its agent lives."""

    name: str
    cluster: Cluster
    home: Path
    listen: str
    admin: str
    agent: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.home / "peersync.toml"

    @property
    def socket(self) -> Path:
        return self.home / "peersync.sock"

    @property
    def conninfo(self) -> str:
        """The shop's database, over the server's Unix socket, in libpq's words."""
        return (
            f"host={self.cluster.socket_dir} port={self.cluster.port} user={ROLE} dbname={DATABASE}"
        )

    def psql(self, sql: str) -> str:
        return self.cluster.psql(sql, DATABASE, user=ROLE)


class Stage:
    """Everything that was started. `with Stage() as stage:` ends it, in order."""

    def __init__(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="peersync-demo-", dir=pgprograms.base_directory()))
        self.work.chmod(0o711)  # the servers' user, where we are root, has its directories in here
        # also what is otherwise kept for the next run (an initdb'd directory) goes in here
        tempfile.tempdir = str(self.work)
        pgprograms.base_directory.cache_clear()
        self.servers: list[Server] = []
        self._env = _environment()
        self._janitor = subprocess.Popen(
            ["/bin/sh", "-c", _JANITOR, "sh", self.work],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        with _unbroken():
            for server in self.servers:
                _stop(server.agent)
            for server in self.servers:
                server.cluster.close()
            shutil.rmtree(self.work, ignore_errors=True)
            self._janitor.communicate()

    # --- starting ---
    def add_server(self, name: str, major: int) -> Server:
        """A running PostgreSQL with an empty database that a plain role owns."""
        home = self.work / name
        home.mkdir(mode=0o700)
        cluster = Cluster(major)
        server = Server(name, cluster, home, _free_address(), _free_address())
        self.servers.append(server)
        cluster.start()
        cluster.createrole(ROLE)
        cluster.createdb(DATABASE, owner=ROLE)
        if major >= 15:  # so that triggers stay quiet while a sync writes
            cluster.psql(f"GRANT SET ON PARAMETER session_replication_role TO {ROLE}")
        return server

    def start_agent(self, server: Server) -> None:
        """`peersync agent` in the background; returns when it answers."""
        say_command(server.name, ["peersync", "agent", "&"], quote=False)
        log = server.home / "agent.log"
        with log.open("ab") as file:
            server.agent = subprocess.Popen(
                ["peersync", "agent"],
                env=self._env_of(server),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us: we stop it, in order
                preexec_fn=_end_with_parent,  # there are no other threads
            )
        deadline = time.monotonic() + START_S
        while not _answers(server.socket):
            if server.agent.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"the agent did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)

    # --- typing ---
    def type(self, server: Server, *words: str) -> None:
        """Runs a command of peersync on a server, shown as one would type it."""
        say_command(server.name, ["peersync", *words])
        done = subprocess.run(
            ["peersync", *words], env=self._env_of(server), stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise DemoError(f"that ended with exit code {done.returncode}")

    def ask(self, server: Server, *words: str) -> str:
        """The same, for a command whose output is needed; it is shown, too."""
        say_command(server.name, ["peersync", *words])
        done = subprocess.run(
            ["peersync", *words],
            env=self._env_of(server),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, end="", flush=True)
        if done.returncode:
            raise DemoError(f"that ended with exit code {done.returncode}")
        return done.stdout

    def _env_of(self, server: Server) -> dict[str, str]:
        return self._env | {"PEERSYNC_CONFIG": str(server.config)}


def say_command(where: str, words: list[str], *, quote: bool = True) -> None:
    """`server-a$ peersync …`, broken before its options where it is long."""
    texts = [shlex.quote(word) if quote else word for word in words]
    line = f"{where}$"
    lines = []
    for number, text in enumerate(texts):
        option = text + " " + texts[number + 1] if number + 1 < len(texts) else text
        if text.startswith("--") and len(line) + len(option) > 98:
            lines.append(line + " \\")
            line = "   "
        line += " " + text
    print("\n" + "\n".join([*lines, line]), flush=True)


def peersync_program() -> Path:
    """The command of the environment that runs this."""
    program = Path(sys.executable).parent / "peersync"
    if not program.exists():
        raise DemoError(f"there is no {program}; remove .venv and start again")
    return program


def _environment() -> dict[str, str]:
    """Ours, without what would lead libpq or peersync elsewhere, and with our programs first."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "PEERSYNC_"))}
    kept["PATH"] = f"{peersync_program().parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """A second Ctrl-C does not stop the tidying up."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
