"""What every command shares: how it was called, and the configuration when it asks for it.

Owns the global options (usable before or after the verb) and the way from the environment
to explicit values: nothing below the CLI reads the environment. It prints nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from peersync.core.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from peersync.config.load import Loaded
    from peersync.config.model import Config
    from peersync.postgres.conninfo import Resolved
    from peersync.transport.local import AgentClient

EXIT_PARTLY: Final = 3  # some of it was done, some was not


@dataclass
class Context:
    """How this run was called. `environ` is the only environment that the code below sees."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    uid: int = field(default_factory=os.getuid)
    config_path: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False

    @property
    def color(self) -> bool:
        """Whether escape sequences may be written at all; a pipe gets none anyway."""
        return not (self.no_color or self.environ.get("NO_COLOR"))

    @property
    def debug(self) -> bool:
        return self.environ.get("PEERSYNC_DEBUG") == "1"

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to answer a question."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.json

    @cached_property
    def loaded(self) -> Loaded:
        """The configuration with the origin of each value; ConfigError where it is not valid."""
        from peersync.config.load import find_config, load_config

        path = find_config(self.config_path, self.environ, uid=self.uid)
        return load_config(path, self.environ, uid=self.uid)

    @property
    def config(self) -> Config:
        return self.loaded.config

    def database_name(self, name: str | None) -> str:
        """A configured database's name; without one, the only database there is."""
        names = list(self.config.database)
        if name is None:
            if len(names) == 1:
                return names[0]
            listed = ", ".join(names) or "none is configured"
            raise BadRequest(f"which database? ({listed})", hint="give --database NAME")
        if name not in names:
            raise NotFound(
                f"no database {name!r} is configured",
                detail=f"configured: {', '.join(names) or 'none'}",
                hint=f"add [database.{name}] to {self.loaded.path}",
            )
        return name

    def agent(self) -> AgentClient:
        """The agent of this node, over its Unix socket: `async with ctx.agent() as agent:`."""
        from peersync.transport.local import AgentClient

        return AgentClient(Path(self.config.node.socket))

    def refuse_unattended(self, hint: str = "add --yes") -> None:
        """Raises BadRequest where nobody can be asked whether it is meant."""
        if not self.interactive:
            raise BadRequest("nobody is here to confirm this", hint=hint)

    def resolved(self, name: str | None = None) -> Resolved:
        """The explicit connection values of a configured database."""
        from peersync.postgres.conninfo import read_password_file, resolve

        database = self.config.database[self.database_name(name)]
        password = None
        if database.password_file:
            password = read_password_file(database.password_file, self.environ)
        return resolve(database.conninfo, password=password)


def current() -> Context:
    """The context of the command that is running."""
    found = click.get_current_context().find_object(Context)
    if found is None:
        raise RuntimeError("a command of peersync runs without its Context")
    return found


def _store(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value:  # the default must not undo what stood before the verb
            setattr(ctx.ensure_object(Context), attribute, value)

    return callback


def global_options() -> list[click.Option]:
    """New instances of the options that every command takes."""

    def option(attribute: str, *names: str, **settings: Any) -> click.Option:
        return click.Option(
            [*names], callback=_store(attribute), expose_value=False, is_eager=True, **settings
        )

    return [
        option("config_path", "--config", metavar="FILE", help="The configuration to use."),
        option("json", "--json", is_flag=True, help="Print JSON, with a schema_version."),
        option("quiet", "-q", "--quiet", is_flag=True, help="Say only what failed."),
        option("verbose", "-v", "--verbose", count=True, help="Say more; -vv even more."),
        option("no_color", "--no-color", is_flag=True, help="No colour; NO_COLOR=1 does it too."),
    ]


def add_global_options(command: click.Command) -> None:
    """Let a command and all below it take the global options, unless they have such names."""
    taken = {name for param in command.params for name in param.opts}
    command.params += [o for o in global_options() if not taken.intersection(o.opts)]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            add_global_options(child)
