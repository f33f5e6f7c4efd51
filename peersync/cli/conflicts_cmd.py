"""`peersync conflicts`: two changes of one row, which one the row has now, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    shown_table,
    side_by_side,
)
from peersync.cli.conflicts_bulk import bulk_options, one_or_all, settle
from peersync.cli.context import Context
from peersync.cli.options import database_option, limit_option, null_option
from peersync.cli.output import emit_json, print_err, print_out, print_table, stamp
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.postgres.log.conflicts import ConflictSide, ConflictView, Settled

PATH = "/api/admin/conflicts"
_UNKNOWN = "none"  # the op of a side whose change is not known


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
        emit_json(view)
    else:
        _print(ctx, view)


@command.command()
@click.argument("conflict", metavar="[ID]", required=False)
@database_option
@click.option("--side", type=click.Choice(["kept", "incoming"]), help="Which side is written.")
@click.option("--force", is_flag=True, help="Also where the row has been changed since.")
@bulk_options
@click.pass_obj
def restore(
    ctx: Context,
    /,
    conflict: str | None,
    database: str | None,
    side: str | None,
    force: bool,
    **bulk: Any,
) -> None:
    """Write the side that lost back, as a new change that goes to all nodes.

    With --all of every conflict that was decided and is meant; a row that has been changed since is
    left as it is.
    """
    from peersync.postgres.log.conflicts import Settled

    if one_or_all(conflict, bulk):
        if side is not None or force:
            raise BadRequest("--side and --force are for one conflict")
        return settle(ctx, ctx.database_name(database), "restore", bulk)
    number = checked_id(conflict or "")
    name = ctx.database_name(database)
    settled = post(ctx, f"{PATH}/{number}/restore", Settled, database=name, side=side, force=force)
    return _report(ctx, settled)


@command.command()
@click.argument("conflict", metavar="[ID]", required=False)
@database_option
@click.option("--keep", is_flag=True, help="The row that was here stays.")
@click.option("--take", is_flag=True, help="The row that came in is taken.")
@click.option("--set", "pairs", metavar="COLUMN=VALUE", multiple=True, help="A row of your own.")
@null_option
@click.option("--force", is_flag=True, help="Also where the row has been changed since.")
@bulk_options
@click.pass_obj
def resolve(
    ctx: Context,
    /,
    conflict: str | None,
    database: str | None,
    keep: bool,
    take: bool,
    pairs: tuple[str, ...],
    nulls: tuple[str, ...],
    force: bool,
    **bulk: Any,
) -> None:
    """Decide an open conflict, for all nodes: --keep, --take, or --set for the row as it is.

    With --all every open conflict that is meant (--table, --peer, --since …), by --keep or --take.
    """
    from peersync.postgres.log.conflicts import Settled

    everything = one_or_all(conflict, bulk)
    if everything and (pairs or nulls or force):
        raise BadRequest("--set, --null and --force are for one conflict")
    values = assignments(pairs, nulls)
    if keep + take + bool(values) != 1:
        raise BadRequest("how is it to be decided?", hint="one of --keep, --take, --set")
    if everything:
        return settle(ctx, ctx.database_name(database), "keep" if keep else "take", bulk)
    number = checked_id(conflict or "")
    settled = post(
        ctx,
        f"{PATH}/{number}/resolve",
        Settled,
        database=ctx.database_name(database),
        choice="keep" if keep else "take" if take else "set",
        values=values,
        force=force,
    )
    return _report(ctx, settled)


def _print_list(ctx: Context, found: list[ConflictView]) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            one.id,
            stamp(one.at),
            f"{one.schema}.{one.table}",
            one.key,
            one.kind,
            f"{_node(one.kept)} × {_node(one.incoming)}",
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
    return _node(side)


def _node(side: ConflictSide) -> str:
    return side.node or str(side.origin)


def _print(ctx: Context, view: ConflictView) -> None:
    settled = view.settled_at and f"{view.settled_at} by {view.settled_by}: {view.settled_how}"
    sides = {name: _side(side) for name, side in (("kept", view.kept), ("incoming", view.incoming))}
    print_facts(
        [
            ("conflict", f"{view.id}, {view.at}"),
            ("row", row_name(view.schema, view.table, view.key)),
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
    _print_rows(ctx, view)
    if view.state == "open":
        kept, incoming = _node(view.kept), _node(view.incoming)
        print_err(f"decide: peersync conflicts resolve {view.id} --keep     what {kept} has")
        print_err(f"        peersync conflicts resolve {view.id} --take     what {incoming} has")
        print_err(f"        peersync conflicts resolve {view.id} --set COLUMN=VALUE …")
    elif view.state == "resolved":
        print_err(f"write the other side back: peersync conflicts restore {view.id}")


def _print_rows(ctx: Context, view: ConflictView) -> None:
    """Both rows; of a side that is not known it is said whose it is, and nothing compared."""
    names = (f"kept: {_node(view.kept)}", f"incoming: {_node(view.incoming)}")
    if view.kept.op != _UNKNOWN:
        side_by_side(ctx, names, view.kept.row, view.incoming.row)
        return
    print_out(f"kept      what {_node(view.kept)} has; see it: {_trace(view)}")
    if view.incoming.row is None:
        print_out(f"incoming  {view.incoming.op} by {_node(view.incoming)}")
        return
    print_row(ctx, names[1], view.incoming.row)


def _trace(view: ConflictView) -> str:
    return f"peersync trace {shown_table(view.schema, view.table)} KEY"


def _side(side: ConflictSide) -> str:
    if side.op == _UNKNOWN:
        return f"{_node(side)}, what it has by the last full sync"
    position = "not sent yet" if side.position is None else f"position {side.position}"
    return f"{_node(side)}, {side.op}, {position}, {side.at or 'unknown time'}"


def _report(ctx: Context, settled: Settled) -> None:
    if ctx.json:
        emit_json(settled)
        return
    where = row_name(settled.schema, settled.table, settled.key)
    if not settled.written:
        said = f"{where} stays as it is; nothing had to be written"
        print_out(f"conflict {settled.id} is {settled.state}: {said}")
        return
    print_out(f"conflict {settled.id}: {where} was written; the change goes to all nodes")
    if not ctx.quiet:
        side_by_side(ctx, ("was", "is now"), settled.before, settled.after)
