"""The right pg_dump for a server is found, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pgcluster
import pytest

from peersync.core.errors import ToolMissing
from peersync.postgres.binaries import choose_pg_dump, find_tools


def fake(directory: Path, version: str, program: str = "pg_dump") -> Path:
    """A program that only knows its version."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / program
    path.write_text(f"#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the test configures."""
    monkeypatch.setattr("peersync.postgres.binaries._PLACES", ())
    monkeypatch.setattr("peersync.postgres.binaries._WHEELS", ())
    monkeypatch.setenv("PATH", "/nonexistent")


def test_the_servers_of_this_machine_have_their_pg_dump() -> None:
    majors = {tool.major for tool in find_tools("pg_dump")}
    assert set(pgcluster.find_installations()) <= majors
    for major in pgcluster.find_installations():
        chosen = choose_pg_dump(major * 10_000 + 1)
        assert chosen.major == major
        assert chosen.note is None


@pytest.mark.usefixtures("only")
def test_the_same_major_wins_and_its_newest_minor(tmp_path: Path) -> None:
    dirs = [str(fake(tmp_path / v, v).parent) for v in ("16.3", "17.2", "17.10", "18.1")]
    assert choose_pg_dump(170_005, bindirs=dirs).version == "17.10"


@pytest.mark.usefixtures("only")
def test_else_the_smallest_newer_major_with_a_note(tmp_path: Path) -> None:
    dirs = [str(fake(tmp_path / v, v).parent) for v in ("15.20", "17.2", "18.1")]
    chosen = choose_pg_dump(160_004, 150_020, bindirs=dirs)
    assert chosen.version == "17.2"
    assert "no pg_dump 16" in str(chosen.note)
    assert "15.20 does not know" in str(chosen.note)
    assert "does not know" not in str(choose_pg_dump(160_004, 180_001, bindirs=dirs).note)


@pytest.mark.usefixtures("only")
def test_an_older_one_never_does_and_the_package_is_named(tmp_path: Path) -> None:
    directory = str(fake(tmp_path / "15", "15.20").parent)
    with pytest.raises(ToolMissing) as caught:
        choose_pg_dump(170_010, bindirs=[directory])
    assert "postgresql-client-17" in str(caught.value.hint)
    assert "15.20" in str(caught.value.detail)


@pytest.mark.usefixtures("only")
def test_an_upgraded_program_is_noticed(tmp_path: Path) -> None:
    directory = str(fake(tmp_path, "17.9").parent)
    assert choose_pg_dump(170_000, bindirs=[directory]).version == "17.9"
    fake(tmp_path, "17.10")
    assert choose_pg_dump(170_000, bindirs=[directory]).version == "17.10"


@pytest.mark.usefixtures("only")
def test_what_is_no_client_program_is_passed_over(tmp_path: Path) -> None:
    wrapper = fake(tmp_path / "debian", "17.1", "pg_wrapper")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pg_dump").symlink_to(wrapper)
    broken = fake(tmp_path / "broken", "17.1")
    broken.write_text("#!/bin/sh\nexit 1\n")
    fake(tmp_path / "plain", "17.1").chmod(0o644)
    dirs = [str(tmp_path / name) for name in ("bin", "broken", "plain", "missing")]
    assert find_tools("pg_dump", dirs) == ()
