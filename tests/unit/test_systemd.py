"""The units are valid, and their hardening does not rot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
AGENT = UNITS / "peersync-agent.service"
PERIODIC = UNITS / "peersync-periodic.service"
SERVICES = pytest.mark.parametrize("unit", [AGENT, PERIODIC], ids=lambda unit: unit.stem)
THRESHOLD = 15  # tenths: 1.5 of 10, "OK"; most services of the system have more than 90


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    return subprocess.run([name, *arguments], capture_output=True, text=True, check=False)


@SERVICES
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    verb = unit.stem.removeprefix("peersync-")
    assert f"ExecStart=/usr/bin/peersync {verb} " in text
    installed = tmp_path / unit.name  # verify wants a program that is there
    installed.write_text(text.replace("/usr/bin/peersync", shutil.which("true") or "/bin/true"))
    done = tool("systemd-analyze", "verify", installed)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, done.stderr  # a misspelt key is only a warning


@SERVICES
def test_a_unit_stays_hardened(unit: Path) -> None:
    done = tool("systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD}", unit)
    assert done.returncode == 0, done.stdout + done.stderr


@SERVICES
def test_every_hardening_line_has_its_reason(unit: Path) -> None:
    section = unit.read_text().partition("# --- hardening")[2].partition("[Install]")[0]
    blocks, commented = 0, False
    for line in section.splitlines()[1:]:
        if line.startswith("#"):
            commented, blocks = True, blocks + 1
        else:
            assert commented or not line, f"no reason is given for {line}"
    assert blocks > 10


def test_the_user_is_made_as_the_unit_wants_it() -> None:
    file = UNITS / "peersync.sysusers"
    fields = [line.split() for line in file.read_text().splitlines() if line[0] != "#"]
    assert [line[:2] for line in fields] == [["u", "peersync"]]
    assert "User=peersync\n" in AGENT.read_text()
    done = tool("systemd-sysusers", "--dry-run", file)
    assert done.returncode == 0, done.stderr


def test_the_configuration_directory_is_closed_to_others() -> None:
    lines = (UNITS / "peersync.tmpfiles").read_text().splitlines()
    modes = {path: mode for line in lines if line[0] != "#" for _, path, mode, *_ in [line.split()]}
    assert modes == {
        "/etc/peersync": "0750",
        "/etc/peersync/conf.d": "0750",
        "/etc/peersync/peersync.toml": "0640",
    }
