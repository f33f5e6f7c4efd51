"""Where a value comes from, and what is said about one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from peersync.config.load import SYSTEM_CONFIG, Loaded, find_config, load_config
from peersync.core.errors import ConfigError

MINIMAL = """
[node]
name = "a"
[database.shop]
conninfo = "postgresql://app:canary%21@db.example/shop"
"""


def load(path: Path, text: str = MINIMAL, **environ: str) -> Loaded:
    file = path / "peersync.toml"
    file.write_text(text)
    return load_config(file, environ, uid=1000)


def refusal(path: Path, text: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, text, **environ)
    return caught.value


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "peersync.toml"
    file.write_text(MINIMAL + '[log]\nlevel = "error"\n')
    environ = {"PEERSYNC_LOG_LEVEL": "warning"}
    given = {"log.level": "debug", "log.format": None}

    assert load_config(file, {}, uid=0).config.log.level == "error"
    assert load_config(file, environ, uid=0).config.log.level == "warning"
    loaded = load_config(file, environ, given, uid=0)
    assert loaded.config.log.level == "debug"
    assert loaded.config.log.format == "auto"


def test_every_value_knows_its_origin(tmp_path: Path) -> None:
    loaded = load(tmp_path, PEERSYNC_NETWORK_RETRY_MAX_S="5")
    origins = loaded.origins
    assert origins["node.name"] == f"{tmp_path / 'peersync.toml'}: node.name"
    assert origins["network.retry_max_s"] == "PEERSYNC_NETWORK_RETRY_MAX_S"
    assert origins["network.retry_for_s"] == "default"
    assert origins["database.shop.include"] == "default"
    assert loaded.config.network.retry_max_s == 5


def test_conf_d_is_read_after_the_file_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "20-b.toml").write_text('[log]\nlevel = "debug"\n')
    (tmp_path / "conf.d" / "10-a.toml").write_text(
        '[log]\nlevel = "error"\n[database.shop]\nexclude = ["public.tmp_*"]\n'
    )
    loaded = load(tmp_path)
    assert loaded.config.log.level == "debug"
    assert loaded.config.database["shop"].exclude == ("public.tmp_*",)
    assert loaded.config.database["shop"].conninfo.startswith("postgresql://app:")
    assert loaded.origins["log.level"] == f"{tmp_path / 'conf.d/20-b.toml'}: log.level"


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ('[node]\nlisten_ = ":1"\n', "node.listen_", "did you mean node.listen?"),
        ("[netwrok]\n", "netwrok", "did you mean network?"),
        ("[database.shop]\nconinfo = ''\n", "database.shop.coninfo", "database.shop.conninfo?"),
        ("[log]\nzzz = 1\n", "log.zzz", "valid here: level, format"),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_key(
    tmp_path: Path, text: str, path: str, hint: str
) -> None:
    error = refusal(tmp_path, text)
    assert path in error.message
    assert str(tmp_path / "peersync.toml") in error.message
    assert error.hint is not None
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[full_sync]\nparallel = '2'\n", "full_sync.parallel"),
        ("[full_sync]\nparallel = 0\n", "full_sync.parallel"),
        ("[full_sync]\ncompression_level = 20\n", "full_sync.compression_level"),
        ('[full_sync]\nwork_mem = "128MB; DROP TABLE t"\n', "full_sync.work_mem"),
        ('[node]\nname = "Server A"\n', "node.name"),
        ('[node]\nlisten = "8791"\n', "node.listen"),
        ('[log]\nlevel = "loud"\n', "log.level"),
        ("node = 3\n", "node"),
        ("[node.name]\nx = 1\n", "node.name"),
        ("[database]\nshop = 1\n", "database.shop"),
        ('[database."../x"]\nconninfo = ""\n', "database.../x"),
        ("[database.shop]\ninclude = ['*']\n", "database.shop"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_path(
    tmp_path: Path, text: str, path: str
) -> None:
    error = refusal(tmp_path, text)
    assert path in error.message
    assert error.exit_code == 7


def test_the_environment_reaches_every_kind_of_key(tmp_path: Path) -> None:
    text = MINIMAL + '[database.my-db]\nconninfo = ""\n'
    config = load(
        tmp_path,
        text,
        PEERSYNC_NODE_LISTEN="[::1]:99",
        PEERSYNC_FULL_SYNC_CHUNK_MIB="5",
        PEERSYNC_DATABASE_SHOP_INCLUDE="public.*, sales.order_*",
        PEERSYNC_DATABASE_MY_DB_CONNINFO="dbname=mine",
        PEERSYNC_DATABASE_OTHER_CONNINFO="dbname=other",
        PEERSYNC_DATABASE_SHOP_PASSWORD_FILE="/run/secret",
    ).config
    assert config.node.listen == "[::1]:99"
    assert config.full_sync.chunk_mib == 5
    assert config.database["shop"].include == ("public.*", "sales.order_*")
    assert config.database["shop"].password_file == "/run/secret"
    assert config.database["my-db"].conninfo == "dbname=mine"
    assert config.database["other"].conninfo == "dbname=other"


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("PEERSYNC_NODE_LISTN", ":1", "PEERSYNC_NODE_LISTEN"),
        ("PEERSYNC_DATABASE_SHOP_CONINFO", "", "PEERSYNC_DATABASE_SHOP_CONNINFO"),
        ("PEERSYNC_FULL_SYNC_PARALLEL", "many", ""),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, variable: str, value: str, hint: str) -> None:
    error = refusal(tmp_path, MINIMAL, **{variable: value})
    assert variable in error.message
    assert hint in (error.hint or "")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, PEERSYNC_DEBUG="1", PEERSYNC_CORPUS="/x", PGHOST="h").config.log.level


@pytest.mark.parametrize("text", ["[node", "\xff"])
def test_a_file_that_is_not_toml_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "peersync.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"peersync\.toml is not valid TOML"):
        load_config(file, {}, uid=0)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml", {}, uid=0)
    assert "peersync init" in str(caught.value.hint)


def test_what_depends_on_the_place_is_filled_in(tmp_path: Path) -> None:
    user = load(tmp_path, XDG_STATE_HOME="/home/u/state").config.node
    assert user.state_dir == "/home/u/state/peersync"
    assert user.spool_dir == "/home/u/state/peersync/spool"
    assert user.socket == "/home/u/state/peersync/agent.sock"
    system = load_config(tmp_path / "peersync.toml", {}, uid=0).config.node
    assert system.state_dir == "/var/lib/peersync"
    assert system.socket == "/run/peersync/peersync.sock"


def test_an_invite_names_a_host_that_others_can_reach(tmp_path: Path) -> None:
    named = load(tmp_path, PEERSYNC_NODE_LISTEN="10.0.0.7:99").config.node
    assert named.advertise == "10.0.0.7:99"
    anywhere = load(tmp_path, PEERSYNC_NODE_LISTEN="0.0.0.0:99").config.node
    assert anywhere.advertise.endswith(":99")
    assert not anywhere.advertise.startswith("0.0.0.0")


def test_a_socket_path_that_no_kernel_takes_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, MINIMAL, PEERSYNC_NODE_STATE_DIR="/x" * 60)
    assert "node.socket" in error.message


def test_a_relative_directory_is_refused(tmp_path: Path) -> None:
    assert "absolute" in refusal(tmp_path, MINIMAL, PEERSYNC_NODE_STATE_DIR="state").message


def test_the_file_is_found_by_flag_then_environment_then_home(tmp_path: Path) -> None:
    own = tmp_path / "peersync" / "peersync.toml"
    environ = {"PEERSYNC_CONFIG": "/env.toml", "XDG_CONFIG_HOME": str(tmp_path)}
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_config("/flag.toml", environ, uid=1000) == Path("/flag.toml")
    assert find_config(None, environ, uid=1000) == Path("/env.toml")
    assert find_config(None, home, uid=0) == SYSTEM_CONFIG
    own.parent.mkdir()
    own.touch()
    assert find_config(None, home, uid=1000) == own


def test_a_password_never_shows_in_a_repr_or_an_error(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert "canary" not in repr(loaded)
    assert "canary" not in repr(loaded.config.database["shop"])
    error = refusal(tmp_path, "[database.shop]\nconninfo = ['postgresql://u:canary@h/d']\n")
    assert "canary" not in f"{error.message} {error.detail} {error.hint} {error.data}"
