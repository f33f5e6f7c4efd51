"""`peersync jobs`: the long work of this node, whoever started it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from peersync.cli.clear_stuck_cmd import command as clear_stuck
from peersync.cli.context import Context
from peersync.cli.failure import as_text
from peersync.cli.names import job_path, user_name
from peersync.cli.output import clean, emit_json, print_err, print_out

if TYPE_CHECKING:
    from peersync.agent.jobview import JobView


@click.group()
def command() -> None:
    """List, show, watch, cancel and resume jobs. A job's id may be shortened."""


command.add_command(clear_stuck)


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the jobs that run, and those that ended last."""
    from peersync.cli.history_cmd import fetch, print_views

    views = asyncio.run(fetch(ctx, 20))
    if ctx.json:
        emit_json({"jobs": views})
    else:
        print_views(ctx, views)


@command.command()
@click.argument("job")
@click.pass_obj
def show(ctx: Context, job: str) -> None:
    """Show one job: how far it is, or how it ended."""
    from peersync.cli.progress import screen
    from peersync.cli.watch import error_of, print_result

    view = asyncio.run(_get(ctx, job))
    if ctx.json:
        emit_json(view)
        return
    side = "from" if view.role == "target" else "to"
    by = f" by {clean(view.cancelled_by)}" if view.cancelled_by else ""
    by = by if view.state in ("cancelling", "cancelled") else ""
    print_out(f"{view.id}  {view.action} {view.database} {side} {view.peer}: {view.state}{by}")
    if view.progress is not None:
        print_out("\n".join(screen(view.progress)))
    print_result(ctx, view)
    if (error := error_of(view)) is not None:
        click.echo(as_text(error), err=True, color=None if ctx.color else False)


@command.command()
@click.argument("job")
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
)
@click.pass_obj
def watch(ctx: Context, job: str, mode: str) -> int:
    """Follow a job to its end; the exit code is the job's."""
    from peersync.cli.full_sync import report, watch_job

    return report(ctx, asyncio.run(watch_job(ctx, job, mode)), mode)


@command.command()
@click.argument("job")
@click.pass_obj
def cancel(ctx: Context, job: str) -> None:
    """Stop a job. What it has not committed is undone."""
    view = asyncio.run(_cancel(ctx, job))
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.id[:8]} is {view.state}")


@command.command()
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Take it up, and leave it running.")
@click.option(
    "--progress",
    "mode",
    type=click.Choice(["auto", "bar", "plain", "json", "none"]),
    default="auto",
    show_default=True,
)
@click.pass_obj
def resume(ctx: Context, job: str, no_wait: bool, mode: str) -> int:
    """Take up a job that failed. What has arrived is not sent again."""
    from peersync.cli.full_sync import report, watch_job

    view = asyncio.run(_resume(ctx, job))
    if not no_wait:
        return report(ctx, asyncio.run(watch_job(ctx, view.id, mode)), mode)
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.id[:8]} is {view.state}")
    return 0


async def _get(ctx: Context, job: str) -> JobView:
    from peersync.agent.jobview import JobView

    async with ctx.agent() as agent:
        return await agent.get(job_path(job), JobView)


async def _cancel(ctx: Context, job: str) -> JobView:
    from peersync.agent.jobview import JobView

    async with ctx.agent() as agent:
        by = {"by": user_name()}
        return await agent.post(job_path(job, "cancel"), None, JobView, params=by)


async def _resume(ctx: Context, job: str) -> JobView:
    from peersync.agent.jobview import JobView

    async with ctx.agent() as agent:
        return await agent.post(job_path(job, "resume"), None, JobView)
