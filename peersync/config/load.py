"""Merges defaults, file, environment and flags into one frozen `Config`.

Owns the search for the file, the order (flag > environment > file > default), the origin
of each value, and errors that name the path, the place and the nearest valid key. It reads
the file and nothing else: the environment comes in as an argument, and nothing below the
CLI looks at it again.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from peersync.config.environment import from_environment
from peersync.config.filters import second_filter
from peersync.config.model import (
    LISTS,
    NAMED,
    SECTIONS,
    Config,
    DatabaseName,
    Node,
    NodeName,
    fields,
    known_keys,
)
from peersync.config.places import expand, reason
from peersync.config.rules import CHECK_AGAIN, shown, violations, wrong_value
from peersync.config.table import Table
from peersync.core.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/peersync/peersync.toml")
SYSTEM_STATE = Path("/var/lib/peersync")
SYSTEM_SOCKET = Path("/run/peersync/peersync.sock")
UNIX_PATH_MAX = 107  # sizeof(sockaddr_un.sun_path) - 1 on Linux

Key = tuple[str, ...]
Values = dict[Key, tuple[Any, str]]  # path → (value, origin)


@dataclass(frozen=True)
class Loaded:
    """The configuration, and where each value came from.

    `origins` has dotted paths ("node.listen") and "default", "FILE: KEY", the name of an
    environment variable, or "flag".
    """

    config: Config
    origins: Mapping[str, str]
    path: Path
    files: tuple[Path, ...]


def find_config(flag: str | None, environ: Mapping[str, str], *, uid: int) -> Path:
    """The file to use: `--config`, PEERSYNC_CONFIG, the user's own, the system's.

    The file need not exist: where none does, it is the one that `init` should write.
    """
    if named := flag or environ.get("PEERSYNC_CONFIG"):
        return expand(named)
    if uid == 0:
        return SYSTEM_CONFIG
    home = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    own = home / "peersync" / "peersync.toml"
    known = os.path.lexists(own) or not SYSTEM_CONFIG.exists()
    return own if known else SYSTEM_CONFIG


def load_config(
    path: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, object] = MappingProxyType({}),
    *,
    uid: int,
    text: str | None = None,
) -> Loaded:
    """Read `path` and `conf.d/*.toml` beside it; overlay environment and flags.

    `flags` has dotted paths; a value of None means "not given". `text` is what stands for the
    content of `path`, before it is written. Raises ConfigError.
    """
    values: Values = {}
    files = _files(path)
    for file in files:
        for key, (value, origin) in _from_file(file, text if file == path else None).items():
            if key[0] in LISTS and key in values:  # each file may add to a list
                value, origin = (*values[key][0], *value), f"{values[key][1]}, {origin}"
            values[key] = (value, origin)
    values.update(from_environment(environ, [key[1] for key in values if key[0] == "database"]))
    for dotted, given in flags.items():
        if given is not None:
            key = tuple(dotted.split("."))
            values[key] = (_checked(key, given, "flag", strict=False), "flag")
    _derive(values, path, environ, uid)
    config = _build(values)
    _check_paths(config, values)
    _check_rules(config, values)
    _check_filters(config)
    return Loaded(config, MappingProxyType(dict(_origins(config, values))), path, files)


def _files(path: Path) -> tuple[Path, ...]:
    if os.path.isdir(path):  # noqa: PTH112 - where it may not look, is_dir() raises
        raise ConfigError(
            f"{path} is a directory, not a configuration",
            hint=f"name the file: --config {path / 'peersync.toml'}",
            path=str(path),
        )
    extra = path.parent / "conf.d"
    with _readable(extra):  # glob() would leave out what may not be read, in silence
        more = sorted(extra.iterdir()) if extra.is_dir() else []
    return (path, *(file for file in more if file.name.endswith(".toml")))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no configuration at {path}",
            hint="peersync init writes one; --config or PEERSYNC_CONFIG names another",
            path=str(path),
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {reason(error)}",
            hint="check its owner and mode, or name another with --config",
            path=str(path),
        ) from error


def _from_file(file: Path, text: str | None = None) -> Values:
    try:
        with _readable(file):
            document = tomllib.loads(file.read_text(encoding="utf-8") if text is None else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not valid TOML", detail=str(error), hint=CHECK_AGAIN, path=str(file)
        ) from error
    found: Values = {}
    for key, raw in _leaves(document, (), file):
        origin = f"{file}: {'.'.join(key)}"
        found[key] = (_checked(key, raw, str(file), strict=True), origin)
    return found


def _leaves(table: dict[str, Any], path: Key, file: Path) -> Iterator[tuple[Key, Any]]:
    for name, value in table.items():
        key = (*path, name)
        if len(path) == 1 and path[0] in NAMED:
            _check_name(path[0], name, str(file))
        elif name not in known_keys(path):
            raise unknown_key(key, str(file))
        is_table = bool(known_keys(key)) or (len(key) == 1 and name in NAMED)
        if is_table != isinstance(value, dict):
            expected = "a table" if is_table else "a value"
            raise ConfigError(
                f"{'.'.join(key)} in {file} must be {expected}", path=".".join(key), file=str(file)
            )
        if is_table:
            yield from _leaves(value, key, file)
        else:
            yield key, value


def unknown_key(key: Sequence[str], where: str) -> ConfigError:
    """The error for a key that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(key[-1], known_keys(key[:-1]), n=1)
    hint = f"did you mean {'.'.join([*key[:-1], near[0]])}?" if near else None
    if hint is None:
        hint = "valid here: " + ", ".join(known_keys(key[:-1]))
    path = ".".join(key)
    return ConfigError(f"unknown key {path} in {where}", hint=hint, path=path, file=where)


