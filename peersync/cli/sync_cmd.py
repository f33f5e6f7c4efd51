"""`peersync sync`: full syncs as scripts start them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.output import emit_json, print_err, print_out
from peersync.core.errors import Locked

if TYPE_CHECKING:
    from peersync.agent.safe import SafeAnswer

PATH = "/api/sync/safe"


@click.group()
def command() -> None:
    """Start full syncs from scripts: nothing is asked, and a busy database is left alone."""


@command.command()
@click.argument("peer")
@click.option("--database", metavar="NAME", help="Which; needed when there are several.")
@click.option("--action", type=click.Choice(["pull", "push"]), default="pull", show_default=True)
@click.option("--key", metavar="KEY", help="Repeated within a day, the same key starts nothing.")
@click.option("--no-compress", is_flag=True, help="Send the rows as they are.")
@click.option("--no-verify", is_flag=True, help="Skip the last comparison; digests are checked.")
@click.option("--no-wait", is_flag=True, help="Start it, print its id, and leave it running.")
@click.pass_obj
def safe(
    ctx: Context,
    peer: str,
    database: str | None,
    action: str,
    key: str | None,
    no_compress: bool,
    no_verify: bool,
    no_wait: bool,
) -> int:
    """Sync a database with PEER, unless a sync of it is running: then exit code 6.

    Rows that differ are overwritten without a question, as with `pull --yes`.
    """
    from peersync.cli.full_sync import report, watch_job

    request = {
        "action": action,
        "peer": peer,
        "database": ctx.database_name(database),
        "compress": not no_compress,
        "verify": not no_verify,
        "requestedBy": user_name(),
    }
    answer = asyncio.run(_ask(ctx, request, key))
    if answer.job is None:
        return _skipped(ctx, answer)
    if not no_wait:
        return report(ctx, asyncio.run(watch_job(ctx, answer.job, "auto")), "auto")
    if ctx.json:
        emit_json(msgspec.to_builtins(answer))
    else:
        print_out(answer.job)
        print_err(f"watch it: peersync jobs watch {answer.job[:8]}")
    return 0


def _skipped(ctx: Context, answer: SafeAnswer) -> int:
    if ctx.json:
        emit_json(msgspec.to_builtins(answer))
    else:
        print_err(f"skipped: {answer.reason}")
    return Locked.exit_code


async def _ask(ctx: Context, request: dict[str, Any], key: str | None) -> SafeAnswer:
    from peersync.agent.safe import SafeAnswer
    from peersync.transport.local import AgentClient

    headers = {"Idempotency-Key": key} if key is not None else {}
    async with AgentClient(Path(ctx.config.node.socket)) as agent:
        return await agent.post(PATH, request, SafeAnswer, headers=headers)
