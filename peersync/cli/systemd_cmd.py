"""`peersync systemd`: the units of this installation, shown, put in place and taken away.

Owns which files are written where, and that a file which a person has changed is neither
overwritten nor removed. It starts and stops no service: it says which commands do.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.output import clean, emit_json, print_err, print_out
from peersync.cli.unit_files import (
    UnitFile,
    is_ours,
    system_files,
    trouble_with_program,
    user_files,
)
from peersync.core.errors import BadRequest, NotFound, PeersyncError, ToolMissing
from peersync.core.words import counted

_MODE = 0o644


class Placed(NamedTuple):
    """What became of a file: written, updated, unchanged, kept, removed or absent."""

    path: Path
    state: str


_for_user = click.option("--user", is_flag=True, help="For your own services, without root.")
_prefix = click.option(
    "--prefix", metavar="DIR", default="/", help="Write below DIR, for a package or an image."
)
_program = click.option(
    "--program", metavar="FILE", help="Where peersync is when it runs; default: this one."
)
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group()
def command() -> None:
    """Run peersync as services: show, install, remove their units."""


@command.command("print")
@click.argument("unit", required=False)
@_for_user
@_program
@click.pass_obj
def print_units(ctx: Context, unit: str | None, user: bool, program: str | None) -> None:
    """Print UNIT, or all: peersync-agent, peersync-bulk.timer, peersync-agent@ …"""
    found = _files(_find_program(program), user=user, instances=True)
    if unit is not None:
        wanted = unit if "." in unit else f"{unit}.service"
        found = [file for file in found if file.name == wanted] or _refuse(unit, found)
    if ctx.json:
        listed = [{"name": f.name, "path": f.path, "text": f.text} for f in found]
        emit_json({"units": listed})
        return
    for file in found:
        if unit is None:
            print_out(f"# ----- {file.name} -----")
        print_out(file.text if unit is None else file.text.removesuffix("\n"))


@command.command()
@_for_user
@_prefix
@_program
@_dry_run
@click.option("--instances", is_flag=True, help="Also the templates: peersync-agent@NAME.")
@click.option("--force", is_flag=True, help="Overwrite files that somebody changed, too.")
@click.pass_obj
def install(
    ctx: Context,
    user: bool,
    prefix: str,
    program: str | None,
    dry_run: bool,
    instances: bool,
    force: bool,
) -> None:
    """Write the units, the user and the directories of the service. Starts nothing.

    A file that somebody changed stays as it is (exit code 3): put settings of your own into a
    drop-in with systemctl edit, then updates reach you.
    """
    path = _find_program(program)
    if not user and program is None and (trouble := _trouble(path)):
        raise BadRequest(
            f"a service could not run {path}",
            detail=trouble,
            hint="install peersync below /opt or /usr, or use --user, or name it: --program FILE",
        )
    found = _files(path, user=user, instances=instances)
    root = _root(ctx, prefix, user=user)
    placed = [_place(root / f.path, f.marked, dry_run=dry_run, force=force) for f in found]
    then = _next_installed(ctx, user=user, instances=instances) if prefix == "/" else []
    _report(ctx, placed, then, dry_run=dry_run)


@command.command()
@_for_user
@_prefix
@_dry_run
@click.option("--force", is_flag=True, help="Remove files that somebody changed, too.")
@click.pass_obj
def uninstall(ctx: Context, user: bool, prefix: str, dry_run: bool, force: bool) -> None:
    """Remove the files that install wrote. Stop the services first.

    Databases, configuration and identity stay: peersync uninstall is for the databases.
    """
    root = _root(ctx, prefix, user=user)
    found = _files("/usr/bin/peersync", user=user, instances=True)
    placed = [_remove(root / file.path, dry_run=dry_run, force=force) for file in found]
    then = _next_removed(user=user) if prefix == "/" else []
    _report(ctx, placed, then, dry_run=dry_run)


# --- the files --------------------------------------------------------------------------------
def _files(program: str, *, user: bool, instances: bool) -> list[UnitFile]:
    return [*(user_files(program) if user else system_files(program, instances=instances))]


def _refuse(unit: str, found: list[UnitFile]) -> list[UnitFile]:
    raise NotFound(
        f"there is no unit {unit!r}", hint=f"one of: {', '.join(file.name for file in found)}"
    )


def _find_program(given: str | None) -> str:
    """The absolute path of the program that the units are to run."""
    if given is not None:
        if not given.startswith("/"):
            raise BadRequest(f"--program {given!r} is no absolute path", hint="begin with /")
        return given
    beside = Path(sys.executable).parent / "peersync"
    if os.access(beside, os.X_OK):
        return str(beside)
    called = Path(sys.argv[0]).absolute()
    if called.name == "peersync" and os.access(called, os.X_OK):
        return str(called)
    raise ToolMissing(
        "there is no program peersync beside the Python that runs this",
        detail=f"looked for {beside}",
        hint="name it: --program /opt/peersync/bin/peersync",
    )


def _trouble(program: str) -> str | None:
    """Why a service could not run this program, or the Python that it is written for."""
    return trouble_with_program(Path(program)) or trouble_with_program(Path(sys.executable))


def _root(ctx: Context, prefix: str, *, user: bool) -> Path:
    if not user:
        return Path(prefix).absolute()
    home = Path(ctx.environ.get("HOME") or "~").expanduser()
    config = Path(ctx.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return config if prefix == "/" else Path(prefix, *config.parts[1:]).absolute()


def _content(path: Path) -> str | None:
    """What is there; None for nothing, "" for what is no plain file, such as a masked unit."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _place(path: Path, text: str, *, dry_run: bool, force: bool) -> Placed:
    with _permitted(path):
        before = _content(path)
        if before == text:
            return Placed(path, "unchanged")
        if before is not None and not (force or is_ours(before)):
            return Placed(path, "kept")
        if not dry_run:
            _write(path, text)
        return Placed(path, "written" if before is None else "updated")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _remove(path: Path, *, dry_run: bool, force: bool) -> Placed:
    with _permitted(path):
        before = _content(path)
        if before is None:
            return Placed(path, "absent")
        if not (force or is_ours(before)):
            return Placed(path, "kept")
        if not dry_run:
            path.unlink()
        return Placed(path, "removed")


