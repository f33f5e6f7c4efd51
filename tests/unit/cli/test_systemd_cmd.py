"""`peersync systemd`: what it writes, what it leaves alone, and what it says."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from peersync.cli.context import Context
from peersync.cli.main import run
from peersync.cli.unit_files import is_ours, shipped, trouble_with_program

PROGRAM = "/opt/peersync/bin/peersync"
AGENT = "etc/systemd/system/peersync-agent.service"
DROP_IN = "[Service]\nMemoryMax=2G\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


class Told:
    """Runs `peersync systemd …` and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.code, self.out, self.err = -1, "", ""

    def __call__(self, *arguments: str, **environ: str) -> Told:
        self.code = run(["systemd", *arguments], Context(environ=environ, uid=1000))
        self.out, self.err = self._capsys.readouterr()
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def states(self) -> dict[str, str]:
        """By the names of the files."""
        lines = [line.split(maxsplit=1) for line in self.out.splitlines()]
        return {path: state for state, path in lines}


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


def install(told: Told, root: Path, *more: str) -> Told:
    return told("install", "--prefix", str(root), "--program", PROGRAM, *more)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_install_writes_the_units_for_this_program(told: Told, root: Path) -> None:
    assert install(told, root).code == 0
    assert files(root) == {
        AGENT,
        "etc/systemd/system/peersync-periodic.service",
        "etc/systemd/system/peersync-bulk.service",
        "etc/systemd/system/peersync-bulk.timer",
        "etc/systemd/system/peersync-verify.service",
        "etc/systemd/system/peersync-verify.timer",
        "etc/sysusers.d/peersync.conf",
        "etc/tmpfiles.d/peersync.conf",
    }
    assert set(told.states) == {str(root / file) for file in files(root)}
    assert set(told.states.values()) == {"written"}
    text = (root / AGENT).read_text()
    assert f"ExecStart={PROGRAM} agent --config /etc/peersync/peersync.toml\n" in text
    assert (root / AGENT).stat().st_mode & 0o777 == 0o644
    assert told.err == ""  # nothing to start below a prefix


def test_a_dry_run_says_the_same_and_writes_nothing(told: Told, root: Path) -> None:
    would = install(told, root, "--dry-run", "--instances").states
    assert not root.exists()
    assert install(told, root, "--instances").states == would
    assert f"{root}/etc/systemd/system/peersync-agent@.service" in would


def test_a_second_install_changes_nothing_and_a_new_version_updates(told: Told, root: Path) -> None:
    install(told, root)
    assert set(install(told, root).states.values()) == {"unchanged"}
    told("install", "--prefix", str(root), "--program", "/usr/local/bin/peersync")
    assert told.states[str(root / AGENT)] == "updated"
    assert told.states[str(root / "etc/sysusers.d/peersync.conf")] == "unchanged"
    assert "ExecStart=/usr/local/bin/peersync agent " in (root / AGENT).read_text()


def test_a_file_that_somebody_changed_is_kept_until_it_is_forced(told: Told, root: Path) -> None:
    install(told, root)
    changed = (root / AGENT).read_text().replace("TimeoutStopSec=90", "TimeoutStopSec=5")
    (root / AGENT).write_text(changed)
    (root / "etc/systemd/system/peersync-periodic.service").unlink()
    install(told, root)
    assert told.code == 3
    assert told.states[str(root / AGENT)] == "kept"
    assert "systemctl edit" in told.err
    assert (root / AGENT).read_text() == changed
    assert (root / "etc/systemd/system/peersync-periodic.service").exists()  # the rest is done
    assert install(told, root, "--force").code == 0
    assert "TimeoutStopSec=90" in (root / AGENT).read_text()


def test_a_masked_unit_stays_masked(told: Told, root: Path) -> None:
    (root / AGENT).parent.mkdir(parents=True)
    (root / AGENT).symlink_to("/dev/null")
    assert install(told, root).code == 3
    assert os.readlink(root / AGENT) == "/dev/null"


def test_a_unit_that_was_copied_from_the_sources_is_nobodys_work(told: Told, root: Path) -> None:
    (root / AGENT).parent.mkdir(parents=True)
    (root / AGENT).write_text(shipped("peersync-agent.service"))
    assert install(told, root).states[str(root / AGENT)] == "updated"


def test_uninstall_removes_what_install_wrote_and_nothing_else(told: Told, root: Path) -> None:
    install(told, root, "--instances")
    timer = root / "etc/systemd/system/peersync-bulk.timer"
    timer.write_text(timer.read_text().replace("02:00", "04:00"))
    own = root / "etc/systemd/system/peersync-agent.service.d/own.conf"
    own.parent.mkdir()
    own.write_text(DROP_IN)
    before = files(root)
    assert told("uninstall", "--prefix", str(root), "--dry-run").code == 3
    assert files(root) == before
    assert told("uninstall", "--prefix", str(root)).code == 3
    assert files(root) == {str(path.relative_to(root)) for path in (timer, own)}
    assert told("uninstall", "--prefix", str(root), "--force").code == 0
    assert files(root) == {str(own.relative_to(root))}
    assert told.states[str(root / AGENT)] == "absent"


