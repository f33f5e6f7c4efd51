"""Leaves out rows that would refer to rows which are not here.

Under the replica role PostgreSQL checks no foreign key. The source's own rows fit together,
so there is something to find only where a table that is referred to is incomplete: it was
left out, failed, came partly, or is no part of the sync. Only those keys are checked, against
the parents as they are after their own upsert, so what is left out of a child is in turn
missing for its children. A row that is here already stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import psycopg
from psycopg import errors as pg

from peersync.postgres.aside import Aside, Reason
from peersync.postgres.foreign_keys import ForeignKey, is_blind, moves
from peersync.postgres.load import TableLoad
from peersync.postgres.write import column


def leave_out_orphans(
    aside: Aside,
    load: TableLoad,
    keys: Sequence[ForeignKey],
    more: Mapping[int, str] | None = None,
) -> int:
    """Sets the staged rows aside whose parents are not here, by these keys of the table.

    `more` are staging tables (as SQL), by oid, whose rows may still come. Raises a
    ForeignKeyViolation where a key can't be checked row by row.
    """
    number = 0
    for key in keys:
        if is_blind(key, load):
            continue
        if key.period:
            raise pg.ForeignKeyViolation(
                f'rows of {key.parent_name} were left out, and whether "{key.name}" still finds '
                "every period covered can't be told row by row"
            )
        coming = [(more or {})[oid] for oid in sorted(key.parents) if oid in (more or {})]
        number += aside.take(key.missing("s", coming), reason(key))
    return number


def reason(key: ForeignKey) -> Reason:
    """Why rows are left out."""
    parent = str(key.parent_name).replace("{", "{{").replace("}", "}}")
    return (
        f"{{}} row refers to a row of {parent} that is not here and was left out",
        f"{{}} rows refer to rows of {parent} that are not here and were left out",
    )


def find_orphans(connection: psycopg.Connection, load: TableLoad, key: ForeignKey) -> Sequence[str]:
    """The places of staged rows that were written and now refer to nothing.

    Without a key the row here can't be told, and what the source did not say can't be found:
    a ForeignKeyViolation is raised if there is such a row at all.
    """
    if load.merge.key is not None:
        return column(connection, load.merge.places_here(key.missing("t")))
    if is_blind(key, load):
        if has_orphans(connection, key):
            raise pg.ForeignKeyViolation(
                f'values that the source does not have would break "{key.name}"'
            )
        return []
    return column(
        connection, f"SELECT s.ctid::text FROM {load.stage.sql} AS s WHERE {key.missing('s')}"
    )


def has_orphans(connection: psycopg.Connection, key: ForeignKey) -> bool:
    """Whether any row of the child, staged or not, refers to nothing."""
    query = f"SELECT EXISTS (SELECT FROM {key.child_sql} AS c WHERE {key.missing('c')})"
    return bool(column(connection, query)[0])


def moved_away(
    connection: psycopg.Connection, keys: Sequence[ForeignKey], updated: Mapping[int, TableLoad]
) -> dict[int, str]:
    """Parents (by oid) whose upsert took values away that rows here refer to, and the reason.

    Such values are in columns outside the parent's merge key. A key that is NOT VALID promises
    nothing of rows that were here before, so it is not asked.
    """
    found: dict[int, str] = {}
    for key in keys:
        parents = [oid for oid in key.parents & updated.keys() if moves(key, updated[oid])]
        if not parents or not key.validated:
            continue
        try:
            with connection.transaction():
                broken = has_orphans(connection, key)
        except pg.InsufficientPrivilege as exc:
            broken = True
            said = f"{exc.diag.message_primary}, and its foreign key {key.name} must be checked"
        else:
            said = (
                f"rows of {key.child_name} here refer to ({', '.join(key.parent_columns)}) of "
                f"rows which the source has changed\nhint: change or delete those rows of "
                f"{key.child_name} first"
            )
        if broken:
            found |= dict.fromkeys(parents, said)
    return found


def incomplete(
    keys: Sequence[ForeignKey], child: int, complete: Collection[int]
) -> list[ForeignKey]:
    """The keys of a table that refer to one which may not have all its rows."""
    return [k for k in keys if k.child == child and not k.parents <= set(complete)]


def prune_created(
    connection: psycopg.Connection, keys: Sequence[ForeignKey]
) -> dict[int, dict[Reason, int]]:
    """Deletes rows that refer to nothing from tables that this sync created, transitively.

    Gives their numbers by table and reason.
    """
    found: dict[int, dict[Reason, int]] = {}
    while True:
        before = sum(sum(reasons.values()) for reasons in found.values())
        for key in keys:
            number = connection.execute(
                f"DELETE FROM {key.child_sql} AS c WHERE {key.missing('c')}".encode()
            ).rowcount
            if number:
                reasons = found.setdefault(key.child, {})
                reasons[reason(key)] = reasons.get(reason(key), 0) + number
        if before == sum(sum(reasons.values()) for reasons in found.values()):
            return found
