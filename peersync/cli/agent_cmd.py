"""`peersync agent`: runs the agent in the foreground, as systemd wants it."""

from __future__ import annotations

import asyncio

import click

from peersync.cli.context import Context


@click.command()
@click.pass_obj
def command(ctx: Context) -> None:
    """Run the agent of this node until SIGTERM or Ctrl-C.

    A full sync that is running when it stops is taken up at the next start.
    """
    from peersync.agent import logs
    from peersync.agent.node import Node

    config = ctx.config
    level = "debug" if ctx.verbose else config.log.level
    logs.set_up(level, config.log.format, ctx.environ)
    node = Node(config, ctx.environ)
    asyncio.run(node.run())
