"""PEERSYNC_* variables as configuration.

PEERSYNC_NODE_LISTEN is node.listen, PEERSYNC_FULL_SYNC_CHUNK_MIB is full_sync.chunk_mib,
PEERSYNC_DATABASE_SHOP_CONNINFO is database.shop.conninfo. A list is separated by commas.
A variable that names a table and no key of it is an error: it would be ignored in silence.
Variables outside these tables (PEERSYNC_CONFIG, PEERSYNC_DEBUG) belong to others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from peersync.config.model import SECTIONS, Database, DatabaseName, fields, is_list
from peersync.config.rules import CHECK_AGAIN, wrong_value
from peersync.core.errors import ConfigError

PREFIX = "PEERSYNC_"
DATABASE_PREFIX = PREFIX + "DATABASE_"


def from_environment(
    environ: Mapping[str, str], databases: Iterable[str]
) -> dict[tuple[str, ...], tuple[Any, str]]:
    """path → (value, name of the variable). `databases` are the names that the files have."""
    names = {variable_part(name): name for name in databases}
    found: dict[tuple[str, ...], tuple[Any, str]] = {}
    for variable, text in sorted(environ.items()):
        key = _key(variable, names)
        if key is not None:
            found[key] = (_convert(key, variable, text), variable)
    return found


def variable_part(name: str) -> str:
    """How a key or a database's name is written inside a variable's name."""
    return name.upper().replace("-", "_")


def _key(variable: str, databases: Mapping[str, str]) -> tuple[str, ...] | None:
    if variable.startswith(DATABASE_PREFIX):
        return _database_key(variable, databases)
    for section, table in SECTIONS.items():
        prefix = f"{PREFIX}{section.upper()}_"
        if variable.startswith(prefix):
            name = variable.removeprefix(prefix).lower()
            if name in fields(table):
                return (section, name)
            raise _unknown(variable, (prefix + key.upper() for key in fields(table)))
    return None


def _database_key(variable: str, databases: Mapping[str, str]) -> tuple[str, ...]:
    rest = variable.removeprefix(DATABASE_PREFIX)
    for key in fields(Database):
        name, found, end = rest.rpartition("_" + key.upper())
        if found and name and not end:
            return ("database", databases.get(name) or _new_name(variable, name.lower()), key)
    raise _unknown(variable, _database_candidates(rest, databases))


def _database_candidates(rest: str, databases: Mapping[str, str]) -> Iterator[str]:
    for name in filter(None, [*databases, rest.rpartition("_")[0]]):
        yield from (f"{DATABASE_PREFIX}{name}_{key.upper()}" for key in fields(Database))


def _new_name(variable: str, name: str) -> str:
    try:
        return msgspec.convert(name, DatabaseName)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{variable} names a database in a way that is not valid",
            hint="between DATABASE_ and the key: 1 to 63 of A-Z, 0-9 and _",
            path=variable,
        ) from error


def _unknown(variable: str, candidates: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(variable, list(candidates), n=1)
    return ConfigError(
        f"the environment variable {variable} is no key of the configuration",
        hint=f"did you mean {near[0]}?" if near else "unset it, or see docs/configuration.md",
        path=variable,
    )


def _convert(key: tuple[str, ...], variable: str, text: str) -> Any:
    table = Database if key[0] == "database" else SECTIONS[key[0]]
    wanted = fields(table)[key[-1]].type
    raw: Any = text
    if is_list(wanted):
        raw = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.convert(raw, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{variable} is not valid for {'.'.join(key)}",
            detail=wrong_value(wanted, text, error),
            hint=CHECK_AGAIN,
            path=".".join(key),
        ) from error
