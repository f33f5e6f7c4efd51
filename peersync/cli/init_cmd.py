"""`peersync init`: from nothing to a node that can be started.

Owns the order: what can fail without a trace comes first (names, values, directories,
connections), then schema `peersync` in each database, then configuration and identity.
Nothing that exists is overwritten, so running it again is safe, and it says what is there.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import emit_json, print_err, print_out
from peersync.config.initial import MODE_SYSTEM, MODE_USER, render_initial, write_initial
from peersync.config.load import SYSTEM_CONFIG, Loaded, find_config, load_config
from peersync.config.model import DatabaseName, NodeName
from peersync.config.places import expand, reason, trouble_with
from peersync.core.errors import BadRequest, ConfigError, PeersyncError
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.config.model import Config
    from peersync.postgres.conninfo import Resolved
    from peersync.transport.identity import Identity

NAME_MAX_BYTES = 255  # of a file's name, on Linux


@click.command()
@click.option("--name", metavar="NAME", help="What peers call this node; default: the host name.")
@click.option(
    "--database",
    "databases",
    metavar="NAME=CONNINFO",
    multiple=True,
    help="A database to sync, for example shop=postgresql:///shop. Give it once for each.",
)
@click.option("--state-dir", metavar="DIR", help="Where identity and peers are kept.")
@click.option("--listen", metavar="HOST:PORT", help="For peers; default 0.0.0.0:8791.")
@click.option("--advertise", metavar="HOST:PORT", help="Where peers reach this node.")
@click.option("--admin", metavar="HOST:PORT", help="For people; default 127.0.0.1:8790.")
@click.option("--socket", metavar="FILE", help="For the commands of this node.")
@click.pass_obj
def command(ctx: Context, /, databases: tuple[str, ...], **node: str | None) -> None:
    """Write the configuration, make this node's identity, prepare its databases."""
    path = find_config(ctx.config_path, ctx.environ, uid=ctx.uid)
    _refuse_existing(ctx, path)
    settings = _settings(node)
    conninfos = _conninfos(databases)
    _try_first(ctx, path, settings, conninfos)
    prepared = asyncio.run(_prepare(conninfos))
    loaded, identity, is_new = _write(ctx, path, settings, conninfos)
    link = _first_link(loaded.config)
    _report(ctx, loaded, identity, prepared, is_new, link)


def _first_link(config: Config) -> str | None:
    from peersync.agent.people.standin import make_first_link

    return asyncio.run(make_first_link(config)) if config.people.enabled else None


def _refuse_existing(ctx: Context, path: Path) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be used: {reason(error)}", hint="name another: --config FILE"
        ) from error
    if not os.path.isfile(path):  # noqa: PTH113 - where it may not look, is_file() raises
        raise ConfigError(
            f"{path} exists, and is not a file",
            hint=f"name the file to write: --config {path / 'peersync.toml'}",
            path=str(path),
        )
    there = [f"configuration: {path}"]
    try:
        identity = _load_identity(Path(ctx.config.node.state_dir))
        there.append(f"identity: {identity.name}, {identity.short_id}")
        there += [f"database: {name}" for name in ctx.config.database]
    except PeersyncError as error:
        there.append(error.message)
    raise ConfigError(
        "this node is set up already; nothing was changed",
        detail="\n".join(there),
        hint="edit the configuration, then: peersync config check",
        path=str(path),
    )


def _settings(node: Mapping[str, str | None]) -> dict[str, str]:
    settings = {key: value for key, value in node.items() if value is not None}
    for key, value in settings.items():
        if not value.strip():
            option = "--" + key.replace("_", "-")
            raise BadRequest(f"{option} is empty", hint=f"leave {option} out to use the default")
    if "name" in settings:
        _check_name(settings["name"], NodeName, "a node's name: 1 to 63 of a-z, 0-9 and -")
    if "state_dir" in settings:
        settings["state_dir"] = str(expand(settings["state_dir"]).absolute())
    return settings


