"""What an agent answers to whom, how it starts, stops and reads its configuration again."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.shared_pair import wait_until
from tests.plugins.clusters import Database, MakeDatabase
from tests.plugins.nodes import MakeNode, Node

CANARY = "canary-7d1f"


@pytest.fixture
def node(make_node: MakeNode, make_database: MakeDatabase) -> Node:
    return make_node("alone", make_database())


def ask(
    node: Node, path: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    address, _, port = node.admin.rpartition(":")
    connection = http.client.HTTPConnection(address, int(port), timeout=20)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_the_loopback_listener_answers_monitoring_and_shows_a_stranger_only_the_page(
    node: Node,
) -> None:
    assert ask(node, "/healthz")[:2] == (200, '{"ok":true}')
    assert ask(node, "/readyz")[:2] == (200, '{"ready":true}')
    status, metrics, _ = ask(node, "/metrics")
    assert status == 200
    names = {family.name for family in text_string_to_metric_families(metrics)}
    assert {"peersync_build_info", "peersync_jobs_running", "peersync_transfer_bytes"} <= names
    assert ask(node, "/")[0] == 200
    for path in (
        "/api/admin/status", "/api/admin/jobs", "/api/sync/history", "/api/sync/hello",
        "/api/sync/backup-progress", "/api/admin/peers", "/../etc/passwd",
    ):  # fmt: skip
        for method in ("GET", "POST", "DELETE"):
            assert ask(node, path, method=method)[0] in (401, 403, 404), (method, path)
    assert ask(node, "/healthz", method="POST")[0] in (403, 404, 400, 405)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80"])
def test_another_host_name_is_refused(node: Node, host: str) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert ask(node, path, host=host)[0] == 403


def test_ready_says_no_while_the_database_is_down_and_nothing_of_why(node: Node) -> None:
    cluster, name = node.database.cluster, node.database.name
    cluster.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        cluster.psql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        wait_until(lambda: ask(node, "/readyz")[0] == 503)
        assert ask(node, "/readyz")[1] == '{"ready":false}'
        assert ask(node, "/healthz")[0] == 200
    finally:
        cluster.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    wait_until(lambda: ask(node, "/readyz")[0] == 200)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_soon(node: Node, number: signal.Signals) -> None:
    assert node.process is not None
    host, _, port = node.admin.rpartition(":")
    with socket.create_connection((host, int(port))):  # somebody is still connected
        before = time.monotonic()
        node.process.send_signal(number)
        assert node.process.wait(10) == 0
        assert time.monotonic() - before < 5
    assert not (node.home / "s").exists()
    assert "Traceback" not in node.log


def refused_start(node: Node) -> tuple[int, str]:
    other = node.popen("agent", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = other.communicate(timeout=30)
    return other.returncode, err.decode()


def test_a_second_agent_is_refused_with_the_pid_of_the_first(node: Node) -> None:
    assert node.process is not None
    code, err = refused_start(node)
    assert code == 6
    assert str(node.process.pid) in err
    assert "Traceback" not in err
    assert ask(node, "/healthz")[0] == 200


@pytest.mark.parametrize("which", ["admin", "listen"])
def test_a_port_that_is_taken_is_named(
    make_node: MakeNode, make_database: MakeDatabase, which: str
) -> None:
    node = make_node("alone", make_database(), start=False)
    host, _, port = getattr(node, which).rpartition(":")
    with socket.create_server((host, int(port))):
        code, err = refused_start(node)
    assert code == 7
    assert f"cannot listen on {host}:{port}" in err
    assert "ss -ltnp" in err
    assert "Traceback" not in err


# --- the configuration is read again ------------------------------------------------------------
def hang_up(node: Node, settings: str, expected: str) -> str:
    """Changes the configuration, sends SIGHUP, and gives what the log says of it."""
    assert node.process is not None
    start = len(node.log)
    more = node.home / "conf.d"
    more.mkdir(exist_ok=True)
    (more / "more.toml").write_text(settings)
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: expected in node.log[start:])
    return node.log[start:]


def test_a_changed_configuration_is_taken_without_a_restart(node: Node) -> None:
    said = hang_up(
        node,
        '[full_sync]\nchunk_mib = 1\nparallel = 3\n[log]\nlevel = "warning"\n',
        "restart the agent for these to take effect: full_sync.parallel",
    )
    assert "configuration read again: full_sync.chunk_mib, log.level" in said
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert node.log.count("configuration read again") == 1  # warnings only, since then
    hang_up(node, "[full_sync]\nchunk_mib = 1\n", "configuration read again: log.level")
    assert ask(node, "/healthz")[0] == 200


def test_a_wrong_configuration_changes_nothing_and_the_log_says_why(node: Node) -> None:
    said = hang_up(node, "[network]\nretry_mx_s = 1\n", "the old one stays")
    assert "network.retry_mx_s" in said
    assert "did you mean network.retry_max_s?" in said
    assert "Traceback" not in said
    assert ask(node, "/readyz")[0] == 200
    hang_up(node, "", "configuration read again: nothing to change")


def test_systemd_hears_of_start_reload_and_stop(
    make_node: MakeNode, make_database: MakeDatabase, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)

        def hear(line: str) -> str:
            while line not in (told := systemd.recv(4096).decode()).split("\n"):
                pass
            return told

        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
        node = make_node("alone", make_database(), env=env)
        hear("READY=1")
        assert "STATUS=waiting for work" in hear("WATCHDOG=1")
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in hear("RELOADING=1")
        hear("READY=1")
        node.stop()
        hear("STOPPING=1")


# --- a password is nobody's business ------------------------------------------------------------
def test_a_password_shows_nowhere_while_a_sync_runs(
    make_node: MakeNode, make_database: MakeDatabase
) -> None:
    nodes = []
    for name in ("server-a", "server-b"):
        database = make_database()
        role = f"canary_{name[-1]}"
        cluster = database.cluster
        cluster.createrole(role)
        cluster.psql(f"ALTER ROLE {role} SUPERUSER PASSWORD '{CANARY}'")
        parameters = cluster.parameters(database.name, host="127.0.0.1")
        conninfo = " ".join(
            f"{k}={v}" for k, v in {**parameters, "user": role, "password": CANARY}.items()
        )
        nodes.append(
            make_node(name, Database(cluster, database.name), conninfo=conninfo,
                      env={"PEERSYNC_LOG_LEVEL": "debug"}, start=False)
        )  # fmt: skip
        nodes[-1].fresh = True  # its own command line and environment are looked at
        nodes[-1].start()
    source, target = nodes
    target.pair_with(source)
    source.database.psql(
        "CREATE TABLE t AS SELECT i AS id, md5(i::text) FROM generate_series(1, 200000) i;"
        "ALTER TABLE t ADD PRIMARY KEY (id)"
    )
    agents = {n.process.pid for n in nodes if n.process}
    found: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.005):
            for pid in _family(agents):
                for what in ("cmdline", "environ"):
                    text = _read(pid, what)
                    if what == "cmdline":
                        seen.add(Path(text.split("\0")[0]).name)
                    if CANARY in text:
                        found.append(f"{what} of {pid}: {text}")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        pulled = target.pull("server-a")
    finally:
        stop.set()
        watcher.join()
    assert pulled.json["rows"]["inserted"] == 200_000
    assert any("pg_dump" in name for name in seen), seen
    assert found == []
    told = [pulled.out, pulled.err, source.log, target.log]
    for command in ("status", "check", "history", "jobs list", "config show", "peer list"):
        result = target.run(*command.split(), "--json", check=False)
        told += [result.out, result.err]
    cluster = target.database.cluster
    cluster.psql("ALTER ROLE canary_b PASSWORD 'another'")
    refused = target.run("check", check=False)
    assert refused.code == 1
    told += [refused.out, refused.err, target.run("check", "--json", check=False).out]
    assert [text for text in told if CANARY in text] == []


def _family(roots: set[int]) -> set[int]:
    family = set(roots)
    for pid in roots:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                family |= {int(child) for child in task.read_text().split()}
            except OSError:
                continue
    return family


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().decode(errors="replace")
    except OSError:
        return ""
