"""`peersync conflicts`: two changes of one row, which one the row has now, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from peersync.cli.asking import (
    assignments,
    checked_id,
    database_option,
    get,
    limit_option,
    null_option,
    post,
    print_facts,
    side_by_side,
)
from peersync.cli.context import Context
from peersync.cli.output import emit_json, print_err, print_out, print_table
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.postgres.log.conflicts import ConflictSide, ConflictView, Settled

PATH = "/api/admin/conflicts"


@click.group()
def command() -> None:
    """List, show and settle conflicts: changes of one row on two nodes, unknown to each other."""


@command.command("list")
@database_option
@click.option("--table", metavar="PATTERN", help="Only of these tables.")
@click.option("--open", "only_open", is_flag=True, help="Only those that wait for a person.")
@limit_option
@click.pass_obj
def list_(
    ctx: Context, database: str | None, table: str | None, only_open: bool, limit: int
) -> None:
    """List the newest conflicts of this node."""
    from peersync.postgres.log.conflicts import ConflictView

    name = ctx.database_name(database)
    found = get(
        ctx, PATH, list[ConflictView], database=name, table=table, open=only_open, limit=limit
    )
    if ctx.json:
        emit_json({"database": name, "conflicts": [msgspec.to_builtins(one) for one in found]})
    elif not found:
        print_out("There is no such conflict." if table or only_open else "There is no conflict.")
    else:
        _print_list(ctx, found)


@command.command()
@click.argument("conflict", metavar="ID")
@database_option
@click.pass_obj
def show(ctx: Context, conflict: str, database: str | None) -> None:
    """Show both rows side by side; ≠ marks the columns that differ."""
    from peersync.postgres.log.conflicts import ConflictView

    name = ctx.database_name(database)
    view = get(ctx, f"{PATH}/{checked_id(conflict)}", ConflictView, database=name)
    if ctx.json:
        emit_json(msgspec.to_builtins(view))
    else:
        _print(ctx, view)


@command.command()
@click.argument("conflict", metavar="ID")
@database_option
@click.option("--side", type=click.Choice(["kept", "incoming"]), help="Which side is written.")
@click.option("--force", is_flag=True, help="Also where the row has been changed since.")
@click.pass_obj
def restore(
    ctx: Context, conflict: str, database: str | None, side: str | None, force: bool
) -> None:
    """Write the side that lost back, as a new change that goes to all nodes."""
    from peersync.postgres.log.conflicts import Settled

    number = checked_id(conflict)
    name = ctx.database_name(database)
    settled = post(ctx, f"{PATH}/{number}/restore", Settled, database=name, side=side, force=force)
    _report(ctx, settled)


@command.command()
@click.argument("conflict", metavar="ID")
@database_option
@click.option("--keep", "choice", flag_value="keep", help="The row that was here stays.")
@click.option("--take", "choice", flag_value="take", help="The row that came in is taken.")
@click.option("--set", "pairs", metavar="COLUMN=VALUE", multiple=True, help="A row of your own.")
@null_option
@click.option("--force", is_flag=True, help="Also where the row has been changed since.")
@click.pass_obj
def resolve(
    ctx: Context,
    conflict: str,
    database: str | None,
    choice: str | None,
    pairs: tuple[str, ...],
    nulls: tuple[str, ...],
    force: bool,
) -> None:
    """Decide an open conflict, for all nodes: --keep, --take, or --set for the row as it is."""
    from peersync.postgres.log.conflicts import Settled

    number = checked_id(conflict)
    values = assignments(pairs, nulls)
    if (choice is None) == (not values):
        raise BadRequest("how is it to be decided?", hint="one of --keep, --take, --set")
    settled = post(
        ctx,
        f"{PATH}/{number}/resolve",
        Settled,
        database=ctx.database_name(database),
        choice=choice or "set",
        values=values,
        force=force,
    )
    _report(ctx, settled)


def _print_list(ctx: Context, found: list[ConflictView]) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            one.id,
            one.at[:19].replace("T", " "),
            f"{one.schema}.{one.table}",
            one.key,
            one.kind,
            f"{one.kept.node or one.kept.origin} × {one.incoming.node or one.incoming.origin}",
            "open" if one.state == "open" else _winner(one),
            one.state,
        )
        for one in found
    ]
    columns = ("id", "at (utc)", "table", "key", "kind", "nodes", "winner", "state")
    print_table(columns, rows, color=ctx.color)
    if waiting := sum(one.state == "open" for one in found):
        print_err(f"{waiting} wait for a person: peersync conflicts show ID, then resolve ID")


def _winner(view: ConflictView) -> str:
    if view.winner == "merged":
        return "merged"
    side = view.kept if view.winner == "kept" else view.incoming
    return side.node or str(side.origin)


def _print(ctx: Context, view: ConflictView) -> None:
    settled = view.settled_at and f"{view.settled_at} by {view.settled_by}: {view.settled_how}"
    sides = {name: _side(side) for name, side in (("kept", view.kept), ("incoming", view.incoming))}
    print_facts(
        [
            ("conflict", f"{view.id}, {view.at}"),
            ("row", f"{view.schema}.{view.table} {view.key or ''}"),
            ("kind", view.kind),
            ("kept", sides["kept"]),
            ("incoming", sides["incoming"]),
            ("strategy", view.strategy),
            ("winner", f"{view.winner} ({_winner(view)}), state {view.state}"),
            ("reason", view.reason),
            ("settled", settled),
        ]
    )
    print_out("")
    side_by_side(ctx, ("kept", "incoming"), view.kept.row, view.incoming.row)
    if view.state == "open":
        print_err(f"decide: peersync conflicts resolve {view.id} --keep | --take | --set …")
    elif view.state == "resolved":
        print_err(f"write the other side back: peersync conflicts restore {view.id}")


def _side(side: ConflictSide) -> str:
    position = "not sent yet" if side.position is None else f"position {side.position}"
    return f"{side.node or side.origin}, {side.op}, {position}, {side.at or 'unknown time'}"


def _report(ctx: Context, settled: Settled) -> None:
    if ctx.json:
        emit_json(msgspec.to_builtins(settled))
        return
    where = f"{settled.schema}.{settled.table} {settled.key}"
    if not settled.written:
        print_out(f"conflict {settled.id}: {where} is so already; nothing was written")
        return
    print_out(f"conflict {settled.id}: {where} was written; the change goes to all nodes")
    if not ctx.quiet:
        side_by_side(ctx, ("was", "is now"), settled.before, settled.after)
