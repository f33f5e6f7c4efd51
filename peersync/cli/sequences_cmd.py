"""`peersync sequences`: two nodes must not draw the same number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from peersync.cli.asking import get, post
from peersync.cli.context import EXIT_PARTLY, Context
from peersync.cli.options import database_option
from peersync.cli.output import clean, emit_json, print_err, print_out, print_table

if TYPE_CHECKING:
    from peersync.postgres.log.sequence_views import SequencesCheck, SequencesPlan

PATH = "/api/admin/sequences"
_slot = click.option("--slot", metavar="N", type=click.IntRange(0), help="This node's own place.")
_step = click.option("--step", metavar="N", type=click.IntRange(16), help="That of all nodes.")


@click.group()
def command() -> None:
    """Give the sequences of each node numbers of their own, so that new keys never collide.

    Each node steps by the same step, 16 or more, from a start of its own. Run `apply` on every
    node, and again after a full sync.
    """


@command.command()
@database_option
@_slot
@_step
@click.option("--sql", is_flag=True, help="Print only the SQL, for the owner of the tables.")
@click.pass_obj
def plan(ctx: Context, database: str | None, slot: int | None, step: int | None, sql: bool) -> None:
    """Print what `apply` would do here, as SQL. Changes nothing."""
    from peersync.postgres.log.sequence_views import SequencesPlan

    name = ctx.database_name(database)
    made = post(ctx, f"{PATH}/plan", SequencesPlan, database=name, slot=slot, step=step)
    if sql and not ctx.json:
        for one in made.sequences:
            if one.sql is not None:
                print_out(f"{one.sql};")
        _warn_silent(made.silent)
        return
    _print(ctx, made)


@command.command("apply")
@database_option
@_slot
@_step
@click.pass_obj
def apply_(ctx: Context, database: str | None, slot: int | None, step: int | None) -> int:
    """Set the sequences of this node, all in one transaction.

    Exit code 3 where one has no numbers left of its own.
    """
    from peersync.postgres.log.sequence_views import SequencesPlan

    name = ctx.database_name(database)
    made = post(ctx, f"{PATH}/apply", SequencesPlan, database=name, slot=slot, step=step)
    _print(ctx, made)
    return EXIT_PARTLY if any(one.state == "full" for one in made.sequences) else 0


@command.command()
@database_option
@click.pass_obj
def check(ctx: Context, database: str | None) -> int:
    """Ask all nodes whether two of them can draw the same number.

    Exit code 0 when they cannot, 1 when they can or a sequence is nearly used up, 5 when all
    that answered are fine and a node did not answer.
    """
    from peersync.postgres.log.sequence_views import SequencesCheck

    name = ctx.database_name(database)
    found = get(ctx, f"{PATH}/check", SequencesCheck, database=name)
    if ctx.json:
        emit_json(found)
    else:
        _print_check(ctx, found)
    if any(one.problem for one in found.sequences):
        return 1
    return 0 if found.fine else 5


def _print(ctx: Context, made: SequencesPlan) -> None:
    if ctx.json:
        emit_json(made)
        return
    if not made.sequences:
        print_out("No captured table has a sequence: nothing to do.")
    rows: list[tuple[Any, ...]] = [
        (
            f"{one.schema}.{one.name}",
            f"{one.table_schema}.{one.table}.{one.column}",
            "set" if made.applied and one.state == "change" else one.state,
            one.next_value,
            one.new_value,
            one.left,
            one.reason,
        )
        for one in made.sequences
    ]
    if rows:
        columns = ("sequence", "column", "state", "next", "new next", "left", "why")
        print_table(columns, rows, color=ctx.color)
    _print_sql(made)
    print_err(f"slot {made.slot} of {made.step}, {made.members} members")
    _warn_silent(made.silent)


def _print_sql(made: SequencesPlan) -> None:
    lines = [f"{one.sql};" for one in made.sequences if one.sql is not None]
    if lines and not made.applied:
        print_out("\n" + clean("\n".join(lines), keep="\n"))


def _print_check(ctx: Context, found: SequencesCheck) -> None:
    rows = [
        (
            f"{one.schema}.{one.name}",
            f"{one.table_schema}.{one.table}.{one.column}",
            one.increment,
            one.next_value,
            one.left,
            one.problem or one.note or "fine",
        )
        for one in found.sequences
    ]
    if rows:
        columns = ("sequence", "column", "step", "next", "left", "what")
        print_table(columns, rows, color=ctx.color)
    else:
        print_out("No captured table has a sequence.")
    if found.slot is not None:
        print_err(f"slot {found.slot} of {found.step}")
    if any(one.problem for one in found.sequences):
        print_err("next: peersync sequences apply, on every node")
    _warn_silent(found.silent)


def _warn_silent(silent: dict[str, str]) -> None:
    for node, why in silent.items():
        print_err(f"{node} could not be asked: {clean(why)}")
