"""Bucardo 5 as its manual sets it up: a daemon beside the source, triggers on its tables.

It owns one installation in a directory of its own, with its home, its configuration database
(on the source's server) and its daemon. Bucardo stops by a file that its processes look for,
and forgets nothing: what is left of the daemon after its patience is killed by group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import ClassVar

from pgcluster import SUPERUSER, Cluster

from benchlib import periodic_load
from benchlib.agents import DATABASE
from benchlib.periodic_engines import Carrier
from benchlib.periodic_records import BUCARDO
from benchlib.programs import RunFailed, environment, run

SYNC = "bench"
_START_S, _STOP_S = 60.0, 20.0


class Bucardo(Carrier):
    """One sync from source to target, kicked by its own triggers."""

    name = BUCARDO
    settings: ClassVar[dict[str, str]] = {"wal_level": "replica"}
    _installed = False
    _daemon = 0

    def arm(self) -> None:
        """Its triggers cannot be had without a target; the daemon does not run."""
        if not self._installed:
            self._install(linked=False)

    def connect(self, *, linked: bool = False) -> None:
        self._install(linked=linked)
        self._bucardo("start", "--logdest", str(self.root / "log"), "--sendmail", "0")
        self._daemon = self._wait_for_daemon()

    def hold(self) -> None:
        """As a stopped program: its triggers go on writing, and nobody reads."""
        self._signal(signal.SIGSTOP)

    def release(self) -> float:
        start = time.perf_counter()
        self._signal(signal.SIGCONT)
        return start

    def disconnect(self) -> None:
        if not self._daemon:
            return
        self._signal(signal.SIGCONT)
        with contextlib.suppress(RunFailed):
            self._bucardo("stop")
        deadline = time.monotonic() + _STOP_S
        while _runs(self._daemon) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        self._daemon = 0

    @property
    def programs(self) -> tuple[int, ...]:
        return (self._daemon,) if self._daemon else ()

    # --- its own commands ---
    def _install(self, *, linked: bool) -> None:
        for directory in ("pid", "log"):
            (self.root / directory).mkdir()
        where = ["--dbname", "postgres", "--dbuser", SUPERUSER]
        self._bucardo("install", "--batch", *where, as_owner=False)
        self._bucardo("set", f"reason_file={self.root / 'reason'}")
        self._bucardo("add", "db", "here", *_place(self.source, self.source.port))
        port = self.target.port
        if linked:
            self.reach(self.target, linked=True)
            assert self.link is not None
            port = self.link.port
        self._bucardo("add", "db", "there", *_place(self.target, port))
        self._bucardo("add", "table", *periodic_load.TABLES, "db=here", f"relgroup={SYNC}")
        words = (f"relgroup={SYNC}", "dbs=here:source,there:target", "onetimecopy=0")
        self._bucardo("add", "sync", SYNC, *words)
        self._installed = True

    def _bucardo(self, *words: str, as_owner: bool = True) -> str:
        """Run one of its commands; as the owner of its database once that is there."""
        # it writes notes into the directory that it is called in
        command = ["env", f"--chdir={self.root}", "bucardo", "--no-bucardorc", "--quiet", *words]
        command += ["--dbhost", str(self.source.socket_dir), "--dbport", str(self.source.port)]
        command += ["--piddir", str(self.root / "pid")]
        if as_owner:
            command += ["--dbname", "bucardo", "--dbuser", "bucardo"]
        env = environment(self.source.bindir) | {"HOME": str(self.root)}
        return run(command, env=env, log=self.log)

    def _wait_for_daemon(self) -> int:
        """Until it listens to the kicks of its triggers; the pid of its first process."""
        file, deadline = self.root / "pid" / "bucardo.mcp.pid", time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text().split()[0])
                if _runs(pid) and any((self.root / "pid").glob("bucardo.ctl.sync.*.pid")):
                    return pid
            time.sleep(0.05)
        raise RunFailed("bucardo did not start", (self.root / "log" / "log.bucardo").read_text())

    def _signal(self, which: signal.Signals) -> None:
        """All its processes are one session, which the daemon leads."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(self._daemon), which)


def _place(server: Cluster, port: int) -> list[str]:
    words = {"dbname": DATABASE, "host": "127.0.0.1", "port": port, "user": SUPERUSER}
    return [f"{key}={value}" for key, value in words.items()] + [f"pass={server.password}"]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
