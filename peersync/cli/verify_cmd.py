"""`peersync verify`: whether two databases are the same, row by row, while both are written to.

The agent compares; here it is asked for, watched, and shown. `peersync verify PEER` is short for
`peersync verify run PEER`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from peersync.cli.context import Context
from peersync.cli.names import user_name
from peersync.cli.options import database_option
from peersync.cli.output import ago, duration, emit_json, print_err, print_table
from peersync.cli.seconds import Seconds
from peersync.core.errors import BadRequest, Cancelled, error_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peersync.agent.proof.view import VerifyView
    from peersync.transport.local import AgentClient

PATH: Final = "/api/admin/verify"
LOOK_S: Final = 0.25  # between two looks at one that runs
EXIT_CODES: Final = {"identical": 0, "differs": 4, "in flight": 3, "partly": 3}
_WORST_FIRST: Final = (4, 5, 1, 8, 3, 130)
_FIRST_WORDS: Final = ("run", "list", "show", "tables", "cancel")


class _RunByDefault(click.Group):
    """A first word that is no command is the peer of `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = next((word for word in args if not word.startswith("-")), None)
        if first not in _FIRST_WORDS and args != ["--help"]:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault)
def command() -> None:
    """Prove that a database is the same here and on a peer, or say which rows differ.

    `peersync verify PEER` is `peersync verify run PEER`, and takes its options.
    """


@command.command()
@click.argument("peer", required=False)
@database_option
@click.option("--tables", metavar="PATTERN", multiple=True, help="Only these; psql's patterns.")
@click.option("--exclude-tables", metavar="PATTERN", multiple=True, help="Not these.")
@click.option("--rows", is_flag=True, help="Say of each row which columns differ.")
@click.option("--values", is_flag=True, help="And what is in them, here and there.")
@click.option("--paranoid", is_flag=True, help="128 bits of SHA-256 a row; slower.")
@click.option("--fresh", is_flag=True, help="Read every row, whatever digests are kept.")
@click.option("--timeout", metavar="SECONDS", type=Seconds(1), help="Give up after.")
@click.option("--all", "every", is_flag=True, help="Every database with every peer, in turn.")
@click.pass_obj
def run(ctx: Context, /, peer: str | None, *, every: bool, **options: Any) -> int:
    """Compare with PEER, or with `--all` every database with every peer that it is synced with.

    Exit code 0: identical; 4: rows differ; 3: rows were still in flight, or a table could not be
    compared; 5: a peer can't be reached; 130: cancelled.
    """
    if every == (peer is not None):
        raise BadRequest(
            "which peer?" if not every else "--all is for all peers: leave the name out",
            hint="peersync verify PEER, or: peersync verify --all",
        )
    try:
        return asyncio.run(_run(ctx, peer, **options))
    except KeyboardInterrupt:
        raise Cancelled("cancelled: nothing was recorded") from None


@command.command(name="list")
@click.option("--limit", metavar="N", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--database", metavar="NAME", help="Only those of this one.")
@click.pass_obj
def list_(ctx: Context, limit: int, database: str | None) -> None:
    """List the verifications, newest first."""
    from peersync.agent.proof.view import VerifyView
    from peersync.cli.asking import get

    name = ctx.database_name(database) if database is not None else None
    views = get(ctx, PATH, list[VerifyView], limit=limit, database=name)
    if ctx.json:
        emit_json({"verifications": views})
        return
    rows = [
        (
            view.id[:8], f"{datetime.fromisoformat(view.started_at):%Y-%m-%d %H:%M:%S}",
            view.database, view.peer, view.result or view.state, view.different, view.missing,
            view.extra, duration(view.seconds), view.requested_by,
        )
        for view in views
    ]  # fmt: skip
    columns = (
        "id", "started (utc)", "database", "peer", "result", "different", "missing", "extra",
        "took", "by",
    )  # fmt: skip
    print_table(columns, rows, color=ctx.color)


@command.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def show(ctx: Context, id_: str) -> int:
    """Show one. The beginning of the id is enough."""
    from peersync.agent.proof.view import VerifyView
    from peersync.cli.asking import get

    return _shown(ctx, [get(ctx, f"{PATH}/{id_}", VerifyView)])


@command.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def cancel(ctx: Context, id_: str) -> None:
    """End one that runs. What it found is not recorded."""
    from peersync.agent.proof.view import VerifyView
    from peersync.cli.asking import post

    view = post(ctx, f"{PATH}/{id_}/cancel", VerifyView)
    if ctx.json:
        emit_json(view)
    else:
        print_err(f"{view.id[:8]} is {view.state}")


@command.command()
@click.option("--peer", metavar="NAME", help="Only with this one.")
@click.option("--database", metavar="NAME", help="Only those of this one.")
@click.pass_obj
def tables(ctx: Context, peer: str | None, database: str | None) -> None:
    """List when each table was last proved identical with each peer."""
    from peersync.agent.proof.view import ProofView
    from peersync.cli.asking import get

    name = ctx.database_name(database) if database is not None else None
    proofs = get(ctx, "/api/admin/proofs", list[ProofView], peer=peer, database=name)
    if ctx.json:
        emit_json({"tables": proofs})
        return
    now = datetime.now(UTC)
    rows = [
        (
            p.database, p.peer, f"{p.schema}.{p.name}", p.result, _ago(p.proved_at, now),
            _ago(p.differs_since, now) if p.differs_since else None, _ago(p.checked_at, now),
        )
        for p in proofs
    ]  # fmt: skip
    columns = ("database", "peer", "table", "result", "identical", "differs since", "checked")
    print_table(columns, rows, color=ctx.color)


def _ago(then: str | None, now: datetime) -> str:
    return ago(datetime.fromisoformat(then) if then else None, now)


# --- running --------------------------------------------------------------------------------
async def _run(ctx: Context, peer: str | None, **options: Any) -> int:
    from peersync.agent.proof.view import VerifyView

    database = options["database"]
    if peer is not None or database is not None:
        database = ctx.database_name(database)
    request = {
        "peer": peer,
        "database": database,
        "tables": list(options["tables"]),
        "excludeTables": list(options["exclude_tables"]),
        "rows": options["rows"],
        "values": options["values"],
        "paranoid": options["paranoid"],
        "fresh": options["fresh"],
        "timeoutS": options["timeout"],
        "requestedBy": user_name(),
    }
    async with ctx.agent() as agent:
        views = await agent.post(PATH, request, list[VerifyView])
        try:
            ended = [await watched(ctx, agent, view, values=options["values"]) for view in views]
        except asyncio.CancelledError:
            by = {"requestedBy": user_name()}
            for view in views:
                await agent.post(f"{PATH}/{view.id}/cancel", by, VerifyView)
            raise
    return _shown(ctx, ended)


async def watched(
    ctx: Context, agent: AgentClient, view: VerifyView, *, values: bool
) -> VerifyView:
    """Until it has ended."""
    from peersync.cli.verify_view import Line

    with Line(quiet=ctx.quiet or ctx.json) as line:
        while view.state in ("waiting", "running"):
            line.show(view)
            waited = {"wait": str(LOOK_S)}  # the agent answers at once when it has ended
            view = await agent.get(f"{PATH}/{view.id}", type(view), params=waited)
    return await agent.get(f"{PATH}/{view.id}/values", type(view)) if values else view


def _shown(ctx: Context, views: Sequence[VerifyView]) -> int:
    """Prints what was found, and gives the exit code: that of the worst."""
    from peersync.cli.verify_view import print_view

    if ctx.json:
        # one verification is the object itself, as for other commands
        one = msgspec.to_builtins(views[0]) if len(views) == 1 else {"verifications": views}
        emit_json(one)
    codes = set()
    for view in views:
        codes.add(exit_code_of(view))
        if not ctx.json:
            print_view(view, quiet=ctx.quiet, color=ctx.color)
    return next((code for code in _WORST_FIRST if code in codes), max(codes, default=0))


def exit_code_of(view: VerifyView) -> int:
    if view.state == "cancelled":
        return Cancelled.exit_code
    if view.error is not None:
        return error_class(view.error.code).exit_code
    return EXIT_CODES[view.result] if view.result is not None else 0
