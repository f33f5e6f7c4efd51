"""`peersync quarantine`: changes that arrived and could not be applied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from peersync.cli.asking import (
    assignments,
    checked_id,
    get,
    post,
    print_facts,
    print_row,
    row_name,
    shown,
    side_by_side,
)
from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.options import database_option, limit_option, null_option
from peersync.cli.output import clean, emit_json, flat, print_err, print_out, print_table, stamp
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.postgres.log.quarantine import QuarantineView, Tried

PATH = "/api/admin/quarantine"


@click.group()
def command() -> None:
    """List, retry, edit and skip changes that the database has refused."""


@command.command("list")
@database_option
@click.option("--table", metavar="PATTERN", help="Only of these tables.")
@click.option("--all", "all_", is_flag=True, help="Also those that are settled.")
@limit_option
@click.pass_obj
def list_(ctx: Context, database: str | None, table: str | None, all_: bool, limit: int) -> None:
    """List what waits, in the order in which it is tried."""
    from peersync.postgres.log.quarantine import QuarantineView

    name = ctx.database_name(database)
    found = get(ctx, PATH, list[QuarantineView], database=name, table=table, all=all_, limit=limit)
    if ctx.json:
        emit_json({"database": name, "changes": [msgspec.to_builtins(one) for one in found]})
    elif not found:
        print_out("Nothing of it is in quarantine." if table else "Nothing is in quarantine.")
    else:
        rows = [
            (
                one.id,
                stamp(one.changed_at or one.at),
                one.node or one.origin,
                f"{one.schema}.{one.table}",
                one.key,
                one.op,
                one.state,
                one.tries,
                one.sqlstate,
                shown(flat(one.reason)),
            )
            for one in found
        ]
        columns = (
            "id", "changed (utc)", "from", "table", "key", "op", "state", "tries", "sqlstate",
            "reason",
        )  # fmt: skip
        print_table(columns, rows, color=ctx.color)


@command.command()
@click.argument("change", metavar="ID")
@database_option
@click.pass_obj
def show(ctx: Context, change: str, database: str | None) -> None:
    """Show one: its row, and the database's own words."""
    from peersync.postgres.log.quarantine import QuarantineView

    name = ctx.database_name(database)
    view = get(ctx, f"{PATH}/{checked_id(change)}", QuarantineView, database=name)
    if ctx.json:
        emit_json(view)
    else:
        _print(ctx, view)


@command.command()
@click.argument("changes", metavar="[ID]...", nargs=-1)
@database_option
@click.option("--all", "all_", is_flag=True, help="Everything that waits.")
@click.option("--table", metavar="PATTERN", help="With --all: only of these tables.")
@click.pass_obj
def retry(
    ctx: Context, changes: tuple[str, ...], database: str | None, all_: bool, table: str | None
) -> int:
    """Try again, as it was sent. A row that was changed since stays as it is.

    Exit code 0 when all are settled, 3 when some are, 1 when none is.
    """
    from peersync.postgres.log.quarantine import Tried

    if bool(changes) == all_ or (table is not None and not all_):
        raise BadRequest("which ones?", hint="give IDs, or --all")
    ids = [int(checked_id(one)) for one in changes]
    tried = post(
        ctx,
        f"{PATH}/retry",
        list[Tried],
        database=ctx.database_name(database),
        ids=ids,
        table=table,
    )
    refused = sum(one.result == "refused" for one in tried)
    if ctx.json:
        emit_json({"results": [msgspec.to_builtins(one) for one in tried]})
    else:
        for one in tried:
            _report(one)
        if not tried:
            print_out("Nothing is in quarantine.")
    if not refused:
        return 0
    return EXIT_PARTLY if refused < len(tried) else 1


@command.command()
@click.argument("change", metavar="ID")
@click.argument("pairs", metavar="COLUMN=VALUE...", nargs=-1)
@null_option
@database_option
@click.pass_obj
def edit(
    ctx: Context, change: str, pairs: tuple[str, ...], nulls: tuple[str, ...], database: str | None
) -> None:
    """Write the row with other values in some columns, as a change that goes to all nodes.

    A database that only receives keeps it to itself.
    """
    from peersync.postgres.log.quarantine import Tried

    number = checked_id(change)
    values = assignments(pairs, nulls)
    if not values:
        raise BadRequest("which column is to be changed?", hint="COLUMN=VALUE, or --null COLUMN")
    name = ctx.database_name(database)
    tried = post(ctx, f"{PATH}/{number}/edit", Tried, database=name, values=values)
    if ctx.json:
        emit_json(tried)
        return
    _report(tried)
    if not ctx.quiet:
        side_by_side(ctx, ("was", "is now"), tried.before, tried.after)


@command.command()
@click.argument("change", metavar="ID")
@database_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def skip(ctx: Context, change: str, database: str | None, yes: bool) -> None:
    """Give one up. It stays in the list as skipped, and the row differs between the nodes."""
    from peersync.postgres.log.quarantine import Tried

    number = checked_id(change)
    name = ctx.database_name(database)
    if not yes:
        ctx.refuse_unattended()
        click.confirm(f"Give up change {number}? It is lost on this node", abort=True, err=True)
    tried = post(ctx, f"{PATH}/{number}/skip", Tried, database=name)
    if ctx.json:
        emit_json(tried)
    else:
        _report(tried)


def _print(ctx: Context, view: QuarantineView) -> None:
    cause = "this row was refused" if view.cause == "row" else "the whole table is parked"
    settled = view.settled_at and f"{view.settled_at} by {view.settled_by}"
    print_facts(
        [
            ("change", f"{view.id}: {view.op} of {row_name(view.schema, view.table, view.key)}"),
            ("from", f"{view.node or view.origin}, position {view.position}"),
            ("changed", view.changed_at),
            ("arrived", view.at),
            ("state", view.state),
            ("cause", cause),
            ("tries", f"{view.tries}, last {view.tried_at}"),
            ("sqlstate", view.sqlstate),
            ("settled", settled),
        ]
    )
    print_out("reason    " + clean(view.reason, keep="\n").replace("\n", "\n          "))
    if view.row is not None:
        print_out("")
        print_row(ctx, "value", view.row)
    if view.state == "waiting":
        print_err(f"peersync quarantine retry {view.id}, edit {view.id} COLUMN=VALUE, or skip")


def _report(tried: Tried) -> None:
    line = f"{tried.id}  {tried.result}  {row_name(tried.schema, tried.table, tried.key)}"
    print_out(clean(line if tried.reason is None else f"{line}: {flat(tried.reason)}"))
