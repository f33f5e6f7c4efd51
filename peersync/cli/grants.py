"""`peersync grants`: the statements that give a role what peersync needs, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import click

from peersync.cli.context import Context
from peersync.cli.output import clean, emit_json, print_err, print_out
from peersync.core.errors import BadRequest

if TYPE_CHECKING:
    from peersync.postgres.rights import Right

_PERIODIC = ("join", "periodic")
_NO_GRANT = (
    "no GRANT lets a role alter a sequence: who does not own the tables types, before "
    "peersync sequences apply: peersync sequences plan --sql | psql, as their owner"
)
Mode = Literal["pull", "push", "both", "join", "periodic"]


@click.command()
@click.option("--database", metavar="NAME", help="Only this one of the configuration.")
@click.option("--role", metavar="ROLE", help="Which role; else that of the conninfo.")
@click.option(
    "--mode",
    type=click.Choice(["pull", "push", "both", "join", "periodic"]),
    default="both",
    show_default=True,
    help="pull: rows are written here. push: rows are read here, to push or to be pulled. "
    "periodic: changes are captured and applied. join: that, and before it a join, a merge or a "
    "rebaseline.",
)
@click.option("--missing", is_flag=True, help="Only what the role does not have.")
@click.option("--sql", is_flag=True, help="Print it for psql, to be run as a superuser.")
@click.pass_obj
def command(
    ctx: Context, database: str | None, role: str | None, mode: Mode, missing: bool, sql: bool
) -> None:
    """Print the GRANTs that peersync needs, from the tables that are there now.

    Nothing is changed. Tables that are made later need theirs, too: run it again then.
    """
    if sql and ctx.json:
        raise BadRequest("--sql and --json exclude each other")
    names = [ctx.database_name(database)] if database else list(ctx.config.database)
    found = {name: asyncio.run(_read(ctx, name, role, mode)) for name in names}
    listed = {
        name: (who, [r for r in rights if not (missing and r.held)])
        for name, (who, rights) in found.items()
    }
    if ctx.json:
        emit_json(
            {
                "databases": [
                    {"database": name, "role": who, "mode": mode, "rights": rights}
                    for name, (who, rights) in listed.items()
                ]
            }
        )
        return
    for name, (who, rights) in listed.items():
        if sql:
            _print_sql(ctx, name, rights)
        else:
            _print_text(name, who, rights)
    if mode in _PERIODIC and not ctx.quiet:
        print_err(_NO_GRANT)
    if not sql and not ctx.quiet:
        print_err("to give them: peersync grants --sql | psql, as a superuser")


async def _read(ctx: Context, name: str, role: str | None, mode: Mode) -> tuple[str, list[Right]]:
    from peersync.core.patterns import Patterns
    from peersync.postgres.pool import Database
    from peersync.postgres.rights import needed, read_rights

    settings = ctx.config.database[name]
    wanted = Patterns(settings.include, settings.exclude).match
    database = Database(name, ctx.resolved(name))
    async with database.connect("grants", what=f"reading the rights in {name}") as connection:
        rights = await read_rights(connection, role, all_objects=True)
        return rights.role, needed(rights, mode, wanted)


def _print_sql(ctx: Context, name: str, rights: list[Right]) -> None:
    """A script for psql: it stops at the first error, and nothing of a database is half given."""
    print_out(f"-- peersync: {clean(name)}, {len(rights)} statements, harmless to repeat")
    print_out("\\set ON_ERROR_STOP on")
    print_out(f"\\connect -reuse-previous=on {_psql_word('dbname=' + _value(_dbname(ctx, name)))}")
    print_out("BEGIN;")
    for right in rights:
        print_out(right.sql)
    print_out("COMMIT;")


def _dbname(ctx: Context, name: str) -> str:
    return ctx.resolved(name).dbname


def _value(text: str) -> str:
    """A value in a conninfo."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _psql_word(text: str) -> str:
    """An argument of a psql command: in single quotes it reads backslashes, too."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _print_text(name: str, role: str, rights: list[Right]) -> None:
    lacking = sum(not right.held for right in rights)
    print_out(f"{clean(name)}: {clean(role)} lacks {lacking} of {len(rights)} rights")
    for right in rights:
        print_out(f"  {'has    ' if right.held else 'MISSING'}  {clean(right.sql)}")
        print_out(f"           {clean(right.why)}")
