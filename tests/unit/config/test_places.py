"""A directory that cannot be written is found out, and the trial leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from peersync.config.places import trouble_with


@pytest.mark.parametrize("name", ["", "new", "new/deeper"])
def test_a_directory_that_is_there_or_can_be_made_is_no_trouble(name: str, tmp_path: Path) -> None:
    assert trouble_with(tmp_path / name) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_or_above_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert trouble_with(file) == "it is a file, not a directory"
    assert trouble_with(file / "spool") == f"{file} is a file, not a directory"


def test_what_even_root_cannot_write_is_trouble() -> None:
    assert trouble_with(Path("/proc/peersync")) is not None


def test_a_link_to_nowhere_is_trouble(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert trouble_with(link) is not None
