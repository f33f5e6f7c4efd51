"""`peersync periodic`: periodic sync as a process of its own, as systemd wants it."""

from __future__ import annotations

import asyncio
import faulthandler

import click

from peersync.cli.agent_cmd import reader
from peersync.cli.context import Context


@click.command()
@click.pass_obj
def command(ctx: Context) -> None:
    """Run the periodic sync of this node outside the agent, until SIGTERM or Ctrl-C.

    For servers whose agent has periodic.enabled = false: it then only serves the peers. Exit
    code 6 names who runs it already.
    """
    from peersync.agent import logs
    from peersync.agent.periodic.process import Process

    faulthandler.enable()  # the watchdog's SIGABRT tells where it hung
    read = reader(ctx)
    config = read()
    logs.set_up(config.log.level, config.log.format, ctx.environ)
    asyncio.run(Process(config, ctx.environ, read).run())