def _check_name(table: str, name: str, where: str) -> None:
    try:
        msgspec.convert(name, DatabaseName if table == "database" else NodeName)
    except msgspec.ValidationError as error:
        hint = "1 to 63 of a-z, 0-9 and -, as peersync peer list shows it"
        if table == "database":
            hint = "1 to 63 of a-z, 0-9, _ and -; it need not be the database's name in PostgreSQL"
        raise ConfigError(f"{table}.{name} in {where} is not a valid name", hint=hint) from error


def _checked(key: Key, raw: Any, where: str, *, strict: bool) -> Any:
    """One value, in the type of its key; ConfigError says which key, where, and why."""
    if key[0] in LISTS and len(key) == 1:
        return tuple(_entries(key[0], raw, where))
    table = NAMED.get(key[0]) or SECTIONS.get(key[0])
    if table is None or not known_keys(key[:-1]) or key[-1] not in fields(table):
        raise unknown_key(key, where)
    try:
        return msgspec.convert(raw, fields(table)[key[-1]].type, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{'.'.join(key)} in {where} is not valid",
            detail=wrong_value(fields(table)[key[-1]].type, raw, error),
            hint=CHECK_AGAIN,
            path=".".join(key),
            file=where,
        ) from error


def _entries(name: str, raw: Any, where: str) -> Iterator[Table]:
    """The tables of a list; the error names the entry."""
    kind = LISTS[name]
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        raise ConfigError(
            f"{name} in {where} must be a list of tables",
            hint=f"each begins with [[{name}]]",
            path=name,
            file=where,
        )
    for number, entry in enumerate(raw, 1):
        called = entry.get("name", f"number {number}")
        for key in entry:
            if key not in fields(kind):
                near = difflib.get_close_matches(key, fields(kind), n=1)
                raise ConfigError(
                    f"unknown key {name}.{called}.{key} in {where}",
                    hint=f"did you mean {near[0]}?"
                    if near
                    else f"valid: {', '.join(fields(kind))}",
                    path=f"{name}.{called}.{key}",
                    file=where,
                )
        try:
            yield msgspec.convert(_without_dates(entry), kind)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{name} {shown(called)} in {where} is not valid",
                detail=str(error),
                hint=CHECK_AGAIN,
                path=f"{name}.{called}",
                file=where,
            ) from error


