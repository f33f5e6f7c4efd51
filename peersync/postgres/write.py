"""Gets the staged rows of one table into it, inside the transaction of the whole sync.

The usual way is one guarded statement. Where the table refuses it because unique values
have moved between rows, rows are replaced; where rows that are only here are in the way,
everything that fits is written and the rest is counted. Each way is tried in a savepoint,
so a table ends written, partly written or untouched, and never in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors as pg

from peersync.core.errors import PeersyncError, VerifyFailed
from peersync.postgres.errors import translate
from peersync.postgres.load import TableLoad
from peersync.postgres.merge import Merge
from peersync.postgres.sqlfiles import queries

# What a table answers to rows that it does not want. Not among them: what ends a connection,
# a disk, a lock or a statement, which is nobody's fault and the same for every table.
REFUSALS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    pg.ObjectNotInPrerequisiteState,
)
_MOVED = (pg.UniqueViolation, pg.ExclusionViolation)
# ON CONFLICT does not go with rules or deferrable keys: then the first refusal is what is said.
_NO_ON_CONFLICT = (psycopg.NotSupportedError, pg.ObjectNotInPrerequisiteState)
_ROUNDS = 20
_COLLIDE = "{} rows collide with rows here on another unique key and were left out"
_AMBIGUOUS = "{} rows of the source share their key with another row there and were left out"
_HINTS = {
    "23502": "the column may be empty on the source: drop NOT NULL here, or fill it there",
    "23503": "the row that it refers to is not here: sync that table first, or let this role SET "
    "session_replication_role",
    "23505": "change the row here that has this value, or drop the unique key here",
    "23514": "the source does not have this constraint, or an older form of it: drop it here, "
    "or mend the rows there",
    "23P01": "change the row here that is in the way, or drop the constraint here",
}


@dataclass
class Outcome:
    """Rows of the source by what became of them; `skipped` ones are not in the table.

    `kept` is how many rows here have the key of a skipped one.
    """

    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    kept: int = 0
    note: str | None = None
    error: str | None = None


def upsert(connection: psycopg.Connection, load: TableLoad, *, replica_role: bool) -> Outcome:
    """Makes the table hold what was staged, as far as it lets itself be written.

    Raises one of REFUSALS when nothing of it could be written; the table is then untouched.
    """
    merge = load.merge
    may_delete = replica_role or not load.table.delete_cascades
    if merge.deletes and not may_delete:
        raise _would_cascade(load)
    try:
        return _counted(connection, load, merge.merge())
    except (*_MOVED, pg.CardinalityViolation) as exc:
        refusal: psycopg.Error = exc
    if merge.key is None:
        return _copies_that_fit(connection, load, refusal)
    aside = _SetAside(connection, merge)
    ambiguous = aside.take(merge.ambiguous())
    outcome = _after_setting_aside(connection, load, aside, refusal, may_delete=may_delete)
    outcome.skipped, outcome.kept = aside.rows, aside.kept
    reasons = []
    if ambiguous:
        reasons.append(_AMBIGUOUS.format(ambiguous))
    if aside.rows > ambiguous:
        reasons.append(_COLLIDE.format(aside.rows - ambiguous))
    if reasons:
        outcome.note = "; ".join(reasons)
        outcome.error = words(translate(refusal, what=f"writing {load.table.name}"))
    return outcome


def _copies_that_fit(
    connection: psycopg.Connection, load: TableLoad, refusal: psycopg.Error
) -> Outcome:
    """Without a key nothing says which row here is the older version of a row that collides."""
    merge = load.merge
    try:
        outcome = _counted(connection, load, [merge.insert_missing_copies(skip_conflicts=True)])
    except _NO_ON_CONFLICT:
        raise refusal from None
    outcome.skipped = differences(connection, merge)[0]
    outcome.note = _COLLIDE.format(outcome.skipped)
    outcome.error = words(translate(refusal, what=f"writing {load.table.name}"))
    return outcome


def _after_setting_aside(
    connection: psycopg.Connection,
    load: TableLoad,
    aside: _SetAside,
    refusal: psycopg.Error,
    *,
    may_delete: bool,
) -> Outcome:
    merge = load.merge
    if aside.rows:
        try:
            return _counted(connection, load, merge.merge())
        except _MOVED:
            pass
    if not may_delete:
        raise refusal
    try:
        outcome = _counted(connection, load, merge.replace())
    except _MOVED as exc:
        refusal = exc
    else:
        outcome.note = "unique values moved between rows: rows were replaced"
        return outcome
    try:
        return _write_what_fits(connection, load, aside)
    except _NO_ON_CONFLICT:
        raise refusal from None


class _SetAside:
    """Staged rows that can't be written: taken out of the stage, and counted."""

    def __init__(self, connection: psycopg.Connection, merge: Merge) -> None:
        self._connection = connection
        self._merge = merge
        self.rows = 0
        self.kept = 0

    def take(self, query: str) -> int:
        """Sets the rows aside that the query names."""
        return self.put(_column(self._connection, query))

    def put(self, places: Sequence[str]) -> int:
        if places:
            array = "'{" + ",".join(f'"{place}"' for place in places) + "}'::tid[]"
            count, forget = self._merge.set_aside(array)
            self.kept += int(_column(self._connection, count)[0])
            self._connection.execute(forget.encode())
            self.rows += len(places)
        return len(places)


