"""`peersync config`: what is configured, where it came from, whether it is valid."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, json_text, print_out
from peersync.config.model import NAMED
from peersync.config.secret import mask_conninfo
from peersync.config.shown import effective
from peersync.core.errors import ConfigError, PeersyncError


class Finding(NamedTuple):
    """One line of `config check`; `state` is ok, WARNING or FAILED."""

    name: str
    state: str
    detail: str
    fix: str | None = None


@click.group()
def command() -> None:
    """Show and check the configuration."""


@command.command()
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@click.pass_obj
def show(ctx: Context, origin: bool) -> None:
    """Print each effective value as TOML. Passwords are masked."""
    values = effective(ctx.config)
    if ctx.json:
        data: dict[str, Any] = {"file": str(ctx.loaded.path), "config": values}
        if origin:
            data["origins"] = dict(ctx.loaded.origins)
        emit_json(data)
        return
    for path, table in _tables(values):
        if isinstance(table, list | tuple):
            _show_list(ctx, path, table, origin=origin)
            continue
        print_out(f"[{path}]")
        for key, value in table.items():
            line = f"{key} = {clean(json_text(value))}"
            note = f"  # {clean(ctx.loaded.origins[f'{path}.{key}'])}" if origin else ""
            print_out(line + note)
        print_out("")


def _show_list(ctx: Context, name: str, entries: Iterable[dict[str, Any]], *, origin: bool) -> None:
    note = f"  # {clean(ctx.loaded.origins[name])}" if origin else ""
    for entry in entries:
        print_out(f"[[{name}]]{note}")
        for key, value in entry.items():
            print_out(f"{key} = {clean(json_text(value))}")
        print_out("")


@command.command()
@click.pass_obj
def check(ctx: Context) -> None:
    """Say whether the configuration is valid. Nothing is connected to."""
    findings = [*_findings(ctx)]
    failed = [finding for finding in findings if finding.state == "FAILED"]
    if ctx.json:
        emit_json({"ok": not failed, "checks": [finding._asdict() for finding in findings]})
    else:
        _print(ctx, findings)
    if failed:
        click.get_current_context().exit(ConfigError.exit_code)


def _tables(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, table in values.items():
        if name in NAMED:
            yield from ((f"{name}.{key}", value) for key, value in table.items())
        else:
            yield name, table


def _findings(ctx: Context) -> Iterator[Finding]:
    files = ", ".join(map(str, ctx.loaded.files))
    yield Finding("file", "ok", files)
    for file in ctx.loaded.files:
        yield from _check_mode(ctx, file)
    if not ctx.config.database:
        yield Finding("databases", "WARNING", "none is configured", "add [database.NAME]")
    for name in ctx.config.database:
        yield _check_database(ctx, name)
    for directory in ctx.config.tools.bindirs:
        yield from _check_bindir(directory)
    yield from _check_peers(ctx)


def _check_peers(ctx: Context) -> Iterator[Finding]:
    """A name that no pairing knows has no effect, or makes a table set fail."""
    from peersync.transport.peers import PeerBook

    named = [(f"peer.{name}", name) for name in ctx.config.peer]
    named += [(f"table_set.{one.name}.peers", p) for one in ctx.config.table_set for p in one.peers]
    path = Path(ctx.config.node.state_dir) / "peers.json"
    try:
        if not named or not path.exists():
            return
        known = {peer.name for peer in PeerBook(path, "").peers()}
    except (PeersyncError, OSError):  # it belongs to the agent; `peersync check` reads it
        return
    for where, name in named:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            detail = f"this node is paired with no {name}; with: {listed}"
            yield Finding(where, "WARNING", detail, "peersync peer list")


def _check_bindir(directory: str) -> Iterator[Finding]:
    """A directory that is not there is passed over in silence when programs are looked for."""
    if not os.path.isdir(directory):  # noqa: PTH112 - where it may not look, is_dir() raises
        trouble = "is no directory"
    elif not os.access(Path(directory, "pg_dump"), os.X_OK):
        trouble = "has no pg_dump that could be run"
    else:
        return
    yield Finding(
        "tools.bindirs", "WARNING", f"{directory} {trouble}", "correct or remove it in [tools]"
    )


def _check_mode(ctx: Context, file: Path) -> Iterator[Finding]:
    """A password in a file that everybody reads is no secret."""
    has_password = any(
        mask_conninfo(database.conninfo) != database.conninfo
        and ctx.loaded.origins[f"database.{name}.conninfo"].startswith(f"{file}:")
        for name, database in ctx.config.database.items()
    )
    origin = ctx.loaded.origins.get("channel", "")
    has_url = origin.startswith(f"{file}:") and any(one.url for one in ctx.config.channel)
    if (has_password or has_url) and stat.S_IMODE(file.stat().st_mode) & 0o007:
        yield Finding(
            "password",
            "WARNING",
            f"everybody can read the password or URL in {file}",
            f"chmod o= {file}",
        )


def _check_database(ctx: Context, name: str) -> Finding:
    from peersync.postgres.conninfo import passfile_warning

    try:
        resolved = ctx.resolved(name)
    except PeersyncError as error:
        words = ": ".join(filter(None, (error.message, error.detail)))
        return Finding(f"database {name}", "FAILED", words, error.hint)
    home = Path(ctx.environ.get("HOME") or "~").expanduser()
    if not resolved.password and (
        ignored := passfile_warning(ctx.environ.get("PGPASSFILE") or home / ".pgpass")
    ):
        return Finding(f"database {name}", "WARNING", ignored)
    return Finding(f"database {name}", "ok", resolved.display())


def _print(ctx: Context, findings: list[Finding]) -> None:
    colors = {"ok": "green", "WARNING": "yellow", "FAILED": "red"}
    width = max(len(finding.name) for finding in findings) + 4
    for finding in findings:
        if ctx.quiet and finding.state == "ok":
            continue
        state = click.style(f"{finding.state:<8}", fg=colors[finding.state])
        dots = f"{finding.name} ".ljust(width, ".")
        color = None if ctx.color else False
        click.echo(f"{dots} {state} {clean(finding.detail)}", color=color)
        if finding.fix:
            click.echo(f"   fix: {clean(finding.fix)}")
