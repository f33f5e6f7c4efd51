"""Reads the SQL that ships with peersync.

SQL is source: files below `sql/` that psql can run. Owns their form (numbered migrations,
repeatable functions, named queries) and says which file and line breaks it. It connects to
nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

_MIGRATION = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_NAME = re.compile(r"^-- name: *([a-z][a-z0-9_]*)\s*$")


@dataclass(frozen=True)
class Migration:
    """One numbered step; immutable once released, which `sha256` proves."""

    number: int
    name: str
    sql: str
    sha256: str
    breaking: bool

    @property
    def file(self) -> str:
        return f"{self.number:04}_{self.name}.sql"


@dataclass(frozen=True)
class Scripts:
    """What makes the schema: migrations in order, then the functions."""

    bookkeeping: str
    migrations: tuple[Migration, ...]
    functions: tuple[str, ...]

    @property
    def functions_sha256(self) -> str:
        return _sha256("\0".join(self.functions))


@cache
def shipped() -> Scripts:
    """The scripts of this version of peersync."""
    return read_scripts(files("peersync.sql"))


def read_scripts(root: Traversable) -> Scripts:
    """The scripts below a directory; ValueError where the files break the form."""
    functions = root / "functions"
    return Scripts(
        bookkeeping=(root / "bookkeeping.sql").read_text(encoding="utf-8"),
        migrations=_migrations(root / "migrations"),
        functions=tuple(file.read_text(encoding="utf-8") for file in _sql_files(functions)),
    )


@cache
def queries(module: str) -> Mapping[str, str]:
    """The named queries of `sql/queries/<module>.sql`: name → SQL with $1, $2, …."""
    text = (files("peersync.sql") / "queries" / f"{module}.sql").read_text(encoding="utf-8")
    return MappingProxyType(parse_queries(text, f"{module}.sql"))


def query_modules() -> list[str]:
    """Every module that has named queries."""
    return [
        file.name.removesuffix(".sql") for file in _sql_files(files("peersync.sql") / "queries")
    ]


def parse_queries(text: str, file: str) -> dict[str, str]:
    """Split a file of named queries; ValueError names the file and line that break the form."""
    found: dict[str, list[str]] = {}
    body: list[str] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _NAME.match(line):
            if match[1] in found:
                raise ValueError(f"{file}:{number}: a second query named {match[1]}")
            body = found[match[1]] = []
        elif body is not None:
            body.append(line)
        elif line.strip() and not line.startswith("--"):
            raise ValueError(f"{file}:{number}: SQL before the first '-- name:'")
    return {name: _statement(lines, f"{file}: {name}") for name, lines in found.items()}


def _statement(lines: list[str], where: str) -> str:
    if not lines or not lines[0].startswith("-- "):
        raise ValueError(f"{where}: a sentence that says what it does must follow the name")
    start = next((i for i, line in enumerate(lines) if not line.startswith("--")), len(lines))
    sql = "\n".join(lines[start:]).strip()
    if not sql.endswith(";"):
        raise ValueError(f"{where}: the statement must end with a semicolon")
    return sql.removesuffix(";").rstrip()


def parse_migration(file: str, sql: str) -> Migration:
    """One migration, from its file's name and text; ValueError for a name of the wrong form."""
    match = _MIGRATION.match(file)
    if match is None:
        raise ValueError(f"{file}: a migration is named NNNN_words.sql")
    return Migration(int(match[1]), match[2], sql, _sha256(sql), _is_breaking(sql))


def _migrations(directory: Traversable) -> tuple[Migration, ...]:
    found: dict[int, Migration] = {}
    for file in _sql_files(directory):
        migration = parse_migration(file.name, file.read_text(encoding="utf-8"))
        if migration.number in found:
            raise ValueError(f"{file.name}: a second migration with this number")
        found[migration.number] = migration
    return tuple(found[number] for number in sorted(found))


def _is_breaking(sql: str) -> bool:
    """Older code must refuse the schema: `-- breaking` among the leading comments."""
    for line in sql.splitlines():
        if line.strip() == "-- breaking":
            return True
        if line.strip() and not line.startswith("--"):
            return False
    return False


def _sql_files(directory: Traversable) -> list[Traversable]:
    if not directory.is_dir():
        return []
    found = (file for file in directory.iterdir() if file.name.endswith(".sql"))
    return sorted(found, key=lambda file: file.name)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