def test_one_user_installs_without_root(told: Told, tmp_path: Path) -> None:
    home = tmp_path / "home"
    told("install", "--user", "--program", PROGRAM, HOME=str(home), USER="ada")
    assert told.code == 0
    assert {path.parent for path in home.rglob("*.*") if path.is_file()} == {
        home / ".config/systemd/user"
    }
    assert "systemctl --user enable --now peersync-agent" in told.err
    assert "loginctl enable-linger ada" in told.err
    text = (home / ".config/systemd/user/peersync-agent.service").read_text()
    assert f"ExecStart={PROGRAM} agent\n" in text
    other = tmp_path / "config"
    told("install", "--user", "--program", PROGRAM, HOME=str(home), XDG_CONFIG_HOME=str(other))
    assert (other / "systemd/user/peersync-agent.service").exists()
    assert told("uninstall", "--user", HOME=str(home)).code == 0
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_the_next_commands_follow_what_was_written(told: Told) -> None:
    told("install", "--program", PROGRAM, "--dry-run", "--json")
    assert told.json["dry_run"] is True
    assert told.json["next"] == [
        "systemd-sysusers peersync.conf",
        "systemd-tmpfiles --create peersync.conf",
        "systemctl daemon-reload",
        "systemctl enable --now peersync-agent",
    ]


def test_a_directory_that_may_not_be_written_is_an_error_that_helps(
    told: Told, tmp_path: Path
) -> None:
    (tmp_path / "etc").write_text("a file is in the way")
    assert install(told, tmp_path).code == 1
    assert str(tmp_path / AGENT) in told.err
    assert "Traceback" not in told.err


# --- print ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("peersync-agent", "peersync-agent.service"),
        ("peersync-agent.service", "peersync-agent.service"),
        ("peersync-bulk.timer", "peersync-bulk.timer"),
        ("peersync-agent@", "peersync-agent@.service"),
        ("peersync.tmpfiles", "peersync.tmpfiles"),
    ],
)
def test_print_shows_one_unit_as_it_would_be_written(
    told: Told, root: Path, asked: str, name: str
) -> None:
    assert told("print", asked, "--program", PROGRAM).code == 0
    printed = told.out
    install(told, root, "--instances")
    directory = "tmpfiles.d" if name == "peersync.tmpfiles" else "systemd/system"
    file = name if name.startswith("peersync-") else "peersync.conf"
    assert (root / "etc" / directory / file).read_text().partition("\n")[2] == printed


def test_print_shows_all_of_them_by_name(told: Told) -> None:
    names = re.findall(r"^# ----- (\S+) -----$", told("print").out, re.MULTILINE)
    assert len(names) == len(set(names)) == 14
    assert [unit["name"] for unit in told("print", "--json").json["units"]] == names
    assert len(told("print", "--user", "--json").json["units"]) == 6


def test_a_unit_that_does_not_exist_is_answered_with_those_that_do(told: Told) -> None:
    assert told("print", "peersync-agnet").code == 2
    assert "peersync-agent.service" in told.err


def test_without_a_name_the_program_is_the_one_of_this_installation(told: Told) -> None:
    told("print", "peersync-agent")
    program = re.search(r"^ExecStart=(\S+)", told.out, re.MULTILINE)
    assert program is not None
    assert Path(program[1]) == Path(sys.executable).parent / "peersync"
    assert os.access(program[1], os.X_OK)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("/opt/my peersync/bin/peersync", 'ExecStart="/opt/my peersync/bin/peersync" agent'),
        ("/opt/100%/peersync", "ExecStart=/opt/100%%/peersync agent"),
    ],
)
def test_an_awkward_path_is_written_as_systemd_reads_it(
    told: Told, program: str, line: str
) -> None:
    assert line in told("print", "peersync-agent", "--program", program).out


def test_a_program_without_its_path_is_refused(told: Told) -> None:
    assert told("print", "--program", "peersync").code == 2


# --- a program that a service could not run -----------------------------------------------------
def test_a_program_that_a_service_does_not_see_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "peersync").write_text("")
    link = tmp_path / "link"
    link.symlink_to("/home/ada/bin/peersync")
    assert "does not see" in (trouble_with_program(Path("/home/ada/bin/peersync")) or "")
    assert "does not see" in (trouble_with_program(closed / "peersync") or "")  # it is in /tmp
    assert trouble_with_program(Path("/usr/bin/env")) is None
    assert "/home/ada/bin/peersync is in" in (trouble_with_program(link, hidden=["/home"]) or "")
    assert trouble_with_program(closed / "peersync", hidden=[]) == (
        f"other users may not pass {closed / 'peersync'}"
    )


def test_whose_a_file_is() -> None:
    ours = shipped("peersync-agent.service")
    assert is_ours(ours)
    assert not is_ours(ours + "MemoryMax=2G\n")
    assert not is_ours("")
    assert not is_ours(f"# Written by `peersync systemd install`, version 9; sha256 {'0' * 64}\nx")
