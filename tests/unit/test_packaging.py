"""What is in the tree is what is shipped, under the version that it says."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import peersync
from peersync.cli.unit_files import OTHERS, UNITS

ROOT = Path(__file__).parents[2]


OUTSIDE = {"sql": "peersync.sql", "systemd": "peersync.units"}  # where it lives: what it is


def _packages_in_tree() -> set[str]:
    places = [p for top in ("peersync", *OUTSIDE) for p in (ROOT / top).rglob("__init__.py")]
    parts = [place.parent.relative_to(ROOT).parts for place in places]
    return {".".join((OUTSIDE.get(top, top), *below)) for top, *below in parts}


def test_setup_cfg_lists_every_package_of_the_tree() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = setup["options"]["packages"].split()
    assert len(listed) == len(set(listed))
    assert set(listed) == _packages_in_tree()


def test_every_unit_is_shipped() -> None:
    names = sorted(
        p.name for p in (ROOT / "systemd").iterdir() if p.is_file() and p.suffix != ".py"
    )
    assert names == sorted([*UNITS, *OTHERS])
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = setup["options.package_data"]["peersync.units"].split(", ")
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in names)


def test_every_file_of_the_page_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = setup["options.package_data"]["peersync.dashboard"].split(", ")
    page = ROOT / "peersync" / "dashboard"
    files = {p.relative_to(page).as_posix() for p in page.rglob("*.*") if p.suffix[:3] != ".py"}
    assert "js/app.js" in files
    shipped = {p.relative_to(page).as_posix() for pattern in patterns for p in page.glob(pattern)}
    assert files <= shipped


def test_every_directory_with_sql_files_is_shipped() -> None:
    for file in (ROOT / "sql").rglob("*.sql"):
        assert (file.parent / "__init__.py").exists(), f"{file} is in no package"


def test_the_changelogs_newest_entry_is_this_version_or_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^]]+)\]", text, re.MULTILINE)
    assert newest, "CHANGELOG.md has no `## [version]` entry"
    assert newest[1] in (peersync.__version__, "Unreleased")


def test_what_runs_in_a_database_is_ascii_for_it_may_have_any_encoding() -> None:
    scripts = [*(ROOT / "sql" / "migrations").glob("*.sql"), ROOT / "sql" / "bookkeeping.sql"]
    scripts += (ROOT / "sql" / "functions").glob("*.sql")
    assert [script.name for script in scripts if not script.read_text("utf-8").isascii()] == []
