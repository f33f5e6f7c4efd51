"""A wrong value is refused by its path, and in words that need no manual."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from peersync.config.load import load_config
from peersync.core.errors import ConfigError

NODE, SYNC, SHOP = "[node]\n", "[full_sync]\n", '[database.shop]\nconninfo = ""\n'


def refusal(home: Path, text: str, **environ: str) -> ConfigError:
    file = home / "peersync.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {"HOME": "/nonexistent", **environ}, uid=1000)
    return caught.value


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        (NODE + 'listen = "h:0"', "node.listen", "from 1 to 65535"),
        (NODE + 'listen = "h:65536"', "node.listen", 'from 1 to 65535; got "h:65536"'),
        (NODE + 'advertise = "h:99999"', "node.advertise", "from 1 to 65535"),
        (NODE + 'admin = "h:0"', "node.admin", "from 1 to 65535"),
        (NODE + 'listen = "[zz]:1"', "node.listen", "HOST:PORT"),
        (NODE + "listen = \"a'b:1\"", "node.listen", "host"),
        (NODE + "listen = 1", "node.listen", "HOST:PORT"),
        (NODE + 'name = "A B"', "node.name", '1 to 63 of a-z, 0-9 and -, and not begin with -'),
        (NODE + "name = 1979-05-27", "node.name", "got 1979-05-27"),
        (NODE + r'state_dir = "/x\u0000"', "node.state_dir", "got"),
        (SHOP + 'include = ["a.b.c"]', "database.shop.include", '"a.b.c" is not a pattern'),
        (SHOP + "include = ['\"a']", "database.shop.include", "double quote is opened"),
        (SHOP + 'exclude = [""]', "database.shop.exclude", "a name is empty"),
        (SHOP + 'exclude = "x"', "database.shop.exclude", "a list of texts in quotes"),
        (SHOP + "exclude = [1]", "database.shop.exclude", "a list of texts in quotes"),
        (SYNC + "spool_max_gib = inf", "full_sync.spool_max_gib", "a number from 0 to 1048576"),
        (SYNC + "spool_max_gib = 1e300", "full_sync.spool_max_gib", "got 1e+300"),
        (SYNC + "parallel = true", "full_sync.parallel", "a whole number from 1 to 64; got true"),
        (SYNC + "parallel = 2.5", "full_sync.parallel", "a whole number"),
        (SYNC + 'work_mem = "lots"', "full_sync.work_mem", "kB, MB, GB or TB"),
        (SYNC + 'work_mem = "0kB"', "full_sync.work_mem", "from 64kB to 2047GB"),
        (SYNC + 'work_mem = "9999TB"', "full_sync.work_mem", "from 64kB to 2047GB"),
        ("[network]\nread_timeout_s = nan", "network.read_timeout_s", "above 0 and up to 2592000"),
        ('[log]\nlevel = "loud"', "log.level", "one of debug, info, warning, error"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_explained_without_a_pattern(
    text: str, path: str, words: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path, text)
    assert error.exit_code == 7
    assert path in error.message
    assert words in str(error.detail)
    assert error.hint == "correct it, then: peersync config check"
    assert not re.search(r"regex|\^|\[a-z|Expected|`", f"{error.message} {error.detail}")


def test_a_wrong_variable_is_explained_in_the_same_words(tmp_path: Path) -> None:
    error = refusal(tmp_path, SHOP, PEERSYNC_NODE_LISTEN="x")
    assert "PEERSYNC_NODE_LISTEN" in error.message
    assert "HOST:PORT" in str(error.detail) and "regex" not in str(error.detail)
    error = refusal(tmp_path, SHOP, PEERSYNC_DATABASE_SHOP_INCLUDE="a.b.c")
    assert "(PEERSYNC_DATABASE_SHOP_INCLUDE)" in str(error.detail)


def test_a_variable_without_a_database_gets_advice_that_helps(tmp_path: Path) -> None:
    error = refusal(tmp_path, SHOP, PEERSYNC_DATABASE__CONNINFO="x")
    assert error.hint == "did you mean PEERSYNC_DATABASE_SHOP_CONNINFO?"


def test_a_long_value_is_cut_and_a_password_in_it_is_masked(tmp_path: Path) -> None:
    error = refusal(tmp_path, NODE + f'listen = "{"x" * 100_000}"')
    assert len(str(error.detail)) < 300
    error = refusal(tmp_path, "[database.shop]\nconninfo = ['postgresql://u:canary@h/d']")
    assert "canary" not in str(error.detail)


@pytest.mark.parametrize("listen", ["0.0.0.0:8791", ":8791", "*:1", "[::1]:65535", "a_b.c-d:80"])
def test_an_address_that_can_be_listened_on_is_taken(listen: str, tmp_path: Path) -> None:
    file = tmp_path / "peersync.toml"
    file.write_text(f'[node]\nlisten = "{listen}"\n[full_sync]\nwork_mem = "64 kB"\n')
    assert load_config(file, {}, uid=0).config.node.listen == listen


def test_a_directory_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory") as caught:
        load_config(tmp_path, {}, uid=0)
    assert str(caught.value.hint).endswith(f"{tmp_path}/peersync.toml")


@pytest.mark.parametrize("name", ["x" * 300, "file/peersync.toml"])
def test_a_path_that_cannot_be_read_is_an_error_with_the_systems_words(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be read: (File name|Not a dir)"):
        load_config(tmp_path / name, {}, uid=0)


def test_a_node_with_a_state_directory_needs_no_home(tmp_path: Path) -> None:
    file = tmp_path / "peersync.toml"
    file.write_text('[node]\nstate_dir = "/srv/peersync"\n')
    no_home = {"HOME": "~nobody-has-this-name"}
    assert load_config(file, no_home, uid=1000).config.node.socket == "/srv/peersync/agent.sock"
    file.write_text("")
    with pytest.raises(ConfigError, match="home directory"):
        load_config(file, no_home, uid=1000)


SET = SHOP + '[[table_set]]\nname = "x"\ntables = ["t"]\nmethod = "full"\n'


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ('{column = "a", op = "in", value = 1}', "a in: one value; a list of them for in"),
        ('{column = "a", value = [1]}', "a =: one value; a list of them for in"),
        ('{column = "a", op = "in", value = []}', "the list is empty"),
    ],
)
def test_a_condition_that_the_other_node_would_refuse_is_refused_here(
    tmp_path: Path, condition: str, words: str
) -> None:
    error = refusal(tmp_path, f"{SET}filter = [{condition}]")
    assert words in (error.detail or "")
    assert f"({tmp_path / 'peersync.toml'}: table_set)" in (error.detail or "")


def test_a_date_of_toml_is_the_text_that_the_database_reads(tmp_path: Path) -> None:
    file = tmp_path / "peersync.toml"
    file.write_text(f'{SET}filter = [{{column = "day", op = ">=", value = 2026-01-31}}]')
    loaded = load_config(file, {"HOME": "/nonexistent"}, uid=1000)
    assert loaded.config.table_set[0].filter[0].value == "2026-01-31"
