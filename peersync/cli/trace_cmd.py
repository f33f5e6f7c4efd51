"""`peersync trace`: where one row stands on every node, and what led there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from peersync.cli.asking import post, shown
from peersync.cli.context import Context
from peersync.cli.options import database_option
from peersync.cli.output import clean, emit_json, print_err, print_out, print_table

if TYPE_CHECKING:
    from peersync.postgres.log.trace import RowState, Trace

EXIT_DIFFERS = 4


@click.command()
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@database_option
@click.pass_obj
def command(ctx: Context, table: str, key: tuple[str, ...], database: str | None) -> int:
    """Show the row of TABLE with this KEY here and on every node that can be reached.

    One KEY for each column of the table's key. Behind -- a key may begin with a dash.
    Exit code 4 when the nodes have different rows.
    """
    from peersync.postgres.log.trace import Trace

    name = ctx.database_name(database)
    found = post(ctx, "/api/admin/trace", Trace, database=name, table=table, key=key)
    if ctx.json:
        emit_json(found)
    else:
        _print(ctx, found)
    return 0 if found.same else EXIT_DIFFERS


def _print(ctx: Context, found: Trace) -> None:
    key = ", ".join(f"{column} = {value}" for column, value in found.key.items())
    print_out(clean(f"{found.schema}.{found.table}, {key}"))
    rows = [_state(state) for state in found.nodes]
    columns = ("node", "row", "version", "from", "position", "waiting", "digest")
    print_table(columns, rows, color=ctx.color)
    if found.row is not None and not ctx.quiet:
        print_out("")
        values = [(n, "NULL" if v is None else shown(v)) for n, v in found.row.items()]
        print_table(("column", "value"), values, color=ctx.color)
    if found.entries:
        print_out("")
        print_table(
            ("changed (utc)", "node", "position", "op", "columns"),
            [
                (e.at, e.node or e.origin, e.position, e.op, ", ".join(e.changed) or None)
                for e in found.entries
            ],
            color=ctx.color,
        )
    for one in found.conflicts:
        print_out(clean(f"conflict {one.id} ({one.state}): {one.reason}"))
    for change in found.quarantine:
        print_out(clean(f"quarantine {change.id} ({change.state}): {change.reason}"))
    for state in found.nodes:
        if state.problem is not None:
            print_err(f"{state.node}: {clean(state.problem)}")
    print_err("the nodes that answered agree" if found.same else "the nodes have different rows")


def _state(state: RowState) -> tuple[Any, ...]:
    if state.problem is not None:
        return state.node, "not known", None, None, None, None, None
    waiting = [
        f"{number} {word}"
        for number, word in (
            (state.pending, "unpublished"),
            (state.quarantined, "in quarantine"),
            (state.conflicts, "conflicts"),
        )
        if number
    ]
    return (
        state.node,
        "there" if state.present else "not there",
        state.at or "not in its log",
        state.origin_node or state.origin,
        state.position,
        ", ".join(waiting) or None,
        state.digest and state.digest[:12],
    )