@contextmanager
def _permitted(path: Path) -> Iterator[None]:
    """Says what to do where the system says no."""
    try:
        yield
    except OSError as error:
        hint = "run it as root, or use --user for your own services"
        raise PeersyncError(
            f"{path} cannot be changed: {error.strerror}",
            hint=hint if isinstance(error, PermissionError) else None,
        ) from error


# --- what is said -----------------------------------------------------------------------------
def _next_installed(ctx: Context, *, user: bool, instances: bool) -> list[str]:
    unit = "peersync-agent@NAME" if instances else "peersync-agent"
    if user:
        return [
            "systemctl --user daemon-reload",
            "systemctl --user enable --now peersync-agent",
            f"loginctl enable-linger {ctx.environ.get('USER', '')}".rstrip(),
        ]
    return [
        "systemd-sysusers peersync.conf",
        "systemd-tmpfiles --create peersync.conf",
        "systemctl daemon-reload",
        f"systemctl enable --now {unit}",
    ]


def _next_removed(*, user: bool) -> list[str]:
    if user:
        return ["systemctl --user daemon-reload"]
    return ["systemctl daemon-reload", "rm -r /etc/peersync /var/lib/peersync", "userdel peersync"]


def _report(ctx: Context, placed: list[Placed], then: list[str], *, dry_run: bool) -> None:
    kept = [file.path for file in placed if file.state == "kept"]
    if ctx.json:
        files = [{"path": str(file.path), "state": file.state} for file in placed]
        emit_json({"dry_run": dry_run, "files": files, "next": then})
    elif not ctx.quiet:
        for file in placed:
            print_out(f"{file.state:<9}  {clean(str(file.path))}")
        if then and not dry_run:
            print_err("next:")
            for line in then:
                print_err(f"  {line}")
    if kept:
        print_err(
            f"{counted(len(kept), 'file')} kept as somebody has changed it;"
            " --force overwrites, a drop-in (systemctl edit) lasts"
        )
        click.get_current_context().exit(EXIT_PARTLY)
