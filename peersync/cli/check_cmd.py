"""`peersync check`: everything that a sync needs, each with the line that mends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_out
from peersync.core.errors import PeersyncError
from peersync.core.words import counted

if TYPE_CHECKING:
    from peersync.agent.check_result import CheckResult
    from peersync.config.model import Node
    from peersync.transport.identity import Identity

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
            print_out(f"{failed} failed, {counted(warnings, 'warning')}")
    return 1 if failed else 0


def _print(result: CheckResult) -> None:
    words = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED "}[result.state]
    dots = "." * max(_WIDTH - len(result.name), 2)
    print_out(f"  {clean(result.name)} {dots} {words}  {clean(result.text)}")
    if result.fix:
        for line in result.fix.splitlines():
            print_out(f"      fix: {clean(line)}")


async def _run(ctx: Context) -> list[CheckResult]:
    from peersync.agent.checks import Checks
    from peersync.agent.clients import Clients
    from peersync.agent.databases import Databases
    from peersync.agent.workers import Workers
    from peersync.transport.identity import load_identity
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
        return [await _agent(config.node, identity), *results]
    finally:
        await clients.close()
        await databases.close()
        workers.close()


async def _agent(node: Node, identity: Identity) -> CheckResult:
    """Whether an agent answers on the socket, and whether it is this node's."""
    from peersync.agent.check_result import CheckResult
    from peersync.transport.local import AgentClient
    from peersync.transport.peer_routes import ADMIN_PATH, PeerList

    try:
        async with AgentClient(Path(node.socket)) as agent:
            found = await agent.get(ADMIN_PATH, PeerList)
    except PeersyncError as exc:
        return CheckResult(name="agent", state="failed", text=exc.message, fix=exc.hint)
    if found.node_id != identity.node_id:
        return CheckResult(
            name="agent",
            state="failed",
            text=f"{node.socket} belongs to another node: {found.name} ({found.short_id}); "
            f"this configuration is for {node.name} ({identity.short_id})",
            fix="set node.socket to a file of its own, or use the configuration of that agent",
        )
    if found.name != node.name:
        return CheckResult(
            name="agent",
            state="warning",
            text=f"running, but still as {found.name}; the configuration says {node.name}",
            fix="start it again: systemctl restart peersync-agent",
        )
    return CheckResult(name="agent", state="ok", text=f"running, {node.socket}")