def _write_what_fits(connection: psycopg.Connection, load: TableLoad, aside: _SetAside) -> Outcome:
    """Writes all rows but those that collide with rows that stay.

    A row that is refused keeps its old version here, and that version may be in the way of
    another: so each round begins anew without the rows that the last one refused.
    """
    merge = load.merge
    for number in range(_ROUNDS):
        if number == _ROUNDS - 1:  # a long chain: what differs here stays as it is
            aside.take(merge.differing())
        with connection.transaction():
            outcome = _counted(connection, load, merge.replace(skip_conflicts=True))
            refused = _column(connection, merge.refused())
            if refused:
                raise psycopg.Rollback
        if not refused:
            return outcome
        aside.put(refused)
    return _counted(connection, load, merge.replace(skip_conflicts=True))


def _column(connection: psycopg.Connection, query: str) -> list[Any]:
    return [row[0] for row in connection.execute(query.encode()).fetchall()]


def _counted(connection: psycopg.Connection, load: TableLoad, statements: Sequence[str]) -> Outcome:
    """Runs the statements in a savepoint, and counts by the server's own statistics.

    A row that was deleted and inserted anew counts as updated.
    """
    with connection.transaction():
        before = _tuple_counts(connection, load.table.oid)
        for statement in statements:
            connection.execute(statement.encode())
        after = _tuple_counts(connection, load.table.oid)
        _check_deferrable(connection, load)
    inserted, updated, deleted = (b - a for a, b in zip(before, after, strict=True))
    return Outcome(inserted=inserted - deleted, updated=updated + deleted)


def _tuple_counts(connection: psycopg.Connection, oid: int) -> tuple[int, int, int]:
    row = connection.execute(
        "SELECT pg_catalog.pg_stat_get_xact_tuples_inserted(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_updated(%(oid)s::bigint::oid),"
        " pg_catalog.pg_stat_get_xact_tuples_deleted(%(oid)s::bigint::oid)",
        {"oid": oid},
    ).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def _check_deferrable(connection: psycopg.Connection, load: TableLoad) -> None:
    """A deferrable key is checked by a trigger, and the replica role keeps triggers quiet."""
    cursor = psycopg.RawCursor(connection)
    keys = cursor.execute(queries("catalog")["deferrable_keys"], (load.table.oid,)).fetchall()
    for name, columns in keys:
        listed = ", ".join(columns)
        found = _column(connection, load.merge.twice(columns))
        if found:
            raise pg.UniqueViolation(
                f'({listed})={found[0]} would be twice in the deferrable constraint "{name}"'
            )


def _would_cascade(load: TableLoad) -> psycopg.Error:
    return pg.InsufficientPrivilege(
        f"rows of {load.table.name} have to be deleted and inserted again, and a foreign key of "
        "another table would then delete or change rows there (ON DELETE); this role would have "
        "to be allowed to keep it quiet: GRANT SET ON PARAMETER session_replication_role TO it"
    )


def differences(connection: psycopg.Connection, merge: Merge) -> tuple[int, int, int]:
    """Staged rows that are missing in the table, that differ there, and rows only there."""
    row = connection.execute(merge.verify().encode()).fetchone()
    assert row is not None
    return (row[0], row[1], row[2])


def verify_table(connection: psycopg.Connection, load: TableLoad, outcome: Outcome) -> int:
    """How many rows are only here. Raises VerifyFailed unless every staged row is here, equal.

    A MERGE that wrote nothing has compared every row already: only the count is missing.
    """
    merge = load.merge
    wrote = outcome.inserted or outcome.updated or outcome.skipped
    if not wrote and merge.key is not None:
        return int(_column(connection, merge.count_target())[0]) - load.rows
    missing, differing, target_only = differences(connection, merge)
    if missing + differing > (outcome.skipped if merge.key is None else 0):
        raise VerifyFailed(
            f"{load.table.name}: after the restore {missing} rows are missing and {differing} "
            "differ from what the source sent; everything was rolled back",
            hint="A trigger, a rule or a generated column here may change rows as they are "
            "written. Run peersync check, and report this if it finds nothing.",
        )
    return target_only - outcome.kept


def words(error: PeersyncError) -> str:
    """What a person needs: what was done, the database's words, what to do."""
    code = error.data.get("sqlstate")
    detail = (error.detail or "").removeprefix(f"{code}: ")
    said = [error.message, *(line for line in detail.splitlines() if line not in error.message)]
    hint = _HINTS.get(str(code)) or error.hint
    return "\n".join([*said, *([f"hint: {hint}"] if hint else [])])