def _without_dates(value: Any) -> Any:
    """TOML has dates and times; here they are the text that PostgreSQL reads."""
    if isinstance(value, dict):
        return {key: _without_dates(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_dates(one) for one in value]
    return value.isoformat() if isinstance(value, date | time) else value


def _derive(values: Values, path: Path, environ: Mapping[str, str], uid: int) -> None:
    """Fill in what depends on the machine or on another value."""

    def default(key: str, value: str) -> str:
        current: str = values.get(("node", key), ("", ""))[0]
        if not current:
            values[("node", key)] = (value, "default")
        return current or value

    given: str = values.get(("node", "state_dir"), ("", ""))[0]
    state_dir = given or default("state_dir", str(_state_home(path, environ, uid)))
    default("spool_dir", str(Path(state_dir) / "spool"))
    system_state = Path(state_dir) == SYSTEM_STATE
    default("socket", str(SYSTEM_SOCKET if system_state else Path(state_dir) / "agent.sock"))
    hostname = socket.gethostname()
    default("name", _node_name(hostname))
    listen: str = values.get(("node", "listen"), (fields(Node)["listen"].default, ""))[0]
    host, _, port = listen.rpartition(":")
    wildcard = host in ("", "0.0.0.0", "[::]", "*")  # noqa: S104 - compared, not bound
    default("advertise", f"{hostname if wildcard else host}:{port}")


def _state_home(path: Path, environ: Mapping[str, str], uid: int) -> Path:
    if uid == 0 or path == SYSTEM_CONFIG:
        return SYSTEM_STATE
    return _xdg(environ, "XDG_STATE_HOME", ".local/state") / "peersync"


def _node_name(hostname: str) -> str:
    short = hostname.split(".")[0].lower()
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in short).strip("-")
    return name[:63] or "node"


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    if value := environ.get(variable):
        return Path(value)
    return expand(environ.get("HOME") or "~") / fallback


def _build(values: Values) -> Config:
    tree: dict[str, Any] = {}
    for key, (value, _) in values.items():
        table = tree
        for part in key[:-1]:
            table = table.setdefault(part, {})
        table[key[-1]] = value
    for name, database in tree.get("database", {}).items():
        if "conninfo" not in database:
            raise ConfigError(
                f"database.{name} has no conninfo",
                hint=f'for example: [database.{name}] conninfo = "postgresql:///{name}"',
                path=f"database.{name}.conninfo",
            )
    return msgspec.convert(tree, Config)


def _check_paths(config: Config, values: Values) -> None:
    for key in ("state_dir", "spool_dir", "socket"):
        value = getattr(config.node, key)
        if not Path(value).is_absolute() or "\0" in value:
            raise ConfigError(
                f"node.{key} must be an absolute path",
                detail=f"got {shown(value)} ({values[('node', key)][1]})",
                hint=CHECK_AGAIN,
                path=f"node.{key}",
            )
    if len(config.node.socket.encode()) > UNIX_PATH_MAX:
        raise ConfigError(
            f"node.socket is longer than {UNIX_PATH_MAX} bytes, which no Unix socket can be",
            detail=f"{config.node.socket} ({values[('node', 'socket')][1]})",
            hint="set node.socket to a shorter path, for example below /run",
            path="node.socket",
        )


def _check_rules(config: Config, values: Values) -> None:
    for path, why in violations(config):
        origin = _origin_of(path, values)
        raise ConfigError(
            f"{path} is not valid", detail=f"{why} ({origin})", hint=CHECK_AGAIN, path=path
        )


def _origin_of(path: str, values: Values) -> str:
    """Of a value, or of the list or table that it is in."""
    key = tuple(path.split("."))
    known = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in values), None)
    return values[known][1] if known is not None else "default"


def _check_filters(config: Config) -> None:
    for name, database in config.database.items():
        if (table := second_filter(database.filter)) is not None:
            raise ConfigError(
                f"database.{name}.filter names {table} twice",
                hint="join both into one filter",
                path=f"database.{name}.filter",
            )


def _origins(config: Config, values: Values) -> Iterator[tuple[str, str]]:
    for section, table in SECTIONS.items():
        for name in fields(table):
            yield f"{section}.{name}", values.get((section, name), (None, "default"))[1]
    for table_name, kind in NAMED.items():
        for entry in getattr(config, table_name):
            for name in fields(kind):
                key = (table_name, entry, name)
                yield ".".join(key), values.get(key, (None, "default"))[1]
    for name in LISTS:
        yield name, values.get((name,), (None, "default"))[1]
