"""Private PostgreSQL clusters for the tests, the demo and the benchmarks.

Tests have to run against real servers of several majors, on machines where nobody may
touch the system's own clusters. This module runs `postgres` (found by `pgprograms`) as a
child process on a directory of its own.

It owns: start, stop, and leaving nothing behind, whatever kills the Python process. It
refuses to touch a data directory that it did not make.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote, urlencode

import pgplain
import psycopg
from pgguard import Guard, children_of
from pgprograms import (
    SOCKET_PATH_BYTES,
    SUPERUSER,
    ClusterError,
    Installation,
    as_server_user,
    base_directory,
    environment,
    find_installations,
    give_to_server_user,
    installation,
    own_directory,
    template_of,
)

__all__ = [
    "SUPERUSER",
    "Cluster",
    "ClusterError",
    "Installation",
    "children_of",
    "find_installations",
    "identifier",
    "installation",
    "literal",
    "own_pids",
]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_PORTS = range(10_000, 32_768)

Host = Literal["socket", "127.0.0.1"]
StopMode = Literal["fast", "immediate"]
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Small and quick, and otherwise what a real server has: autovacuum on, logical decoding possible.
SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "200",
    "wal_level": "logical",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


_guard = Guard()
_running: set[Cluster] = set()


def own_pids() -> set[int]:
    """The processes that this module keeps beside the caller: servers, and their guard."""
    pids = {c.pid for c in list(_running)} | {_guard.pid}
    return {pid for pid in pids if pid is not None}


@atexit.register
def _close_all() -> None:
    for cluster in list(_running):
        cluster.close()
    _guard.dismiss()


# --- a cluster ------------------------------------------------------------------------------
class Cluster:
    """One PostgreSQL server on 127.0.0.1 and on a Unix socket; `with Cluster(18) as c:`.

    The superuser is `postgres`: trusted on the socket, asked for `password` on 127.0.0.1.
    `durable=False` turns fsync off. `settings` go into postgresql.conf over SETTINGS.
    Without `root` everything lives in a temporary directory that `close()` removes; a given
    `root` is kept, and a cluster that is already there is started again.
    """

    def __init__(
        self,
        major: int,
        *,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
        root: Path | None = None,
        port: int | None = None,
    ) -> None:
        self.programs = installation(major)
        self._keep = root is not None
        self._fixed_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or 0
        self.root = self._make_root(root)
        self.password = (self.root / "password").read_text()
        if not (self.root / "configured").exists():
            chosen = SETTINGS | ({} if durable else NOT_DURABLE) | dict(settings or {})
            self.configure(chosen)
            (self.root / "configured").touch()

    @property
    def major(self) -> int:
        return self.programs.major

    @property
    def bindir(self) -> Path:
        return self.programs.bindir

    @property
    def socket_dir(self) -> Path:
        return self.root

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def _make_root(self, root: Path | None) -> Path:
        if root is None:
            root = own_directory(base_directory())
        elif len(os.fsencode(root / ".s.PGSQL.65535.lock")) > SOCKET_PATH_BYTES:
            raise ClusterError(f"{root} is too long a name for a Unix socket in it")
        elif (root / "data").exists():
            return root
        else:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(root.iterdir()):
                raise ClusterError(f"{root} holds something else than a cluster of ours")
            give_to_server_user(root)
        template = template_of(self.programs)
        for name in ("password", "data"):
            subprocess.run(["cp", "-a", "--reflink=auto", template / name, root / name], check=True)
        return root

    def configure(self, settings: Mapping[str, str]) -> None:
        """Append to postgresql.conf; in force after `restart()`."""
        with (self.data / "postgresql.conf").open("a") as conf:
            for name, value in settings.items():
                conf.write("{} = '{}'\n".format(name, value.replace("'", "''")))

    # --- running ---
    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start and wait until it takes connections; ClusterError has the log's tail."""
        if self.pid is not None:
            return
        for attempt in range(5):
            # somebody else may take the port between our look and the server's bind
            self.port = self._fixed_port or self.port or free_port()
            log_start = self.log.stat().st_size if self.log.exists() else 0
            if self._start_once():
                return
            tail = self.log.read_bytes()[log_start:].decode(errors="replace")
            if self._fixed_port or attempt == 4 or "Address already in use" not in tail:
                break
            self.port = 0
        last_lines = "\n".join(tail.splitlines()[-30:])
        raise ClusterError(f"PostgreSQL {self.programs.version} did not start:\n{last_lines}")

    def _start_once(self) -> bool:
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.root),
        }
        command: list[str | Path] = [self.bindir / "postgres", "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data,
                env=environment(),
                start_new_session=True,  # Ctrl-C is not meant for it
                **as_server_user(),
            )
        _guard.watch(self._process.pid, self.root, keep=self._keep)
        _running.add(self)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None:
            if self._says_ready(self._process.pid):
                return True
            if time.monotonic() > deadline:
                self.kill()
                break
            time.sleep(0.01)
        return False

    def _says_ready(self, pid: int) -> bool:
        """What pg_ctl looks at: line 1 of postmaster.pid is the pid, line 8 the state."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def stop(self, mode: StopMode = "fast") -> None:
        """End the server, ending its sessions; `immediate` is a crash that cleans up."""
        if self._process is not None and self.pid is not None:
            self._process.send_signal(_STOP_SIGNALS[mode])
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        _running.discard(self)

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """kill -9 of the postmaster and of all its processes, as when the power fails."""
        if self._process is not None and self.pid is not None:
            backends = list(children_of(self._process.pid))
            self._process.kill()
            self._process.wait()
            for pid in backends:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # a server does not start while a process of the last one holds its shared memory
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while any(_runs_in(pid, self.data) for pid in backends):
                if time.monotonic() > deadline:
                    raise ClusterError(f"processes of {self.data} do not end")
                time.sleep(0.01)
        _running.discard(self)

    def close(self) -> None:
        """Stop, and remove the temporary directory; a given `root` stays, stopped cleanly."""
        self.stop("fast" if self._keep else "immediate")
        if not self._keep:
            shutil.rmtree(self.root, ignore_errors=True)

    # --- talking to it ---
    def parameters(
        self, dbname: str = "postgres", *, user: str = SUPERUSER, host: Host = "socket"
    ) -> dict[str, str]:
        """libpq's connection keywords."""
        where = str(self.socket_dir) if host == "socket" else host
        found = {"host": where, "port": str(self.port), "user": user, "dbname": dbname}
        return found if host == "socket" else found | {"password": self.password}

    def conninfo(
        self, dbname: str = "postgres", *, user: str = SUPERUSER, host: Host = "socket"
    ) -> str:
        """A keyword string for libpq and psycopg; on 127.0.0.1 the password is in it."""
        escaped = {
            key: re.sub(r"([\\'])", r"\\\1", value)
            for key, value in self.parameters(dbname, user=user, host=host).items()
        }
        return " ".join(f"{key}='{value}'" for key, value in escaped.items())

    def url(self, dbname: str = "postgres", *, user: str = SUPERUSER, host: Host = "socket") -> str:
        """The same as a postgresql:// address, which asyncpg understands too."""
        found = self.parameters(dbname, user=user, host=host)
        query = urlencode({k: v for k, v in found.items() if k != "dbname"}, quote_via=quote)
        return f"postgresql:///{quote(dbname, safe='')}?{query}"

    def psql(self, sql: str, dbname: str = "postgres", *, user: str = SUPERUSER) -> str:
        """Run statements, stopping at the first error; rows come as unaligned lines."""
        if (plain := pgplain.statements(sql)) is None:
            return self._client(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1"], dbname, sql, user)
        try:
            return pgplain.run(self.conninfo(dbname, user=user), plain)
        except psycopg.Error as error:
            raise ClusterError(f"psql on {dbname} failed: {error}") from error

    def _client(self, command: list[str], dbname: str, stdin: str, user: str) -> str:
        done = subprocess.run(
            [self.bindir / command[0], *command[1:], "-d", self.conninfo(dbname, user=user)],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            check=False,
            env=environment() | {"PGCLIENTENCODING": "UTF8"},
        )
        if done.returncode:
            raise ClusterError(f"{command[0]} on {dbname} failed: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def createrole(self, name: str, options: str = "LOGIN") -> None:
        """A role with the cluster's password; one that exists gets these options."""
        verb = "ALTER" if self._has("pg_roles", "rolname", name) else "CREATE"
        self.psql(f"{verb} ROLE {identifier(name)} {options} PASSWORD {literal(self.password)}")

    def createdb(self, name: str, *, template: str | None = None, owner: str | None = None) -> None:
        given = {"TEMPLATE": template, "OWNER": owner}
        options = "".join(f" {key} {identifier(value)}" for key, value in given.items() if value)
        # copying files costs half of what going through the log does, and nobody replays it here
        how = " STRATEGY FILE_COPY" if self.major >= 15 else ""
        self.psql(f"CREATE DATABASE {identifier(name)}{options}{how}")

    def dropdb(self, name: str) -> None:
        """Drop it if it is there, ending its sessions."""
        self.psql(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")

    def has_database(self, name: str) -> bool:
        return self._has("pg_database", "datname", name)

    def _has(self, catalog: str, column: str, name: str) -> bool:
        return self.psql(f"SELECT 1 FROM {catalog} WHERE {column} = {literal(name)}") == "1"


def identifier(name: str) -> str:
    """A name as SQL text."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string as SQL text."""
    return "'" + value.replace("'", "''") + "'"


def _runs_in(pid: int, directory: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == directory
    except OSError:  # gone, or ended and not yet reaped
        return False


def free_port() -> int:
    """A port at which nobody listens, below those that clients are given by chance.

    One of those could be a client's while its server is restarted: even of a client that tries to
    reach that very port, and so is connected with itself.
    """
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
