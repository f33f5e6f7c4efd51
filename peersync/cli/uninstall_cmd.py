"""`peersync uninstall`: takes everything of peersync's out of a database again.

It holds the lease that a full sync holds, so neither starts while the other runs. Of a member of
a group it says what is lost, and does not leave the group for it: that needs the agents.
"""

from __future__ import annotations

import asyncio

import click

from peersync.cli.context import Context
from peersync.cli.options import database_option
from peersync.cli.output import clean, emit_json, print_err, print_out
from peersync.core.errors import Locked
from peersync.core.words import counted
from peersync.postgres.locks import refuse_if_held
from peersync.postgres.migrate import (
    Membership,
    SchemaObject,
    list_objects,
    read_membership,
    uninstall,
)
from peersync.postgres.pool import Database
from peersync.postgres.restore import LEASE
from peersync.postgres.sqlfiles import queries

_LEASES = queries("leases")  # read now: the loop must not wait for a file later


@click.command()
@database_option
@click.option("--dry-run", is_flag=True, help="Only list what would be dropped.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def command(ctx: Context, database: str | None, dry_run: bool, yes: bool) -> None:
    """Drop schema peersync and its triggers. Your tables and rows stay as they are.

    A member of periodic sync leaves first: peersync leave.
    """
    name = ctx.database_name(database)
    if not (dry_run or yes):
        ctx.refuse_unattended("add --yes, or --dry-run first")
    found = Database(name, ctx.resolved(name))
    objects, membership = asyncio.run(_list(found))
    if not ctx.json:
        _print(ctx, objects, name)
    if membership:
        print_err(clean(_what_is_lost(membership, name), keep="\n"))
    if objects and not dry_run:
        if not yes:
            click.confirm(f"Drop these from {found.resolved.display()}?", abort=True, err=True)
        objects = asyncio.run(_uninstall(found))
    if ctx.json:
        listed = [{"kind": item.kind, "name": item.name} for item in objects]
        emit_json(
            {
                "database": name,
                "dropped": not dry_run and bool(objects),
                "member_with": None if membership is None else membership.others,
                "unsent": 0 if membership is None else membership.unsent,
                "objects": listed,
            }
        )
    elif objects and not dry_run and not ctx.quiet:
        print_err(f"peersync is gone from {name}: {counted(len(objects), 'object')} dropped")
        print_err(
            f"An agent that runs sets it up again: take [database.{name}] out of "
            f"{ctx.loaded.path}, then: systemctl restart peersync-agent"
        )


def _print(ctx: Context, objects: tuple[SchemaObject, ...], name: str) -> None:
    if not objects and not ctx.quiet:
        print_err(f"peersync has nothing in {name}")
    for item in objects:
        print_out(f"{item.kind} {clean(item.name)}")


def _what_is_lost(membership: Membership, name: str) -> str:
    others = ", ".join(membership.others) or "nobody yet"
    lines = [f"warning: {name} is a member of periodic sync with {others}. First: peersync leave"]
    if membership.unsent:
        lines.append(
            f"without that {counted(membership.unsent, 'change')} of this server get to nobody, and"
        )
    else:
        lines.append("without that")
    lines.append("the others keep their changes for it until: peersync members expire NODE")
    return "\n".join(lines)


async def _list(database: Database) -> tuple[tuple[SchemaObject, ...], Membership | None]:
    async with database.connect("uninstall", what="uninstalling peersync") as conn:
        return await list_objects(conn), await read_membership(conn)


async def _uninstall(database: Database) -> tuple[SchemaObject, ...]:
    try:
        async with database.connect("uninstall", what="uninstalling peersync") as conn:
            await refuse_if_held(database, LEASE)  # it names the holder
            # The connection keeps the lock to its end, so that no sync starts meanwhile.
            if not await conn.fetchval(_LEASES["try_lock"], LEASE):
                raise Locked(
                    f"a full sync of {database.name} has just begun", hint="peersync jobs list"
                )
            return await uninstall(conn, dry_run=False)
    finally:
        await database.close()
