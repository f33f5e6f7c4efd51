"""`peersync tables`: which tables periodic sync captures, which not and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import msgspec

from peersync.cli.asking import get, post, shown_table
from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.options import database_option
from peersync.cli.output import emit_json, flat, print_err, print_out, print_table

if TYPE_CHECKING:
    from peersync.postgres.log.chosen import TableView

PATH = "/api/admin/tables"
MEMBERS = "/api/admin/members"
_UNTIL_NOW = "changes made here meanwhile were not caught: a full sync brings both sides together"


@click.group()
def command() -> None:
    """List the tables of periodic sync, leave some out, choose how their conflicts end.

    The configuration's include and exclude are the outer bound; here some of those tables are
    left out on this node, until they are taken back.
    """


@command.command("list")
@click.argument("pattern", required=False)
@database_option
@click.pass_obj
def list_(ctx: Context, pattern: str | None, database: str | None) -> None:
    """List what is captured, and what is not and why."""
    from peersync.agent.periodic.members_api import MembersView
    from peersync.postgres.log.chosen import TableView

    name = ctx.database_name(database)
    tables = get(ctx, PATH, list[TableView], database=name, table=pattern)
    if not ctx.json and get(ctx, MEMBERS, MembersView, database=name).group is None:
        print_err(f"{name} takes part in no periodic sync, none of its tables is synced.")
        print_err("begin it with another server: peersync join PEER")
        return
    _print(ctx, name, tables)


@command.command()
@click.argument("pattern")
@database_option
@click.pass_obj
def add(ctx: Context, pattern: str, database: str | None) -> int:
    """Take tables back that were left out by `tables remove`."""
    code = _change(ctx, database, "add", pattern=pattern)
    print_err(_UNTIL_NOW)
    return code


@command.command()
@click.argument("pattern")
@database_option
@click.pass_obj
def remove(ctx: Context, pattern: str, database: str | None) -> int:
    """Stop catching the changes of tables on this node. Their rows stay."""
    return _change(ctx, database, "remove", pattern=pattern)


@command.command()
@database_option
@click.pass_obj
def refresh(ctx: Context, database: str | None) -> int:
    """Look at all tables now, as the agent does by itself every few seconds."""
    return _change(ctx, database, "refresh")


@command.command()
@click.argument("pattern", metavar="TABLE")
@click.argument("name", metavar="STRATEGY")
@database_option
@click.pass_obj
def strategy(ctx: Context, pattern: str, name: str, database: str | None) -> int:
    """Say how conflicts of tables end from now on.

    newer_wins, manual, merge_columns, delta:COLUMN,COLUMN, origin_priority:NODE=NUMBER,…,
    function:SCHEMA.NAME
    """
    code = _change(ctx, database, "strategy", pattern=pattern, strategy=name)
    print_err("set the same on all nodes: with different strategies their rows come to differ")
    return code


def _change(
    ctx: Context,
    database: str | None,
    action: str,
    *,
    pattern: str | None = None,
    strategy: str | None = None,
) -> int:
    """Exit code 3 where some of the tables could not be captured."""
    from peersync.postgres.log.chosen import TableView

    name = ctx.database_name(database)
    told = post(
        ctx,
        PATH,
        list[TableView],
        database=name,
        action=action,
        pattern=pattern,
        strategy=strategy,
    )
    _print(ctx, name, told)
    return EXIT_PARTLY if action != "remove" and any(one.state == "refused" for one in told) else 0


def _print(ctx: Context, database: str, tables: list[TableView]) -> None:
    if ctx.json:
        emit_json({"database": database, "tables": [msgspec.to_builtins(one) for one in tables]})
        return
    if not tables:
        print_out("Periodic sync knows no such table.")
        return
    rows: list[tuple[Any, ...]] = [
        (
            shown_table(one.schema, one.table),
            "parked" if one.parked else one.state,
            one.strategy,
            one.waiting or None,
            flat(one.parked or one.reason or "") or None,
        )
        for one in tables
    ]
    print_table(("table", "state", "strategy", "waiting", "why"), rows, color=ctx.color)
    states = Counter(row[1] for row in rows)
    print_err(", ".join(f"{number} {state}" for state, number in sorted(states.items())))
