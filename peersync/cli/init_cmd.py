"""`peersync init`: from nothing to a node that can be started.

Owns the order: what can fail without a trace comes first (names, connections), then schema
`peersync` in each database, then configuration and identity. Nothing that exists is
overwritten, so running it again is safe, and it says what is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import emit_json, print_err, print_out
from peersync.config.initial import MODE_SYSTEM, MODE_USER, write_initial
from peersync.config.load import SYSTEM_CONFIG, Loaded, find_config, load_config
from peersync.config.model import DatabaseName, NodeName
from peersync.core.errors import BadRequest, ConfigError, PeersyncError

if TYPE_CHECKING:
    from peersync.postgres.conninfo import Resolved
    from peersync.transport.identity import Identity


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
    conninfos = dict(_split(text) for text in databases)
    prepared = asyncio.run(_prepare(conninfos))
    loaded, identity, is_new = _write(ctx, path, settings, conninfos)
    _report(ctx, loaded, identity, prepared, is_new)


def _refuse_existing(ctx: Context, path: Path) -> None:
    if not path.exists():
        return
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
    if "name" in settings:
        _check_name(settings["name"], NodeName, "a node's name: 1 to 63 of a-z, 0-9 and -")
    if "state_dir" in settings:
        settings["state_dir"] = str(Path(settings["state_dir"]).expanduser().absolute())
    return settings


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
        raise BadRequest(f"{name!r} cannot be {rule}") from error


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
    from peersync.transport.identity import create_identity, identity_directory

    if (identity_directory(state_dir) / "node.crt").exists():
        return _load_identity(state_dir), False
    try:
        make_private_directory(state_dir)
        return create_identity(state_dir, name), True
    except OSError as error:
        raise ConfigError(
            f"the identity cannot be written below {state_dir}: {error.strerror}",
            hint="give --state-dir DIR, or run it as the user that owns that directory",
        ) from error


def _load_identity(state_dir: Path) -> Identity:
    from peersync.transport.identity import load_identity

    return load_identity(state_dir)


def _report(
    ctx: Context,
    loaded: Loaded,
    identity: Identity,
    prepared: Mapping[str, tuple[Resolved, int]],
    is_new: bool,
) -> None:
    node = loaded.config.node
    flag = f" --config {loaded.path}" if ctx.config_path else ""
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
            }
        )
        return
    for line in _lines(loaded, identity, prepared, is_new) if not ctx.quiet else ():
        print_err(line)
    for text in following:
        print_out(text)


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
        done = f"{count} migrations applied" if count else "schema was up to date"
        lines.append(f"database {name}: {resolved.display()}, {done}")
    if not prepared:
        lines.append("no database yet: add [database.NAME] to the configuration")
    return [*lines, "", "Next, here (then peersync peer join on the other server):"]
