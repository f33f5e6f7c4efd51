"""`peersync jobs clear-stuck`, which scripts/clear-stuck-sync runs: the way out of a dead sync.

Works with the agent stopped; a running one is asked what it runs, and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_err, print_out
from peersync.core.errors import AgentNotRunning, Locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peersync.agent.stuck import StuckSync, StuckSyncs

_AGENT_S = 15.0


class _Session(msgspec.Struct, frozen=True):
    session: str


class _Running(msgspec.Struct, frozen=True):
    """The part of a Status that matters here."""

    running: list[_Session]


@click.command("clear-stuck")
@click.option("--database", metavar="NAME", help="Only in this one.")
@click.option("--session", metavar="ID", help="Only this one; the beginning of its id.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(
    ctx: Context, database: str | None, session: str | None, dry_run: bool, yes: bool
) -> int:
    """Close syncs that say they run and that nobody runs, and drop what they left.

    For when the agent that ran them is gone for good: one that comes back takes its syncs up
    by itself. What lives is named and left alone; the exit code is then 6.
    """
    name = ctx.database_name(database) if database or session else None
    if not (dry_run or yes):
        ctx.refuse_unattended("add --yes, or --dry-run first")
    names = [name] if name is not None else list(ctx.config.database)
    found = asyncio.run(_find(ctx, names, session))
    stuck = [sync for sync in found if sync.result == "found"]
    if not ctx.json:
        _print_found(ctx, found)
    if stuck and not dry_run:
        if not yes:
            click.confirm(f"Close {len(stuck)} and drop what they left?", abort=True, err=True)
        cleared = asyncio.run(_clear(ctx, stuck, asked=not yes))
        found = [*cleared, *(sync for sync in found if sync.result != "found")]
        if not ctx.json:
            _print_cleared(ctx, cleared)
    if ctx.json:
        emit_json({"syncs": msgspec.to_builtins(found)})
    return Locked.exit_code if any(sync.result == "alive" for sync in found) else 0


def _print_found(ctx: Context, found: Sequence[StuckSync]) -> None:
    if not found and not ctx.quiet:
        print_err("no sync is stuck")
    for sync in found:
        what = f"{sync.database} from {sync.peer}, job {sync.session}"
        if sync.result == "alive":
            print_err(clean(f"{what}: left alone: {sync.problem}"))
            continue
        print_out(clean(f"{what}: nobody runs it; last seen {sync.last_seen}"))
        for line in _leavings(sync):
            print_out(f"  {clean(line)}")


def _leavings(sync: StuckSync) -> list[str]:
    lines = [f"staging table peersync.{name}" for name in sync.staging_tables]
    lines += [f"created: {identity}" for identity in sync.created_objects]
    return [*lines, f"spool {sync.spool}"] if sync.spool else lines


def _print_cleared(ctx: Context, cleared: Sequence[StuckSync]) -> None:
    for sync in cleared:
        if not ctx.quiet:
            print_err(
                f"job {sync.session[:8]} is closed as {sync.ended_as}; dropped: "
                f"{len(sync.staging_tables)} staging tables, {len(sync.created_objects)} created "
                f"objects, {'its' if sync.spool else 'no'} spool"
            )
        if sync.problem:
            print_err(clean(sync.problem, keep="\n"))


async def _find(ctx: Context, names: Sequence[str], session: str | None) -> list[StuckSync]:
    running = await _running(ctx)
    found: list[StuckSync] = []
    for name in names:
        async with _opened(ctx, name, running) as syncs:
            found += await syncs.find(session)
    return found


async def _clear(ctx: Context, stuck: Sequence[StuckSync], *, asked: bool) -> list[StuckSync]:
    """Looks again when a question was asked: somebody may have come while it was read."""
    running = await _running(ctx)
    cleared: list[StuckSync] = []
    for sync in stuck:
        async with _opened(ctx, sync.database, running) as syncs:
            again = (await syncs.find(sync.session))[0] if asked else sync
            cleared.append(await syncs.clear(again))
    return cleared


@asynccontextmanager
async def _opened(ctx: Context, name: str, running: frozenset[str]) -> AsyncIterator[StuckSyncs]:
    from peersync.agent.stuck import StuckSyncs
    from peersync.agent.workers import Workers
    from peersync.postgres.pool import Database

    database = Database(name, ctx.resolved(name))
    workers = Workers(pumps=1)
    taken = Path(ctx.config.node.spool_dir) / "taken"
    try:
        yield StuckSyncs(database, ctx.config.node.name, taken, workers, running)
    finally:
        await database.close()
        workers.close()


async def _running(ctx: Context) -> frozenset[str]:
    """What this node's agent says it runs; nothing when there is none, or it does not answer.

    The database's lease has the last word about one that hangs.
    """
    try:
        async with asyncio.timeout(_AGENT_S), ctx.agent() as agent:
            status = await agent.get("/api/admin/status", _Running)
    except (AgentNotRunning, TimeoutError):
        return frozenset()
    return frozenset(progress.session for progress in status.running)
