"""The units are valid, in every variant that is installed, and their hardening does not rot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peersync.cli.context import Context
from peersync.cli.main import run
from peersync.cli.unit_files import SERVICES, UNITS, UnitFile, system_files, user_files
from peersync.config.load import SYSTEM_CONFIG, SYSTEM_SOCKET, SYSTEM_STATE

SHIPPED = Path(__file__).parents[2] / "systemd"
THRESHOLD = 15  # tenths: 1.5 of 10, "OK"; most services of the system have more than 90
TRUE = shutil.which("true") or "/bin/true"  # verify wants a program that is there
SYSTEM = {file.name: file for file in system_files(TRUE, instances=True)}
PLAIN = pytest.mark.parametrize("name", SERVICES)


def tool(
    name: str, *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    return subprocess.run(
        [name, *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def written(files: Iterator[UnitFile], directory: Path) -> list[Path]:
    """The units among the files, as they are installed."""
    paths = []
    for file in files:
        if file.name.endswith((".service", ".timer")):
            path = directory / file.name
            path.write_text(file.marked)
            paths.append(path)
    return paths


@pytest.mark.parametrize("manager", ["system", "user"])
def test_the_units_are_valid(manager: str, tmp_path: Path) -> None:
    found = system_files(TRUE, instances=True) if manager == "system" else user_files(TRUE)
    paths = written(found, tmp_path)
    assert len(paths) == (2 * len(UNITS) if manager == "system" else len(UNITS))
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}  # a user's manager wants one
    done = tool("systemd-analyze", f"--{manager}", "--man=no", "verify", *paths, env=env)
    assert done.returncode == 0, done.stderr
    assert "peersync" not in done.stderr, done.stderr  # a misspelt key is only a warning


def test_a_misspelt_key_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "peersync-agent.service"
    path.write_text(SYSTEM["peersync-agent.service"].text.replace("UMask=", "Umask="))
    assert "Umask" in tool("systemd-analyze", "--man=no", "verify", path).stderr


@pytest.mark.parametrize("name", [n for n in SYSTEM if n.endswith(".service")])
def test_a_service_stays_hardened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(SYSTEM[name].marked)
    done = tool("systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD}", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_every_line_that_restricts_has_its_reason(name: str) -> None:
    text = (SHIPPED / name).read_text()
    section = text.partition("# --- hardening")[2].partition("[Install]")[0]
    commented = False
    for line in section.splitlines()[1:]:
        if line.startswith("#"):
            commented = True
        else:
            assert commented or not line, f"no reason is given for {line}"
    assert (section.count("#") > 10) == name.endswith(".service")


@PLAIN
def test_each_service_is_closed_as_much_as_the_others(name: str) -> None:
    """What one of them may do more than the agent would be a mistake in copying."""

    def restricted(unit: str) -> set[str]:
        lines = (SHIPPED / unit).read_text().partition("# --- hardening")[2].splitlines()
        return {line for line in lines if line and line[0] not in "#[" and "WantedBy" not in line}

    families = {"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"}
    assert restricted("peersync-agent.service") - restricted(name) <= families


@PLAIN
def test_a_service_runs_the_verb_and_the_files_that_there_are(name: str) -> None:
    verb = name.removeprefix("peersync-").removesuffix(".service").replace("bulk", "bulk-sync")
    text = (SHIPPED / name).read_text()
    assert f"ExecStart=/usr/bin/peersync {verb} " in text
    assert f" --config {SYSTEM_CONFIG}\n" in text
    if "StateDirectory=" in text:
        assert f"StateDirectory={SYSTEM_STATE.relative_to('/var/lib')}\n" in text
    if "RuntimeDirectory=" in text:
        assert f"RuntimeDirectory={SYSTEM_SOCKET.parent.relative_to('/run')}\n" in text


@PLAIN
def test_a_service_types_a_command_that_there_is(name: str) -> None:
    line = (SHIPPED / name).read_text().partition("ExecStart=")[2].partition("\n")[0]
    assert run([*line.split()[1:], "--help"], Context(environ={}, uid=1000)) == 0


def test_an_instance_shares_no_file_with_another() -> None:
    for name in SERVICES:
        text = SYSTEM[name.replace(".", "@.")].text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert " --config /etc/peersync/%i/peersync.toml" in text
        for line in lines:
            if line.startswith(("StateDirectory=", "RuntimeDirectory=")):
                assert line.endswith("=peersync-%i")
            assert "peersync-agent.service" not in line
    assert "After=peersync-agent@%i.service\n" in SYSTEM["peersync-bulk@.service"].text


def test_a_user_needs_no_right_of_roots() -> None:
    for file in user_files(TRUE):
        keys = {line.partition("=")[0] for line in file.text.splitlines() if line[:1] != "#"}
        assert not keys & {"User", "Group", "StateDirectory", "PrivateUsers", "ProtectSystem"}
        assert "/etc/peersync" not in file.text.replace("# ", "")
        assert "multi-user.target" not in file.text
        if file.name.endswith(".service"):
            assert {"NoNewPrivileges", "SystemCallFilter", "ExecStart"} <= keys
        if file.name == "peersync-agent.service":
            assert {"WatchdogSec", "ExecReload", "Type"} <= keys


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_pings_is_watched(name: str) -> None:
    text = (SHIPPED / name).read_text()
    assert ("WatchdogSec=60\n" in text) == ("Type=notify\n" in text)
    assert ("Type=oneshot\n" in text) == any(word in name for word in ("bulk", "verify"))


def test_the_bulk_sync_is_started_each_night_and_one_that_was_missed_is_made_up_for() -> None:
    text = (SHIPPED / "peersync-bulk.timer").read_text()
    assert "Persistent=true\n" in text
    assert "RandomizedDelaySec=" in text
    when = text.partition("OnCalendar=")[2].partition("\n")[0]
    done = tool("systemd-analyze", "calendar", "--iterations=2", when)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" 02:00:00") >= 3, done.stdout


def test_the_user_is_made_as_the_units_want_it() -> None:
    file = SHIPPED / "peersync.sysusers"
    fields = [line.split() for line in file.read_text().splitlines() if line[0] != "#"]
    assert [line[:2] for line in fields] == [["u", "peersync"]]
    for name in SERVICES:
        assert "User=peersync\nGroup=peersync\n" in (SHIPPED / name).read_text()
    done = tool("systemd-sysusers", "--dry-run", file)
    assert done.returncode == 0, done.stderr


def test_the_configuration_is_closed_to_others() -> None:
    lines = (SHIPPED / "peersync.tmpfiles").read_text().splitlines()
    modes = {path: mode for line in lines if line[0] != "#" for _, path, mode, *_ in [line.split()]}
    assert modes == {
        "/etc/peersync": "0750",
        "/etc/peersync/conf.d": "0750",
        "/etc/peersync/*.toml": "0640",
        "/etc/peersync/*/*.toml": "0640",
    }
