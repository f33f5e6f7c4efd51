"""`peersync complete-sync`: a database brought up to date with all its peers, and how it went.

The agent does it; here it is asked for, watched, and shown.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.options import database_option
from peersync.cli.output import (
    clean,
    count,
    duration,
    emit_json,
    flat,
    print_err,
    print_out,
    print_table,
    size,
)
from peersync.core.errors import BadRequest, Cancelled, DatabaseUnreachable, NotFound
from peersync.core.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peersync.agent.orchestration.outcome import CompletePlan, CompleteView, PeerResult
    from peersync.transport.local import AgentClient

PATH: Final = "/api/complete-sync"
LOOK_S: Final = 0.3
PATIENCE_S: Final = 20.0
EXIT_CODES: Final = {
    "success": 0, "partial": 3, "error": 1, "interrupted": Cancelled.exit_code,
}  # fmt: skip
MARKS: Final = {"success": "✓", "partial": "✗", "error": "✗"}


@click.group(invoke_without_command=True)
@database_option
@click.option("--peers", metavar="A,B", help="Only these, also those without auto_sync.")
@click.option(
    "--sync-type", type=click.Choice(["manual", "scheduled", "api"]), default="manual",
    show_default=True, help="Kept in the record.",
)  # fmt: skip
@click.option("--parallel", metavar="N", type=click.IntRange(1, 64), help="Peers at a time.")
@click.option("--retry-failed", metavar="ID", help="Only the peers that were not done in that run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--no-wait", is_flag=True, help="Start it, print its id, and leave it running.")
@click.pass_context
def command(click_context: click.Context, /, **options: Any) -> int | None:
    """Bring a database up to date with all its peers that have auto_sync, in the order of adding.

    Exit code 0: with all, but for those that are paused; 3: with some, or some were passed over
    after errors; 1: with none; 2: there is no such peer; 6: another one is running; 130: cancelled.
    """
    if click_context.invoked_subcommand is not None:
        return None
    ctx = click_context.ensure_object(Context)
    try:
        return asyncio.run(_sync(ctx, **options))
    except KeyboardInterrupt:
        raise Cancelled("cancelled: what was done is recorded, the rest is not run") from None


@command.command()
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--database", metavar="NAME", help="Only those of this one.")
@click.pass_obj
def history(ctx: Context, limit: int, database: str | None) -> None:
    """List the complete syncs, newest first."""
    from peersync.agent.orchestration.outcome import CompleteView
    from peersync.cli.asking import get

    name = ctx.database_name(database) if database is not None else None
    views = get(ctx, f"{PATH}/history", list[CompleteView], limit=limit, database=name)
    if ctx.json:
        emit_json({"complete_syncs": views})
    else:
        _print_history(ctx, views)


@command.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def show(ctx: Context, id_: str) -> None:
    """Show one with what came of each peer. The beginning of the id is enough."""
    from peersync.agent.orchestration.outcome import CompleteView
    from peersync.cli.asking import get

    view = get(ctx, f"{PATH}/{id_}", CompleteView)
    if ctx.json:
        emit_json(view)
        return
    began = datetime.fromisoformat(view.started_at)
    print_out(
        f"{view.id}  {view.database}: {view.status}, {view.sync_type}, by"
        f" {clean(view.requested_by)}, began {began:%Y-%m-%d %H:%M:%S} UTC"
    )
    _print_peers(view.peers, view.currency)
    _print_summary(view)


@command.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def cancel(ctx: Context, id_: str) -> None:
    """End one that runs. What was done stays."""
    from peersync.agent.orchestration.outcome import CompleteView
    from peersync.cli.asking import post

    view = post(ctx, f"{PATH}/{id_}/cancel", CompleteView)
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.id[:8]} is {view.status}")


# --- running --------------------------------------------------------------------------------
async def _sync(
    ctx: Context,
    *,
    database: str | None,
    peers: str | None,
    retry_failed: str | None,
    dry_run: bool,
    no_wait: bool,
    sync_type: str,
    parallel: int | None,
) -> int:
    from peersync.agent.orchestration.outcome import CompletePlan, CompleteView

    request = {
        "database": ctx.database_name(database),
        "peers": _names(peers),
        "syncType": sync_type,
        "parallel": parallel,
        "retryFailed": retry_failed,
        "dryRun": dry_run,
        "requestedBy": user_name(),
    }
    async with ctx.agent() as agent:
        if dry_run:
            return _show_plan(ctx, await agent.post(PATH, request, CompletePlan))
        view = await agent.post(PATH, request, CompleteView)
        if no_wait:
            return _started(ctx, view)
        view = await _watch(ctx, agent, view)
    if ctx.json:
        emit_json(view)
    else:
        _print_summary(view, quiet=ctx.quiet)
    return EXIT_CODES[view.status]


def _names(peers: str | None) -> list[str]:
    """An empty list would mean all peers, which nobody can have meant by --peers ""."""
    names = [name.strip() for name in peers.split(",")] if peers is not None else []
    if not all(names):
        raise BadRequest("--peers needs names with commas between, for example: a,b")
    return names


async def _watch(ctx: Context, agent: AgentClient, view: CompleteView) -> CompleteView:
    """Until it has ended; a line for each peer that has. Ctrl-C ends the run, too."""
    shown: set[str] = set()
    try:
        while True:
            for peer in view.peers:
                if peer.status not in ("waiting", "running") and peer.peer not in shown:
                    shown.add(peer.peer)
                    _print_peer(ctx, view, peer, len(shown))
            if view.status != "running":
                return view
            await asyncio.sleep(LOOK_S)
            view = await _again(agent, view)
    except asyncio.CancelledError:
        by = {"requestedBy": user_name()}
        await agent.post(f"{PATH}/{view.id}/cancel", by, type(view))
        raise


async def _again(agent: AgentClient, view: CompleteView) -> CompleteView:
    """The record as it is now. While its database starts again the run waits, and so does this."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while True:
        try:
            return await agent.get(f"{PATH}/{view.id}", type(view))
        except (DatabaseUnreachable, NotFound):  # it is looked for in every database that answers
            if loop.time() > until:
                raise
        await asyncio.sleep(LOOK_S)


