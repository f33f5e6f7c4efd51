"""`peersync check`: everything that a sync needs, each with the line that mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_out

if TYPE_CHECKING:
    from peersync.agent.checks import CheckResult

_WIDTH = 34


@click.command()
@click.pass_obj
def command(ctx: Context) -> int:
    """Find what would stop a sync, before it does. Works without a running agent, too."""
    results = asyncio.run(_run(ctx))
    failed = sum(r.state == "failed" for r in results)
    warnings = sum(r.state == "warning" for r in results)
    if ctx.json:
        emit_json({"node": ctx.config.node.name, "ok": not failed, "checks": results})
    else:
        print_out(ctx.config.node.name)
        for result in results:
            _print(result)
        if failed or warnings:
            print_out(f"{failed} failed, {warnings} warnings")
    return 1 if failed else 0


def _print(result: CheckResult) -> None:
    words = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED "}[result.state]
    dots = "." * max(_WIDTH - len(result.name), 2)
    print_out(f"  {clean(result.name)} {dots} {words}  {clean(result.text)}")
    if result.fix:
        for line in result.fix.splitlines():
            print_out(f"      fix: {clean(line)}")


async def _run(ctx: Context) -> list[CheckResult]:
    from peersync.agent.checks import CheckResult, Checks
    from peersync.agent.clients import Clients
    from peersync.agent.databases import Databases
    from peersync.agent.workers import Workers
    from peersync.core.errors import PeersyncError
    from peersync.transport.identity import load_identity
    from peersync.transport.local import AgentClient
    from peersync.transport.peers import PeerBook

    config = ctx.config
    state_dir = Path(config.node.state_dir)
    identity = load_identity(state_dir)
    book = PeerBook(state_dir / "peers.json", identity.node_id)
    databases = Databases(config, ctx.environ)
    clients = Clients(config, identity, book)
    workers = Workers(pumps=1)
    spool = Path(config.node.spool_dir)
    try:
        checks = Checks(config, databases, book, clients.get, spool, workers)
        results = await checks.run()
        async with AgentClient(Path(config.node.socket)) as agent:
            try:
                await agent.get("/healthz", dict[str, bool])
                state = CheckResult(name="agent", state="ok", text=f"running, {config.node.socket}")
            except PeersyncError as exc:
                state = CheckResult(name="agent", state="failed", text=exc.message, fix=exc.hint)
        return [state, *results]
    finally:
        await clients.close()
        await databases.close()
        workers.close()
