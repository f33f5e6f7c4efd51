"""Many conflicts at once, for `peersync conflicts`: the filter, the asking, and what came of it.

The agent works in pieces; here they are put together, so that the count is told first and what was
done so far is not lost when a later piece fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from peersync.cli.asking import post
from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.output import emit_json, print_err, print_table
from peersync.core.errors import BadRequest, PeersyncError

if TYPE_CHECKING:
    from peersync.postgres.log.settling import BulkSettled

PATH: Final = "/api/admin/conflicts/settle"
SHOWN: Final = 20  # outcomes that need a person
_DEEDS: Final = {
    "keep": "Keep what is here in",
    "take": "Take what came in, in",
    "restore": "Write the side that lost back in",
}
_FILTER: Final = ("table", "peer", "kind", "strategy", "since", "until")


def bulk_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--all, and which ones are meant."""
    for option in (
        click.option("-y", "--yes", is_flag=True, help="With --all: do not ask."),
        click.option("--dry-run", is_flag=True, help="With --all: count them, change nothing."),
        click.option("--until", metavar="TIME", help="With --all: found before then."),
        click.option("--since", metavar="TIME", help="With --all: found then or later (UTC)."),
        click.option("--strategy", metavar="NAME", help="With --all: decided by this rule."),
        click.option("--kind", metavar="KIND", help="With --all: as update_origin_differs."),
        click.option("--peer", metavar="NAME", help="With --all: one side was made there."),
        click.option("--table", metavar="PATTERN", help="With --all: of these tables."),
        click.option("--all", "everything", is_flag=True, help="All that are meant, not one."),
    ):
        function = option(function)
    return function


def one_or_all(conflict: str | None, bulk: dict[str, Any]) -> bool:
    """Whether all are meant; BadRequest for both, for neither, and for a filter of one."""
    everything = bool(bulk["everything"])
    if everything == (conflict is not None):
        raise BadRequest("which conflict?", hint="an ID, or --all with --table, --peer, --since …")
    given = [name for name in (*_FILTER, "dry_run", "yes") if bulk[name]]
    if given and not everything:
        raise BadRequest(f"--{given[0].replace('_', '-')} belongs to --all")
    return everything


def settle(ctx: Context, database: str, choice: str, bulk: dict[str, Any]) -> None:
    """Counts, asks, and settles piece by piece. Exits with 3 where some were left as they are."""
    wanted = {name: bulk[name] for name in _FILTER} | {"database": database, "choice": choice}
    counted = _ask(ctx, {**wanted, "dryRun": True})
    if bulk["dry_run"] or not counted.matched:
        _report(ctx, counted)
        return
    if not bulk["yes"]:
        ctx.refuse_unattended()
        _print_tables(ctx, counted)
        click.confirm(f"{_DEEDS[choice]} {counted.matched} conflicts?", abort=True, err=True)
    done = _ask(ctx, {**wanted, "before": counted.next})
    while done.next is not None:
        try:
            done = _joined(done, _ask(ctx, {**wanted, "before": done.next}))
        except (PeersyncError, KeyboardInterrupt) as error:
            _tell_so_far(ctx, done, error)
            raise
        if not ctx.quiet and not ctx.json:
            print_err(f"{done.tried} of {done.matched} …")
    _report(ctx, done)
    if done.refused:
        click.get_current_context().exit(EXIT_PARTLY)


def _ask(ctx: Context, body: dict[str, Any]) -> BulkSettled:
    from peersync.postgres.log.settling import BulkSettled

    return post(ctx, PATH, BulkSettled, **body)


def _tell_so_far(ctx: Context, done: BulkSettled, error: BaseException) -> None:
    """What was settled stays so: on a terminal before the error is shown, for scripts in it."""
    if not ctx.json:
        _report(ctx, done)
    elif isinstance(error, PeersyncError):
        error.data.update(tried=done.tried, settled=done.settled, before=done.next)


def _joined(one: BulkSettled, two: BulkSettled) -> BulkSettled:
    return msgspec.structs.replace(
        one,
        tried=one.tried + two.tried,
        settled=one.settled + two.settled,
        refused=one.refused + two.refused,
        outcomes=(*one.outcomes, *two.outcomes),
        next=two.next,
        left=two.left,
    )


def _report(ctx: Context, done: BulkSettled) -> None:
    if ctx.json:
        emit_json(done)
        return
    if done.dry_run:
        _print_tables(ctx, done)
        print_err(f"{done.matched} conflicts are meant; nothing was changed")
        return
    left = [one for one in done.outcomes if one.result in ("moved", "refused")]
    if left:
        rows = [
            (one.id, f"{one.schema}.{one.table}", one.key, one.result, one.message)
            for one in left[:SHOWN]
        ]
        print_table(("id", "table", "key", "result", "why"), rows, color=ctx.color)
    if not ctx.quiet:
        words = f"{done.settled} of {done.tried} conflicts were settled"
        already = done.tried - done.settled - done.refused
        words += f", {already} had been already" if already else ""
        print_err(words + (f", {done.refused} wait for you: decide each by its id" if left else ""))


def _print_tables(ctx: Context, done: BulkSettled) -> None:
    rows = [(f"{one.schema}.{one.table}", str(one.count)) for one in done.tables]
    if rows:
        print_table(("table", "conflicts"), rows, color=ctx.color)