def _conninfos(databases: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, conninfo in map(_split, databases):
        if name in found:
            raise BadRequest(
                f"--database {name} is given twice",
                hint="each database needs a name of its own, the same on all servers",
            )
        found[name] = conninfo
    return found


def _split(text: str) -> tuple[str, str]:
    name, found, conninfo = text.partition("=")
    if not found or not conninfo:
        # The text is not repeated: it may hold a password.
        raise BadRequest(
            "--database needs NAME=CONNINFO", hint="--database shop=postgresql:///shop"
        )
    _check_name(name, DatabaseName, "a database's name: 1 to 63 of a-z, 0-9, _ and -")
    return name, conninfo


def _check_name(name: str, kind: object, rule: str) -> None:
    try:
        msgspec.convert(name, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name[:80]!r} cannot be {rule}", hint="peersync init --help") from error


def _try_first(
    ctx: Context, path: Path, settings: Mapping[str, str], conninfos: Mapping[str, str]
) -> None:
    """Everything that would stop `_write`, found before a database is changed."""
    databases = {name: {"conninfo": conninfo} for name, conninfo in conninfos.items()}
    text = render_initial(node=settings, databases=databases)
    node = load_config(path, ctx.environ, uid=ctx.uid, text=text).config.node
    state_dir = Path(node.state_dir)
    if len(os.fsencode(path.name)) > NAME_MAX_BYTES:
        raise ConfigError(
            "the name of the configuration is too long", hint="name another: --config FILE"
        )
    for directory, option in ((path.parent, "--config FILE"), (state_dir, "--state-dir DIR")):
        if trouble := trouble_with(directory.absolute()):
            raise ConfigError(
                f"{directory} cannot be written: {trouble}",
                hint=f"give {option}, or run it as the user that may write there",
                path=str(directory),
            )
    if _has_identity(state_dir):
        _load_identity(state_dir)


async def _prepare(conninfos: Mapping[str, str]) -> dict[str, tuple[Resolved, int]]:
    """Connects to all databases before it changes the first; migrations applied, by name."""
    from peersync.postgres.conninfo import resolve
    from peersync.postgres.migrate import migrate, status
    from peersync.postgres.pool import Database

    found = {name: Database(name, resolve(conninfo)) for name, conninfo in conninfos.items()}
    for name, database in found.items():
        async with database.connect("init", what=f"preparing database {name}") as conn:
            await status(conn)
    prepared = {}
    for name, database in found.items():
        async with database.connect("init", what=f"preparing database {name}") as conn:
            prepared[name] = (database.resolved, len(await migrate(conn)))
    return prepared


def _write(
    ctx: Context, path: Path, settings: Mapping[str, str], conninfos: Mapping[str, str]
) -> tuple[Loaded, Identity, bool]:
    """The configuration, and an identity unless there is one; on failure no configuration."""
    mode = MODE_SYSTEM if path == SYSTEM_CONFIG else MODE_USER
    databases = {name: {"conninfo": conninfo} for name, conninfo in conninfos.items()}
    write_initial(path, node=settings, databases=databases, mode=mode)
    try:
        loaded = load_config(path, ctx.environ, uid=ctx.uid)
        identity, is_new = _ensure_identity(
            Path(loaded.config.node.state_dir), loaded.config.node.name
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return loaded, identity, is_new


def _ensure_identity(state_dir: Path, name: str) -> tuple[Identity, bool]:
    from peersync.transport.files import make_private_directory
    from peersync.transport.identity import create_identity

    if _has_identity(state_dir):
        return _load_identity(state_dir), False
    try:
        make_private_directory(state_dir)
        return create_identity(state_dir, name), True
    except OSError as error:
        raise ConfigError(
            f"the identity cannot be written below {state_dir}: {error.strerror}",
            hint="give --state-dir DIR, or run it as the user that owns that directory",
        ) from error


def _has_identity(state_dir: Path) -> bool:
    from peersync.transport.identity import identity_directory

    return os.path.lexists(identity_directory(state_dir) / "node.crt")


def _load_identity(state_dir: Path) -> Identity:
    from peersync.transport.identity import load_identity

    return load_identity(state_dir)


def _report(
    ctx: Context,
    loaded: Loaded,
    identity: Identity,
    prepared: Mapping[str, tuple[Resolved, int]],
    is_new: bool,
    link: str | None,
) -> None:
    node = loaded.config.node
    flag = f" --config {shlex.quote(str(loaded.path))}" if ctx.config_path else ""
    following = [f"peersync agent{flag}", f"peersync peer invite{flag}"]
    if ctx.json:
        emit_json(
            {
                "name": node.name,
                "node_id": identity.node_id,
                "identity_is_new": is_new,
                "config": str(loaded.path),
                "state_dir": node.state_dir,
                "databases": {name: count for name, (_, count) in prepared.items()},
                "next": following,
                "link": link,
            }
        )
        return
    for line in _lines(loaded, identity, prepared, is_new) if not ctx.quiet else ():
        print_err(line)
    for text in following:
        print_out(text)
    if link and not ctx.quiet:
        print_err("The page, once the agent runs (this link works once, for 24 hours):")
        print_err(link)


def _lines(
    loaded: Loaded,
    identity: Identity,
    prepared: Mapping[str, tuple[Resolved, int]],
    is_new: bool,
) -> Sequence[str]:
    kept = "" if is_new else " (kept: it was there already)"
    lines = [
        f"node {loaded.config.node.name}, fingerprint {identity.short_id}{kept}",
        f"configuration {loaded.path}",
    ]
    for name, (resolved, count) in prepared.items():
        done = f"{counted(count, 'migration')} applied" if count else "schema was up to date"
        lines.append(f"database {name}: {resolved.display()}, {done}")
    if not prepared:
        lines.append("no database yet: add [database.NAME] to the configuration")
    return [*lines, "", "Next, here (then peersync peer join on the other server):"]
