"""`peersync pull`: a database of this node catches up from a peer."""

from __future__ import annotations

from typing import Any

import click

from peersync.cli.context import Context
from peersync.cli.full_sync import full_sync, sync_options


@click.command()
@sync_options
@click.pass_obj
def command(ctx: Context, /, **options: Any) -> int:
    """Bring this server's database up to date from PEER, all or nothing.

    Rows that differ are overwritten, rows that are only here are kept. Until the one
    transaction at the end commits, nothing that was here is changed.
    """
    return full_sync(ctx, "pull", options)
