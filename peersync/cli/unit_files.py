"""The units of systemd as this installation wants them, and who has written a file.

Owns the texts: where the program is, the variants for one of several instances and for a user
without root. A file that `install` writes says so in its first line, with the checksum of the
rest; any other file is a person's. It writes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from peersync import __version__

PROGRAM: Final = "/usr/bin/peersync"  # in the files as they ship
SERVICES: Final = (
    "peersync-agent.service", "peersync-periodic.service", "peersync-bulk.service",
    "peersync-verify.service",
)  # fmt: skip
UNITS: Final = (*SERVICES, "peersync-bulk.timer", "peersync-verify.timer")
OTHERS: Final = {"peersync.sysusers": "etc/sysusers.d", "peersync.tmpfiles": "etc/tmpfiles.d"}
SYSTEM_UNITS: Final = "etc/systemd/system"

HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - from services

# What the manager of a user may not do, or has another meaning there.
_ROOTS_OWN: Final = re.compile(
    "User|Group|StateDirectory|StateDirectoryMode|RuntimeDirectory|RuntimeDirectoryMode|Wants|After"
    "|Private.*|Protect(System|Home|Hostname|Clock|Kernel.*|ControlGroups|Proc)|ProcSubset"
    "|CapabilityBoundingSet|AmbientCapabilities|RemoveIPC|IPAddressDeny"
)
_INSTANCE: Final = {
    "--config /etc/peersync/peersync.toml": "--config /etc/peersync/%i/peersync.toml",
    "Directory=peersync\n": "Directory=peersync-%i\n",
    "peersync-agent.service\n": "peersync-agent@%i.service\n",
}
_MARK: Final = re.compile(r"# Written by `peersync systemd install`, .*; sha256 ([0-9a-f]{64})\n")


@dataclass(frozen=True)
class UnitFile:
    """One file: its name, where it goes below the root (or the user's home), its text."""

    name: str
    path: str
    text: str

    @property
    def marked(self) -> str:
        """What is written: the text below the line that says who wrote it."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        head = f"# Written by `peersync systemd install`, version {__version__}; sha256 {digest}\n"
        return head + self.text


def is_ours(content: str) -> bool:
    """Whether `install` wrote the file, or it is as it ships; nobody has changed it since."""
    if mark := _MARK.match(content):
        return hashlib.sha256(content[mark.end() :].encode()).hexdigest() == mark[1]
    return content in (shipped(name) for name in (*UNITS, *OTHERS))


def shipped(name: str) -> str:
    """The text of one of `UNITS` or `OTHERS`."""
    return (files("peersync.units") / name).read_text(encoding="utf-8")


def system_files(program: str, *, instances: bool = False) -> Iterator[UnitFile]:
    """For the system's manager. `instances` adds the templates: peersync-agent@.service."""
    for name in UNITS:
        text = _for_program(shipped(name), program)
        yield UnitFile(name, f"{SYSTEM_UNITS}/{name}", text)
        if instances:
            template = name.replace(".", "@.")
            yield UnitFile(template, f"{SYSTEM_UNITS}/{template}", _for_instances(text))
    for name, directory in OTHERS.items():
        yield UnitFile(name, f"{directory}/peersync.conf", shipped(name))


def user_files(program: str) -> Iterator[UnitFile]:
    """For the manager of one user, who needs no root: what only root may do is left out."""
    for name in UNITS:
        yield UnitFile(
            name, f"systemd/user/{name}", _for_user(_for_program(shipped(name), program))
        )


def trouble_with_program(program: Path, hidden: Sequence[str] = HIDDEN) -> str | None:
    """Why the units of the system could not run it, or None. Links are followed."""
    for place in (program, program.resolve()):
        for directory in hidden:
            if place.is_relative_to(directory):
                return f"{place} is in {directory}, which a service does not see"
    real = program.resolve()
    for place in (real, *real.parents):
        if place.exists() and not place.stat().st_mode & 0o001:
            return f"other users may not pass {place}"
    return None


def _for_program(text: str, program: str) -> str:
    quoted = program.replace("%", "%%")
    if re.search(r"[\s\"'\\]", quoted):
        quoted = '"' + quoted.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text.replace(f"ExecStart={PROGRAM} ", f"ExecStart={quoted} ")


def _for_instances(text: str) -> str:
    for plain, instance in _INSTANCE.items():
        text = text.replace(plain, instance)
    return re.sub(r"^(Description=.*)$", r"\1 of %i", text, flags=re.MULTILINE)


def _for_user(text: str) -> str:
    text = text.replace(" --config /etc/peersync/peersync.toml", "")
    text = text.replace("WantedBy=multi-user.target", "WantedBy=default.target")
    return "".join(_kept(_blocks(text)))


def _blocks(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Comments and the lines that they are about; a blank line is a block of its own."""
    comments: list[str] = []
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        is_comment = line.startswith("#")
        if lines and (is_comment or not line.strip()):
            yield comments, lines
            comments, lines = [], []
        (comments if is_comment else lines).append(line)
    yield comments, lines


def _kept(blocks: Iterator[tuple[list[str], list[str]]]) -> Iterator[str]:
    """All but root's own lines, and comments that are about nothing else."""
    for comments, lines in blocks:
        kept = [line for line in lines if not _ROOTS_OWN.fullmatch(line.partition("=")[0])]
        if kept or not lines:
            yield from (*comments, *kept)
