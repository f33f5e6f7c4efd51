"""Agents as systemd runs them: what it hears, when it would start them anew, how they stop."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from peersync.agent.systemd import LEAST_S
from tests.integration.periodic_rig import QUICK, make_group, wait_equal, wait_until
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node, introduce

STOP_S = 8.0  # a few seconds, on a machine that has other work; systemd would wait for 90
WATCHDOG_S = 1.2
MINE = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
BLOCKED = f"{MINE} AND application_name LIKE 'peersync/%' AND wait_event_type = 'Lock'"


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}

    def hear(self, wanted: str, seconds: float = 20.0) -> str:
        """The first message with this in it; what came before it is passed over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with suppress(TimeoutError):
                if wanted in (told := self._socket.recv(4096).decode()):
                    return told
        raise AssertionError(f"systemd has not heard {wanted}")

    def pings(self, seconds: float) -> int:
        """How many come from now on in so many seconds."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)
        time.sleep(seconds)
        count = 0
        with suppress(BlockingIOError):
            while True:
                count += b"WATCHDOG=1" in self._socket.recv(4096)
        return count

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(tmp_path / "notify")
    yield found
    found.close()


@pytest.fixture
def pair(make_node: MakeNode, make_database: MakeDatabase, systemd: Systemd) -> tuple[Node, Node]:
    """Two members of one group; systemd listens to the second."""
    a = make_node("server-a", make_database(18), start=False, env=QUICK)
    b = make_node("server-b", make_database(18, nth=1), start=False, env={**QUICK, **systemd.env})
    introduce(b, a)
    for node in (a, b):
        node.launch()
    for node in (a, b):
        node.wait_until_ready()
    make_group(a, b)
    return a, b


@contextmanager
def blocked(node: Node) -> Iterator[None]:
    """Somebody has locked the table: what comes for it waits in its transaction."""
    with psycopg.connect(node.database.conninfo()) as user:
        user.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def frozen(database: Database) -> Iterator[None]:
    """The server's processes for this database do not answer, and do not close."""
    pids = [int(pid) for pid in database.psql(f"{MINE} AND pid <> pg_backend_pid()").split()]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stopped_in(node: Node) -> float:
    """Stops it as systemd does, and gives the seconds that it took."""
    begun = time.monotonic()
    assert node.stop() == 0, node.log
    return time.monotonic() - begun


def start_periodic(node: Node) -> subprocess.Popen[bytes]:
    with (node.home / "periodic.log").open("ab") as log:
        return node.popen("periodic", stdin=subprocess.DEVNULL, stdout=log, stderr=log)


# --- stop ---------------------------------------------------------------------------------------
def test_a_stop_in_the_middle_of_periodic_sync_is_quick_and_it_goes_on_at_the_next_start(
    pair: tuple[Node, Node], systemd: Systemd
) -> None:
    a, b = pair
    with blocked(b):
        a.database.psql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i")
        wait_until("it is being applied", lambda: b.database.psql(BLOCKED))
        assert stopped_in(b) < STOP_S
        assert "stopping" in systemd.hear("STOPPING=1")
    assert b.database.psql("SELECT count(*) FROM t") == "0"  # all of it, or nothing
    b.start()
    wait_equal(a, b)
    assert b.database.psql("SELECT count(*) FROM t") == "5000"
    assert "Traceback" not in b.log


def test_a_stop_of_the_process_of_its_own_is_quick_too(
    pair: tuple[Node, Node], systemd: Systemd
) -> None:
    a, b = pair
    b.stop()
    b.env["PEERSYNC_PERIODIC_ENABLED"] = "false"
    b.start()
    systemd.hear("READY=1")
    process = start_periodic(b)
    try:
        systemd.hear("READY=1")
        systemd.hear("STATUS=periodic sync: 1 link")
        with blocked(b):
            a.database.psql("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i")
            wait_until("it is being applied", lambda: b.database.psql(BLOCKED))
            process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in systemd.hear("RELOADING=1")
            systemd.hear("READY=1")
            begun = time.monotonic()
            process.terminate()
            assert process.wait(30) == 0
            assert time.monotonic() - begun < STOP_S
        systemd.hear("STOPPING=1")
        process = start_periodic(b)
        wait_equal(a, b)
    finally:
        process.kill()
        process.wait()
    log = (b.home / "periodic.log").read_text()
    assert "configuration read again" in log
    assert "Traceback" not in log


def test_a_database_that_does_not_answer_is_no_hang_and_holds_up_no_stop(
    pair: tuple[Node, Node], systemd: Systemd
) -> None:
    _, b = pair
    wait_until("the link runs", lambda: "periodic sync runs" in b.log)
    with frozen(b.database):
        time.sleep(LEAST_S)
        assert systemd.pings(WATCHDOG_S) >= 1  # a restart would not help
        assert stopped_in(b) < 2 * STOP_S
    assert "a database does not answer: cut" in b.log


# --- the watchdog -------------------------------------------------------------------------------
def test_a_keeper_that_hangs_keeps_the_ping_back_and_the_log_says_which(
    pair: tuple[Node, Node], systemd: Systemd
) -> None:
    _, b = pair
    b.stop()
    mark = b.state_dir / "positions" / "shop.json"
    mark.unlink()
    os.mkfifo(mark, 0o600)  # like a file on a network's disk that is gone: it opens never
    b.start()
    assert b.process is not None
    systemd.hear("READY=1")
    systemd.hear("STATUS=the periodic sync of shop hangs")
    assert systemd.pings(WATCHDOG_S) == 0
    assert "the periodic sync of shop hangs: it has not turned for" in b.log
    resource.prlimit(b.process.pid, resource.RLIMIT_CORE, (0, 0))
    b.process.send_signal(signal.SIGABRT)  # as systemd does now
    assert b.process.wait(10) == -signal.SIGABRT
    b.process = None
    assert "Fatal Python error: Aborted" in b.log
    assert "files.py" in b.log  # the thread that hung
    mark.unlink()
    b.start()
    systemd.hear("STATUS=periodic sync: 1 link")
    assert systemd.pings(WATCHDOG_S) >= 1


# --- passwords ----------------------------------------------------------------------------------
def test_a_password_comes_from_the_credentials_of_the_service(
    make_node: MakeNode, make_database: MakeDatabase, tmp_path: Path
) -> None:
    database = make_database()
    cluster = database.cluster
    role = f"credential_{os.getpid()}"
    cluster.createrole(role)
    cluster.psql(f"ALTER ROLE {role} SUPERUSER PASSWORD 'from systemd'")
    parameters = {**cluster.parameters(database.name, host="127.0.0.1"), "user": role}
    conninfo = " ".join(f"{k}={v}" for k, v in parameters.items() if k != "password")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "crm").write_text("from systemd\n")
    node = make_node(
        "alone",
        make_database(),
        settings=f'[database.crm]\nconninfo = "{conninfo}"\npassword_file = "crm"\n',
        env={"CREDENTIALS_DIRECTORY": str(credentials)},
    )
    made = "SELECT to_regclass('peersync.leases')"
    wait_until("the agent has logged in", lambda: database.psql(made))
    (credentials / "crm").write_text("wrong\n")
    refused = node.run("check", "--database", "crm", check=False)
    assert refused.code != 0
    assert "wrong" not in refused.out + refused.err + node.log
