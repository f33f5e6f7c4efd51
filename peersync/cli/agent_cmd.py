"""`peersync agent`: runs the agent in the foreground, as systemd wants it."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context

if TYPE_CHECKING:
    from peersync.config.model import Config


@click.command()
@click.pass_obj
def command(ctx: Context) -> None:
    """Run the agent of this node until SIGTERM or Ctrl-C. SIGHUP reads the configuration again.

    A full sync that is running when it stops is taken up at the next start.
    """
    from peersync.agent import logs
    from peersync.agent.node import Node

    faulthandler.enable()  # the watchdog's SIGABRT tells where it hung
    read = reader(ctx)
    config = read()
    logs.set_up(config.log.level, config.log.format, ctx.environ)
    node = Node(config, ctx.environ, read, origins=ctx.loaded.origins)
    gc.freeze()  # what is there for good is not looked through each time many changes are read
    asyncio.run(node.run())


def reader(ctx: Context) -> Callable[[], Config]:
    """Reads the configuration of this command, each time anew."""
    from peersync.config.load import load_config

    path = ctx.loaded.path
    return lambda: as_called(ctx, load_config(path, ctx.environ, uid=ctx.uid).config)


def as_called(ctx: Context, config: Config) -> Config:
    """`-v` on the command line counts for more than the file."""
    import msgspec

    if not ctx.verbose:
        return config
    return msgspec.structs.replace(config, log=msgspec.structs.replace(config.log, level="debug"))