def _started(ctx: Context, view: CompleteView) -> int:
    if ctx.json:
        emit_json(view)
    else:
        print_out(view.id)
        print_err(f"look at it: peersync complete-sync show {view.id[:8]}")
    return 0


# --- showing --------------------------------------------------------------------------------
def _show_plan(ctx: Context, plan: CompletePlan) -> int:
    if ctx.json:
        emit_json(plan)
        return 0
    for peer in plan.peers:
        mark, why = ("✓", peer.way) if peer.reason is None else ("○", f"skipped: {peer.reason}")
        print_out(f"{mark} {clean(peer.peer)} – {clean(why)}")
    wanted = sum(peer.reason is None for peer in plan.peers)
    if plan.reason is not None:
        print_out(f"{plan.database}: nothing would be done: {plan.reason}")
    else:
        print_out(f"{plan.database} would be synced with {counted(wanted, 'peer')}")
    return 0


def _print_peer(ctx: Context, view: CompleteView, peer: PeerResult, number: int) -> None:
    failed = peer.status in ("error", "partial")
    if ctx.json or (ctx.quiet and not failed):
        return
    line = f"[{number}/{view.peers_total}] {MARKS.get(peer.status, '○')} {clean(peer.peer)} – "
    (print_err if failed else print_out)(line + _came_of(peer))
    if failed and peer.error is not None and peer.error.hint:
        print_err(f"    {flat(peer.error.hint)}")


def _came_of(peer: PeerResult) -> str:
    done = f"{peer.way}, {counted_rows(peer.rows)} ({duration(peer.seconds)})"
    if peer.status in ("skipped", "not_run"):
        return f"{peer.status.replace('_', ' ')}: {flat(peer.reason or 'no reason is known')}"
    if peer.error is not None:
        return f"{flat(peer.error.message)} ({duration(peer.seconds)})"
    return f"{done}: {flat(peer.reason)}" if peer.reason else done


def counted_rows(rows: int) -> str:
    return f"{count(rows)} {'row' if rows == 1 else 'rows'}"


def _print_summary(view: CompleteView, *, quiet: bool = False) -> None:
    if quiet and view.status == "success":
        return
    parts = [f"{view.peers_successful} of {counted(view.peers_total, 'peer')} done"]
    parts += [f"{view.peers_failed} failed"] if view.peers_failed else []
    parts += [f"{view.peers_skipped} skipped"] if view.peers_skipped else []
    parts += [counted_rows(view.rows), size(view.wire_bytes)]
    parts += [money(view.cost, view.currency)] if view.cost else []
    took = f" after {duration(view.seconds)}" if view.seconds is not None else ""
    print_out(f"{view.database}: {view.status}{took}: {', '.join(parts)}")
    if view.status != "running" and view.peers_successful + view.peers_skipped < view.peers_total:
        again = f"peersync complete-sync --database {view.database} --retry-failed {view.id[:8]}"
        print_err(f"try the rest again: {again}")


def money(cost: float, currency: str) -> str:
    """ "0.42 EUR", "0.000133": two to six decimals."""
    text = f"{cost:.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2} {clean(currency)}".rstrip()


def _print_peers(peers: Sequence[PeerResult], currency: str) -> None:
    rows = [
        (
            peer.peer, peer.way, peer.status.replace("_", " "), count(peer.rows),
            size(peer.wire_bytes), money(peer.cost, currency), duration(peer.seconds),
            peer.session[:8] if peer.session else None, peer.tries,
        )
        for peer in peers
    ]  # fmt: skip
    columns = ("peer", "way", "result", "rows", "wire", "cost", "took", "job", "tries")
    print_table(columns, rows)
    for peer in peers:
        why = peer.error.message if peer.error else peer.reason
        if why:
            print_out(f"{clean(peer.peer)}: {flat(why)}")
            if peer.error and peer.error.hint:
                print_out(f"    {flat(peer.error.hint)}")


def _print_history(ctx: Context, views: Sequence[CompleteView]) -> None:
    if not views:
        print_out("No complete sync yet. Start one: peersync complete-sync")
        return
    rows = [
        (
            view.id[:8], f"{datetime.fromisoformat(view.started_at):%Y-%m-%d %H:%M:%S}",
            view.database, view.status,
            f"{view.peers_successful}/{view.peers_total}", count(view.rows),
            money(view.cost, view.currency),
            duration(view.seconds) if view.seconds is not None else None, view.sync_type,
            view.requested_by,
        )
        for view in views
    ]  # fmt: skip
    columns = (
        "id", "started (utc)", "database", "result", "peers", "rows", "cost", "took", "type", "by",
    )  # fmt: skip
    print_table(columns, rows, color=ctx.color)
