"""The first configuration file, as `peersync init` writes it.

Owns its text: the few values that `init` knows, and every other key as a comment with its
default. It never overwrites: a file that exists belongs to its administrator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from peersync.config.model import SECTIONS, Database, fields
from peersync.config.table import Table
from peersync.core.errors import ConfigError

MODE_SYSTEM = 0o640  # root writes, the group of the service reads
MODE_USER = 0o600

HEADER = """\
# peersync. Each key is explained in docs/configuration.md.
# What is commented out is the default. Files in conf.d/ beside this one are read after it.
# Check after a change: peersync config check
"""


def write_initial(
    path: Path,
    *,
    node: Mapping[str, str],
    databases: Mapping[str, Mapping[str, Any]],
    mode: int = MODE_USER,
) -> Path:
    """Write a new file at `path`, with its directory; ConfigError when there is one already."""
    text = render_initial(node=node, databases=databases)
    try:
        path.parent.mkdir(mode=0o755 if mode == MODE_SYSTEM else 0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists already, and is not overwritten",
            hint="edit it, or move it away and run peersync init again",
            path=str(path),
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            hint="run it as the user that may write there, or name another: --config FILE",
            path=str(path),
        ) from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)  # the umask must not decide who reads it
        file.write(text)
    return path


def render_initial(*, node: Mapping[str, str], databases: Mapping[str, Mapping[str, Any]]) -> str:
    """The text: TOML that `load_config` accepts."""
    parts = [HEADER, _table("node", SECTIONS["node"], node)]
    parts += [_table(f"database.{name}", Database, given) for name, given in databases.items()]
    if not databases:
        example = _table("database.shop", Database, {"conninfo": "postgresql:///shop"})
        parts.append("".join(f"# {line}\n" for line in example.splitlines()))
    parts += [_table(name, table, {}) for name, table in SECTIONS.items() if name != "node"]
    return "\n".join(parts)


def _table(title: str, table: type[Table], given: Mapping[str, Any]) -> str:
    lines = [f"[{title}]"]
    for name, field in fields(table).items():
        if name in given:
            lines.append(f"{name} = {_toml(given[name])}")
        elif field.default is not msgspec.NODEFAULT:
            lines.append(f"# {name} = {_toml(field.default)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A TOML value; JSON's strings, numbers and lists are TOML's too."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = msgspec.json.encode(list(value) if isinstance(value, tuple) else value).decode()
    return text.replace("\x7f", "\\u007f")  # the one character that JSON allows bare
