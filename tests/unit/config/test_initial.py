"""The file that `peersync init` writes, and the page that explains its keys."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec
import pytest

from peersync.config.initial import MODE_SYSTEM, MODE_USER, render_initial, write_initial
from peersync.config.load import load_config
from peersync.config.model import LISTS, NAMED, SECTIONS, Config, fields
from peersync.config.table import Table
from peersync.core.errors import ConfigError

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
AWKWARD = "host=h password='a\\\\b\"c' # ☃ \t"


def test_the_written_file_gives_what_was_asked_for_and_the_defaults(tmp_path: Path) -> None:
    path = write_initial(
        tmp_path / "new" / "peersync.toml",
        node={"name": "server-a", "listen": "0.0.0.0:9000"},
        databases={"shop": {"conninfo": AWKWARD, "include": ("a.*", "b.*")}},
    )
    config = load_config(path, {}, uid=0).config
    assert config.node.name == "server-a"
    assert config.node.listen == "0.0.0.0:9000"
    assert config.database["shop"].conninfo == AWKWARD
    assert config.database["shop"].include == ("a.*", "b.*")
    assert config.full_sync == Config().full_sync
    assert config.log == Config().log


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    text = render_initial(node={}, databases={"shop": {"conninfo": ""}})
    path = tmp_path / "peersync.toml"
    path.write_text(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    loaded = load_config(path, {}, uid=0)
    untouched = load_config(write_initial(tmp_path / "x.toml", node={}, databases={}), {}, uid=0)
    assert loaded.config.full_sync == untouched.config.full_sync
    assert loaded.config.network == untouched.config.network
    assert loaded.config.node == untouched.config.node
    assert loaded.origins["network.retry_for_s"] != "default"


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "peersync.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_initial(path, node={}, databases={})
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [MODE_USER, MODE_SYSTEM])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0)
    try:
        path = write_initial(tmp_path / "peersync.toml", node={}, databases={}, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_page_explains_every_key_and_no_other() -> None:
    explained: dict[str, dict[str, str]] = {}
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"## `\[{1,2}([a-z_]+)(?:\.NAME)?\]{1,2}`", line):
            explained[heading[1]] = {}
        elif row := re.match(r"\| `([a-z_]+)` \| (.*?) \|", line):
            explained[next(reversed(explained))][row[1]] = row[2]
    tables: dict[str, type[Table]] = {**SECTIONS, **NAMED, **LISTS}
    assert {name: list(keys) for name, keys in explained.items()} == {
        name: list(fields(tables[name])) for name in explained
    }
    assert set(explained) == set(tables)
    for name, keys in explained.items():
        for key, shown in keys.items():
            default = fields(tables[name])[key].default
            if default not in ("", msgspec.NODEFAULT):
                plain = list(default) if isinstance(default, tuple) else default
                text = msgspec.json.encode(plain).decode().removesuffix(".0")
                assert shown == f"`{text}`", f"{name}.{key}"
