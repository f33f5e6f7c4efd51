"""`peersync push`: a peer's database catches up from this node."""

from __future__ import annotations

from typing import Any

import click

from peersync.cli.context import Context
from peersync.cli.full_sync import full_sync, sync_options


@click.command()
@sync_options
@click.pass_obj
def command(ctx: Context, /, **options: Any) -> int:
    """Bring PEER's database up to date from this server, all or nothing.

    PEER does the work as if it pulled, and must allow it (peersync peer allow NAME --push on
    PEER). Rows there that differ are overwritten, rows that are only there are kept.
    """
    return full_sync(ctx, "push", options)
