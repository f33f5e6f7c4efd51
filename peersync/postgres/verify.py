"""Proves that a table holds what was staged, before anything is committed.

What was left out on purpose is not in the stage any more, so the proof is exact: every
staged row is here and equal, in every stored byte. Owns the words for what is not; decides
nothing about what to do then.
"""

from __future__ import annotations

import psycopg

from peersync.core.errors import VerifyFailed
from peersync.postgres.aside import Aside, is_aside
from peersync.postgres.compared import count_only_here
from peersync.postgres.load import TableLoad
from peersync.postgres.write import Outcome, column, differences, fires_words


def verify_table(
    connection: psycopg.Connection,
    load: TableLoad,
    outcome: Outcome,
    aside: Aside,
    *,
    replica_role: bool,
) -> int:
    """How many rows are only here. Raises VerifyFailed unless every staged row is here, equal.

    A MERGE that wrote nothing has compared every row already: only the count is missing. Not so
    where a trigger may have dropped the rows, or where there are fewer rows than were staged.
    """
    if load.compared is not None:
        return _verify_compared(connection, load, outcome, aside, replica_role=replica_role)
    merge = load.merge
    wrote = outcome.inserted or outcome.updated or outcome.absent or aside.any
    quiet = not (wrote or load.table.fires(replica_role=replica_role))
    if quiet and merge.key is not None:
        only_here = int(column(connection, merge.count_target())[0]) - load.rows
        if only_here >= 0:
            return only_here
    missing, differing, target_only = differences(connection, merge)
    _refuse_different(load, missing, differing, outcome, replica_role=replica_role)
    return target_only - aside.here()


def _verify_compared(
    connection: psycopg.Connection,
    load: TableLoad,
    outcome: Outcome,
    aside: Aside,
    *,
    replica_role: bool,
) -> int:
    """The same where only the rows that differ were staged: the others were proved before."""
    if load.rows:
        row = connection.execute(load.merge.verify_staged().encode()).fetchone()
        assert row is not None
        missing, differing = row
        _refuse_different(load, missing, differing, outcome, replica_role=replica_role)
    but = f"NOT {is_aside(load.merge, 't')}" if aside.any else "true"
    return count_only_here(connection, load, but=but)


def _refuse_different(
    load: TableLoad, missing: int, differing: int, outcome: Outcome, *, replica_role: bool
) -> None:
    if missing + differing != outcome.absent:
        raise VerifyFailed(
            f"{load.table.name}: after the restore {missing} rows are missing and {differing} "
            "differ from what the source sent; everything was rolled back",
            hint=_hint(load, replica_role=replica_role),
        )


def _hint(load: TableLoad, *, replica_role: bool) -> str:
    if load.table.fires(replica_role=replica_role):
        said = fires_words(load, replica_role=replica_role)
        return (
            f"{said[:1].upper()}{said[1:]} when rows are written here, and may change or drop "
            "them. Disable what does, or pull with --no-verify: the table is then partly done."
        )
    return (
        "A generated column here may differ from the source's. "
        "Run peersync check, and report this if it finds nothing."
    )


def count_changed(
    connection: psycopg.Connection, load: TableLoad, outcome: Outcome
) -> tuple[int, int]:
    """Rows that a trigger or a rule dropped, and rows that it changed, as they were written."""
    missing, differing, _ = differences(connection, load.merge)
    return max(0, missing - outcome.absent), differing


def verify_count(connection: psycopg.Connection, load: TableLoad) -> None:
    """For a table that this session filled directly."""
    there = int(column(connection, load.merge.count_target())[0])
    if there != load.rows:
        raise VerifyFailed(
            f"{load.table.name}: {load.rows} rows were loaded and {there} are there; "
            "everything was rolled back"
        )
